"""Batches that fail as a whole: bisection, the cap on batch size while requests fail, failure storms.

Nothing here ends a request or touches a queue; it says which parts run again and which have failed.
"""
