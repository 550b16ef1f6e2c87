"""What is known of a server from the events so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from batcher.cli.live.client import Event

HISTORY: Final = 300
"""Seconds that are kept: as many as the server sends."""

LEVELS: Final = ("ok", "notice", "warning", "critical")

Values = Mapping[str, Any]


@dataclass(slots=True)
class LiveState:
    """The last event, and each model's last five minutes. `trouble` says why there is no newer one."""

    values: dict[str, Any] | None = None
    received_s: float = 0.0
    """When the last event came, on a monotonic clock."""
    trouble: str = ""
    restarted: bool = False
    """Whether the server that is seen now is another one than at first."""
    _number: int = 0
    _ages: dict[tuple[str, str], list[float | None]] = field(default_factory=dict)

    def take(self, event: Event, now_s: float) -> None:
        """Show this event from now on."""
        values = event.values
        if "history" in values:
            before = self.values
            if before is not None and _start(before) != _start(values):
                self.restarted = True
            self._ages = {
                (each["name"], each["version"]): list(each["age_seconds"])
                for each in values["history"]
            }
        else:
            skipped = min(HISTORY, max(0, event.number - self._number - 1))
            for model in values["models"]:
                self._add(model, skipped)
        self.values, self._number, self.received_s, self.trouble = values, event.number, now_s, ""

    def ages(self, model: Values) -> Sequence[float | None]:
        """The highest age of the model's oldest request, second by second."""
        return self._ages.get((model["name"], model["version"]), ())

    def models(self) -> list[dict[str, Any]]:
        """The models, those with the worst problems first."""
        models: list[dict[str, Any]] = list((self.values or {}).get("models", ()))
        return sorted(models, key=lambda model: -LEVELS.index(model["level"]))

    def name(self, model: Values) -> str:
        """What the model is called, with its version where that tells something."""
        names = [each["name"] for each in (self.values or {}).get("models", ())]
        name, version = str(model["name"]), str(model["version"])
        return f"{name}/{version}" if names.count(name) > 1 or version not in {"", "1"} else name

    def _add(self, model: Values, skipped: int) -> None:
        if model.get("second") is None:
            return
        ages = self._ages.setdefault((model["name"], model["version"]), [])
        ages += [*[None] * skipped, model["second"]["age_seconds"]]
        del ages[:-HISTORY]


def _start(values: Values) -> object:
    return values["server"].get("start_id")
