"""Batches that fail as a whole: which of their requests run again, together, and which have failed.

`bisection` halves a failed batch until the failing request is found, and stops while everything fails.
`batch_cap` keeps batches small while single requests make their batches fail, so that few fail.

This package says what runs again and what has failed, in parts of requests. It ends no request and
touches no queue and no instance: `requests.failed_batches` does, and `batching.retries` runs suspects.
"""
