"""The one report of whether the server and each of its models can serve.

`/readyz`, `grpc.health.v1`, `ServerReady`, `ModelReady`, `RepositoryIndex` and the metrics all read
this `HealthReport`. Code that changes what it depends on calls `Health.changed`, which notifies the
watchers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

log = logging.getLogger(__name__)


class ModelState(StrEnum):
    """A model's state; `UNREADY`: loaded, but all its instances are down or unhealthy."""

    LOADING = "loading"
    READY = "ready"
    UNREADY = "unready"
    FAILED = "failed"
    UNLOADED = "unloaded"


class InstanceState(StrEnum):
    """The states of an instance."""

    LOADING = "loading"
    UP = "up"
    UNHEALTHY = "unhealthy"
    """It is loaded and runs batches, but is not well."""
    RESTARTING = "restarting"
    """It was lost, and a replacement is loaded, or will be after a pause."""
    FAILED = "failed"
    """It was lost, and stays down: no replacement is loaded."""
    STOPPED = "stopped"
    """It was closed."""


@dataclass(frozen=True, slots=True)
class InstanceHealth:
    """An instance's number, its state, and why it is not `UP` (empty if it is)."""

    number: int
    state: InstanceState
    why: str = ""


def why_unwell(instances: Sequence[InstanceHealth]) -> str:
    """Why instances are not up, or not well; empty if all are. One of several is named by its number."""
    if len(instances) == 1:
        return instances[0].why
    return "; ".join(
        [f"instance {each.number} is {each.state}: {each.why}" for each in instances if each.why]
    )


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """Whether one model can serve, and the reason if it cannot.

    A model that is ready has a reason, too, while another generation of it is being loaded and after
    that load has failed.
    """

    name: str
    version: str
    ready: bool
    reason: str = ""
    state: ModelState = ModelState.READY
    required: bool = True
    """Whether the server is ready only while this model is."""
    instances: tuple[InstanceHealth, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Whether the server is ready for traffic, and the reason if it is not.

    `live` is False when only a restart of the process helps.
    """

    ready: bool
    models: tuple[ModelHealth, ...] = ()
    reason: str = ""
    live: bool = True
    ending: bool = False
    """Whether new requests are refused, whatever the state of the models."""


class HasHealth(Protocol):
    """What `Health` needs of a model."""

    @property
    def health(self) -> ModelHealth:
        """Its state now."""
        ...


class Health:
    """The health of the server. Call every method on the event loop's thread."""

    def __init__(self) -> None:
        self._models: Iterable[HasHealth] = ()
        self._watchers: list[Callable[[HealthReport], None]] = []
        self._starting = True
        self._draining = False
        self._broken = ""

    def of(self, models: Iterable[HasHealth]) -> None:
        """Include the models of this collection in every report, as they are then."""
        self._models = models

    def watch(self, watcher: Callable[[HealthReport], None]) -> None:
        """Call `watcher` with the report, now and whenever it may have changed."""
        self._watchers.append(watcher)
        watcher(self.report())

    def started(self) -> None:
        """Note that the server has started."""
        self._starting = False
        self.changed()

    @property
    def ending(self) -> bool:
        """Whether new requests are refused: the server shuts down or is broken."""
        return self._draining or bool(self._broken)

    def drain(self) -> None:
        """Note that the server shuts down; it is never ready again."""
        self._draining = True
        self.changed()

    def broken(self, why: str) -> None:
        """Note that nothing can be served until the process is restarted."""
        self._broken = why
        self.changed()

    def changed(self) -> None:
        """Call the watchers. An exception of one of them is logged."""
        for watcher in self._watchers:
            try:
                watcher(self.report())
            except Exception:
                log.exception("internal error: a watcher of the server's health failed")

    def report(self) -> HealthReport:
        """The report of this moment.

        The server is ready when every model is that it was started with, except for models that an
        admin call unloaded, or that could not be loaded after that.
        """
        models = tuple(model.health for model in self._models)
        reason = ""
        unready = [
            m.name
            for m in models
            if m.required and not m.ready and m.state is not ModelState.UNLOADED
        ]
        if self._broken:
            reason = self._broken
        elif self._draining:
            reason = "draining"
        elif unready:
            reason = f"not ready: {', '.join(unready)}"
        elif self._starting:
            reason = "starting"
        return HealthReport(
            not reason,
            models,
            reason,
            live=not self._broken,
            ending=self.ending,
        )
