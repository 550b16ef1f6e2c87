"""A fleet whose replicas are the endpoints of a Service, as Kubernetes' API server lists them.

`account` is what a pod has to ask it: address, token, certificates. `api` sends requests with the library aiohttp
(the extra `scaler`). `slices` reads what comes, without I/O. `sliced` lists and watches.

A client of the whole API would bring some thousand classes for the one kind of object that is read here.
"""
