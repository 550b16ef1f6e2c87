"""Predicts how long a batch takes, from every batch that ran.

One estimator (`estimator.ServiceTimes`) serves one model and padding bucket. It combines four estimates
that change at different speeds:

    time of b rows = curve[b] * drift + handling           the instance is busy
    expected       = time + b * reply                      all answers have left
    p95            = time * margin + b * reply

`curve` (with `fitting`) is a batch's own time by number of rows, `drift` a factor for a device that
became slower or faster. Both learn from what was measured on the instance itself. What lies around it
(`handling`: event loop, threads, replies) is the machine's and is told apart, so that its stalls do not
look like a slow device. The margin is a quantile of how much longer batches took (`recent`).
`outliers` holds samples back until it is known which of these they belong to.

This package knows rows and nanoseconds. It does not know requests, queues, policies or devices.
"""
