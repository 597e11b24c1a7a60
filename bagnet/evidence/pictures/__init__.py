"""Pictures of evidence, drawn with matplotlib.

Here: heatmaps, contact sheets and sheets of patches. Not here: how evidence is computed
(`bagnet.evidence`), the HTML report (`bagnet.evidence.report`), or the charts of an experiment
(`bagnet.experiments`).
"""
