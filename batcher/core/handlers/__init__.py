"""What `Scheduler.handle` does: one module for the events of each kind of thing, and the decision.

`requests`, `batches`, `instances` and `models` take in events; `decision` forms batches out of what
waits, and `dispatch` starts them. Each function changes `Contents` and leaves commands in its ledger.
"""
