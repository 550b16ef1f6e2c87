"""The asyncio shell of the core: feeds the scheduler events and carries out its commands.

`runner` owns the scheduler and every pending request; it is the only caller of `Scheduler.handle`.
Around it, from the top down:

- `models`: what is served, its versions, loading, unloading and reloading.
- `instances`: executors that are loaded, warmed up, checked, and replaced when they hang.
- `execution`: the only place that touches tensors; gathers a batch, executes it on a thread or on
  the event loop, and cuts the replies out of the result.
- `interface`: what a loaded model takes and gives; validates requests, pads variable axes.
- `health` works out one report of the server and its models for every surface that tells it.
"""
