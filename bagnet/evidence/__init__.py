"""Which patches decide.

Here: the evidence of every patch (`maps`) and around every pixel (`dense`), how evidence becomes
logits (`aggregation`), what no attack can change (`certificates`), pictures (`pictures`) and the
HTML report (`report`). Not here: measurements over a whole validation set (`bagnet.experiments`).
"""
