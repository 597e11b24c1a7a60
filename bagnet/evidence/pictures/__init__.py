"""Pictures of evidence, drawn with matplotlib.

Here: heatmaps, contact sheets and sheets of patches. Not here: how evidence is computed (`bagnet.evidence`), or the HTML
page (`bagnet.evidence.report`).
"""
