"""The executors that come with the server.

`emulated` takes the time that a device would take. `remote` is what executors share that send batches on
to another server. `threaded` is the thread that every blocking executor runs on, `isolated` the child process
that any executor may run in. `input_buffers` keeps the memory that an executor gives for its inputs.
"""
