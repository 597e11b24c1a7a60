"""`train.py export`: a trained network as a file or folder for other programs.

Here: the command, the formats, the check of what was written, and the model card. Not here: reading
weights and writing a state dict (`bagnet.model`).
"""
