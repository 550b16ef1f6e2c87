"""The external scaler of KEDA: a small service that asks every replica of a fleet for its load.

One process serves some fleets. For each, a discovery (`discovery/`) lists the replicas, and a poller asks
each of them for its load report once a second. A report is judged before it is believed, believed reports
are aggregated, and answers to KEDA come from the last aggregate: no caller ever waits for a replica.

What is not known is never taken for idle: docs/scaler.md has the rules.
"""
