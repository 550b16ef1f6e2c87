"""Instances, the devices they share, and the batches that run on them.

`fleet.Fleet` knows which instance runs which batch (`instances`), which one to use next, and when the
slots of a model are free (`slots`). Where a device has a limit, models share its slots: `sharing` keeps
account of that. `prefetch` says when an instance may get its next batch before it is free.

This package knows neither queues nor policies, and settles no request. It does not choose batches.
"""
