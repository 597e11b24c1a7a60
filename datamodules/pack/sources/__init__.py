"""Where images to pack come from.

Here: a module per kind of source, each of which is a command, and what they share: shards' paths
and URLs, tar files, and the list of images that they produce. Not here: writing shards.
"""
