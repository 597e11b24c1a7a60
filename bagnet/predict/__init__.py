"""`train.py predict`: the classes of a user's own images, in a table.

Here: the command, the images that it reads, and the rows of the table. Not here: the evaluation on
packed data, whose true classes are known (`bagnet.training`), or a page that shows the votes of all
patches (`bagnet.evidence.report`).
"""
