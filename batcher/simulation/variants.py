"""From what a command line asks for to the settings that a what-if tries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from batcher.config import changed_model
from batcher.core.settings import ModelSettings
from batcher.errors import InputError
from batcher.simulation.policies import CONFIGURED, NamedPolicy
from batcher.simulation.whatif import Variant

Change = Callable[[str, ModelSettings], ModelSettings]


def variants(
    sections: Mapping[str, Mapping[str, Any]],
    models: Collection[str],
    assignments: Sequence[str],
    policies: Sequence[NamedPolicy],
) -> list[Variant]:
    """One variant for each policy, all with the assignments, of `models` alone.

    `sections` says how each model was configured. Raises `ConfigError` for an assignment that is
    wrong, and `InputError` for a model of which nothing is said.
    """
    assign = _assigned(sections, models, assignments)
    made = []
    for policy in policies:
        parts = [] if policy.name == CONFIGURED and assignments else [policy.name]
        name = ", ".join([*parts, *assignments])
        made.append(Variant(name, _changing(models, assign, policy), policy.factory))
    return made


def _changing(models: Collection[str], assign: Change, policy: NamedPolicy) -> Change:
    return lambda model, settings: (
        policy.settings(assign(model, settings)) if model in models else settings
    )


def _assigned(
    sections: Mapping[str, Mapping[str, Any]], models: Collection[str], assignments: Sequence[str]
) -> Change:
    """What the assignments change of a model's settings, whatever these have become since."""
    if not assignments:
        return lambda _model, settings: settings
    pairs: dict[str, tuple[ModelSettings, ModelSettings]] = {}
    for model in models:
        if model not in sections:
            raise InputError(f"--set: the log does not say how {model} was configured")
        before = changed_model(sections[model], ())
        after = changed_model(sections[model], assignments)
        pairs[model] = before.scheduler_settings(), after.scheduler_settings()

    def change(model: str, settings: ModelSettings) -> ModelSettings:
        before, after = pairs[model]
        changed = merged(settings, before, after)
        assert isinstance(changed, ModelSettings)  # noqa: S101 - it is of the type of `settings`
        return changed

    return change


def merged(value: Any, before: Any, after: Any) -> Any:
    """`value`, with what differs between `before` and `after` as `after` has it."""
    if before == after:
        return value
    alike = type(value) is type(before) is type(after)
    if alike and is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{
                each.name: merged(*(getattr(v, each.name) for v in (value, before, after)))
                for each in fields(value)
            },
        )
    return after
