"""The executors that come with the server.

`emulated` takes the time that a device would take. `remote` is what executors share that send batches on
to another server. `threaded` is the thread that every blocking executor runs on.
"""
