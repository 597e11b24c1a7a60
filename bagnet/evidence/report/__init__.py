"""The report: one HTML file that shows which patches of some images decide.

Here: the command, the images it finds, what is shown of their votes, and the HTML, CSS and
JavaScript. Not here: figures as image files (`bagnet.evidence.pictures`), or the report of the
experiments (`bagnet.experiments.report`).
"""
