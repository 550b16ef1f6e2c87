"""An executor in a child process: what `isolation: process` runs, and how the two processes talk.

    server (event loop)                               child (a fresh interpreter)
    ProcessWorker  -- messages, Unix socket -->  `python -m batcher.executors.isolated`
          |                                                   |
          +------ memory of both: one memfd (`arena`) --------+

- `processes` starts children, kills them with their process groups, and reaps them, on one thread that
  lives as long as the server.
- `frames` cuts a stream of bytes into messages, `messages` says what they are, `values` carries the
  dataclasses of the contract in them, and `tensors` the arrays: small ones in the message, larger
  ones in the arena.
- `child` is the program of the child: `blocking` and `coroutines` run its executor.
- `replies` checks whatever a child says. It may be wrong in any way, because the code in it is
  foreign and may have overwritten any memory: a message that cannot be true raises `LyingChildError`,
  and the child is killed.

The child dies with the server: the kernel kills it (PR_SET_PDEATHSIG), and so does the end of its socket.
This is no sandbox: code that means harm can do in the child what the server's user may do.
"""
