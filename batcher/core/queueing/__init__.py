"""Where requests wait, as plain data: the request, the queue, its batch groups and ranks, tenants, expiry.

Nothing here decides anything or knows a model, a policy or a device. `requests` and `handlers`
put requests in, move them and take them out.
"""
