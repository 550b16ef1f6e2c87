"""What the executors that forward batches to another server share.

`channel` makes gRPC channels that notice a server that is gone, and find one that is back. `headers`
are the fixed headers of every call, whose values may come from files. `statuses` says which cause of
an `ExecutionError` a gRPC status is, `watching` follows the health of the neighbor, `deadlines` is how
long a call may take. `tensor_options` are inputs and outputs that the configuration declares. For JSON there are
`json_values`, `rows` (which of a batch JSON can carry) and `instances` (KServe's protocol, version 1).

The words: the *neighbor* is the server that executes the model. A *refusal* is an answer by which the
neighbor says that it did not execute the batch; it is never a reason to execute parts of it again.
"""
