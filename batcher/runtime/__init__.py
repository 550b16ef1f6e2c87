"""The asyncio shell: feeds the scheduler events and carries out its commands.

`runner` owns the scheduler and every pending request; `dispatch` is the only place that touches
tensors; `instances` keeps executors loaded and replaces those that hang; `models` is what is served.
"""
