"""A generated data set whose truth is known: ``python -m datamodules.demo OUT``.

Every image is a natural-looking background (coloured 1/f noise, a gradient, soft blobs) with two
kinds of things on it:

- Textures: two or three round patches of 26 to 30 px, all of the image's class. A class is a warm
  colour, a cool one and a pattern; each is in three classes, and any two of them tell the class. One
  texture alone gives the class.
- Distractors: two plain marks in one of those colours, more than 33 px apart. Their own class, the
  relation (row, column, rising, falling), cannot be seen by any patch of a BagNet-33; it and the
  marks' colour are independent of the image's class.

The boxes of both stand in ``planted.json`` beside the shards, so that evidence can be checked
against the truth.
"""
