"""Which batch comes next: asks the policies, picks among the batches that are ready, fills padded ones.

Nothing here ends a request; what a policy gives up is handed back to the scheduler.
"""
