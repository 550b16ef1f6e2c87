"""Where requests wait, as plain data: the request's record, the queue and its batch groups, tenants, expiry.

Nothing here decides anything or knows a model, a policy or a device. What is in a queue is changed by
`requests` (admission, promotion, splitting) and taken out by the scheduler.
"""
