"""The instances of a model, each on one device.

An `Instance` lives as long as its model is served. It loads an executor, warms it up (which gives
the scheduler its first service times), checks its health while it is up, and replaces it when a
call hangs. Each executor that it has loaded so far is one incarnation.
"""
