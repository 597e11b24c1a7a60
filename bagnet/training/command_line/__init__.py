"""From the words of a command to a Trainer.

Here: the short flags, LightningCLI with our defaults, and the settings of Lightning's Trainer.
Not here: commands that do not train (`bagnet.predict`, `bagnet.export`).
"""
