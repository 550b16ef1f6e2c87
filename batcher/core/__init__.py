"""The scheduler: a pure state machine.

Events go in, commands come out, time is an argument. Nothing here knows asyncio, gRPC, a clock, a
thread, a log or a random number, so the same object runs under asyncio in production and under
virtual time in the simulator. A payload never enters; the core sees ids and measures. The core
alone ends a request: each one is named by exactly one `Settle` command.
"""
