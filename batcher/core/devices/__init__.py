"""Instances, the devices that they share, and the batches that run on them; prefetched batches.

Nothing here knows a queue or a policy.
"""
