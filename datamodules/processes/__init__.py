"""Processes that `datamodules` and `bagnet` start, and how they end.

Here: the fork server, pools with progress, ending with the parent, signals that are held back, and
what killed processes leave behind. Not here: what the processes do.
"""
