"""Threads of executors that were abandoned, and have not returned."""

from __future__ import annotations

from typing import Protocol


class Hangs(Protocol):
    """What `AbandonedThreads` needs of a worker."""

    @property
    def hangs(self) -> bool:
        """Whether it was abandoned, and a thread is still in one of its calls."""
        ...


class AbandonedThreads:
    """Workers that were abandoned, by model, while their threads are still in a call."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, str], list[Hangs]] = {}

    def add(self, name: str, version: str, worker: Hangs) -> None:
        """Note a worker that was abandoned."""
        if worker.hangs:
            self._workers.setdefault((name, version), []).append(worker)

    def count(self, name: str, version: str) -> int:
        """How many of a model's threads have not returned, in all its generations."""
        workers = self._workers.get((name, version))
        if workers is None:
            return 0
        workers[:] = [each for each in workers if each.hangs]
        if not workers:
            del self._workers[name, version]
        return len(workers)
