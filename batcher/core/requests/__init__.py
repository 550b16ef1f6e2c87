"""What happens to a request between its arrival and its end: admission, promotion, splitting, failure.

Every request ends in `ledger`, with one `Settle`. Which batch a request goes into is decided in
`batching`, never here.
"""
