"""Predicts how long a batch takes, from every batch that ran.

One estimator (`estimator.ServiceTimes`) serves one model and padding bucket. It combines four estimates
that change at different speeds, each in a module of its own:

    batch time of b rows = curve[b] * drift          expected
    p95                  = curve[b] * drift * margin + b * reply time

`curve` (with `fitting`) is the time by number of rows, `drift` a factor for a device that became
slower or faster, `noise` gives the margin (a quantile of how much longer batches took), `reply_time`
what handing over the answers takes.
`outliers` holds samples back until it is known which of these they belong to. `canary` limits the
requests that run although their prediction says they will be late.

This package knows rows and nanoseconds. It does not know requests, queues, policies or devices.
"""
