"""Predicts what a batch takes, from every batch that ran, and lets canary requests test a prediction.

Nothing here knows a request: it is told rows and nanoseconds.
"""
