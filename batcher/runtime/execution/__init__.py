"""One batch on one instance: tensors in, tensors out.

`gather` puts the rows of a batch's requests into one array per input, `execute` calls the executor
and checks what it returns, `scatter` cuts each request's rows out, and `results` makes of that the
event for the scheduler and the replies. A `worker` decides where the executor runs: a blocking one
on a thread of its own (`thread_worker`) or on the event loop (`inline_worker`), one with coroutines on
the event loop (`loop_worker`), and any one in a child process (`process_worker`, `child_batches`).
"""
