"""Whether the server and each of its models can serve: worked out here, and told by every surface.

`/readyz`, `grpc.health.v1`, `ServerReady`, `ModelReady`, `RepositoryIndex` and the metrics all read one
`HealthReport`. Whoever changes something that it depends on calls `Health.changed`, and those who watch
are told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

log = logging.getLogger(__name__)


class ModelState(StrEnum):
    """What a model can do now; `UNREADY` is a loaded one whose instances are all down or not well."""

    LOADING = "loading"
    READY = "ready"
    UNREADY = "unready"
    FAILED = "failed"
    UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """Whether one model can serve; `reason` says why not, for a person."""

    name: str
    version: str
    ready: bool
    reason: str = ""
    state: ModelState = ModelState.READY


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Whether the server wants traffic; `reason` says why not, for a person.

    `live` is false where only another start of the process helps.
    """

    ready: bool
    models: tuple[ModelHealth, ...] = ()
    reason: str = ""
    live: bool = True
    ending: bool = False
    """Whether nothing new is taken in, however well the models are."""


class Watched(Protocol):
    """A model, as far as its health goes."""

    @property
    def health(self) -> ModelHealth:
        """What it can do now."""
        ...


class Health:
    """The one notion of health. Every method is called on the event loop's thread."""

    def __init__(self) -> None:
        self._models: Sequence[Watched] = ()
        self._watchers: list[Callable[[HealthReport], None]] = []
        self._starting = True
        self._draining = False
        self._broken = ""

    def of(self, models: Iterable[Watched]) -> None:
        """Report on these models from now on."""
        self._models = tuple(models)

    def watch(self, watcher: Callable[[HealthReport], None]) -> None:
        """Tell `watcher` now and whenever something may have changed."""
        self._watchers.append(watcher)
        watcher(self.report())

    def started(self) -> None:
        """Everything that a start needs was done."""
        self._starting = False
        self.changed()

    @property
    def ending(self) -> bool:
        """Whether nothing new is taken in: the server shuts down, or cannot go on."""
        return self._draining or bool(self._broken)

    def drain(self) -> None:
        """The server shuts down; it never wants traffic again."""
        self._draining = True
        self.changed()

    def broken(self, why: str) -> None:
        """Nothing can be served until the process is started again."""
        self._broken = why
        self.changed()

    def changed(self) -> None:
        """Tell those who watch. What one of them raises is logged: what has changed goes on."""
        for watcher in self._watchers:
            try:
                watcher(self.report())
            except Exception:
                log.exception("a change of health was not told")

    def report(self) -> HealthReport:
        """The health of this moment.

        Every model has to be ready, but for those that an admin call unloaded: nobody waits for them.
        """
        models = tuple(model.health for model in self._models)
        reason = ""
        unready = [m.name for m in models if not m.ready and m.state is not ModelState.UNLOADED]
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
