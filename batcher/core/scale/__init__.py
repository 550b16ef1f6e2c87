"""How much is offered, over what can be served inside the target: what an autoscaler scales on.

`offered` counts what arrives, whatever becomes of it, `capacity` says what can be served, `load` puts both
together for each model and device. Nothing here decides anything: the scheduler works the same without it.
"""
