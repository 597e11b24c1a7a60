"""What networks decide, on images as they are and on changed ones.

Here: accuracy and calibration, errors class by class, corruptions, scrambled images, interactions
between parts; and the ways to change an image that only these need (textures, tiles).
Not here: what a BagNet's evidence shows (`explanations`).
"""
