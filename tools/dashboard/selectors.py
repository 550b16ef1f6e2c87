"""Label matchers of the variables, and the sets of scenes in which queries have data."""

from __future__ import annotations

FLEET = 'namespace=~"$namespace",job=~"$job"'
"""Everything of the fleet, and what is recorded for it."""
MODEL = f'{FLEET},model=~"$model"'
"""What is recorded for each model."""
REPLICA = f'{FLEET},instance=~"$replica"'
"""Series of servers."""
SERVED = f'{REPLICA},model=~"$model"'
"""Series of models of servers."""
SCALER = 'job=~"$scaler",fleet=~"$fleet"'
"""Series of `batcher scaler`. It may run in another namespace."""

RATE = "$__rate_interval"

TRAFFIC = frozenset({"normal", "overload", "stalled", "dead", "scaler-dead", "lost-device"})
"""Scenes in which a replica answers requests in the fault."""
RUNS = TRAFFIC | {"idle"}
"""Those in which a replica can be scraped."""
SCALES = frozenset({"normal", "dead", "all-dead"})
"""Those with a scaler that runs."""
GPU = frozenset({"normal", "lost-device"})
"""Those with a GPU that is known."""
EVERY = RUNS | {"all-dead"}
REFUSED = frozenset({"overload", "stalled"})
"""Those in which requests are refused in the fault, and a replica can be scraped."""
ALL_DEAD = frozenset({"all-dead"})
"""What is gone counts for a while, so its load may still be known in the fault."""
STRAY_SHARE, STRAY_RATE = 0.1, 3.0
"""Of requests, and of requests a second, that a machine that stands still makes late or lets be refused."""


def by_replica(expr: str) -> str:
    """The query with a label `replica`: the pod, or the address without Kubernetes. It has `instance` and `pod`."""
    address = f'label_replace({expr}, "replica", "$1", "instance", "(.+)")'
    return f'label_replace({address}, "replica", "$1", "pod", "(.+)")'
