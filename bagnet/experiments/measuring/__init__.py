"""What the experiments share.

Here: measuring models image by image on several processes (`measure.py`), tables, figures,
statistics, attributions, and ways to change an image. Not here: anything that defines one
experiment.
"""
