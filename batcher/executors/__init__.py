"""Executors that come with `batcher`, and the wrapper that gives any blocking one its own thread.

`emulated` takes the place of a device that is not there. `threaded` runs one instance: blocking
calls on a thread of their own, results on the event loop.
"""
