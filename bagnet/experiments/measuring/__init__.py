"""What the experiments share.

Here: measuring networks image by image on several processes, tables, figures, statistics, and ways to change an image.
Not here: anything that only one experiment needs.
"""
