"""From what a command line asks for to the settings that a what-if tries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from batcher.config import changed_model, sections_in_force
from batcher.core.settings import ModelSettings
from batcher.errors import InputError
from batcher.simulation.logs.whatif import Variant
from batcher.simulation.policies.named import CONFIGURED, NamedPolicy

Change = Callable[[str, ModelSettings], ModelSettings]


def variants(
    sections: Mapping[str, Mapping[str, Any]],
    models: Collection[str],
    assignments: Sequence[str],
    policies: Sequence[NamedPolicy],
) -> list[Variant]:
    """One variant for each policy, all with the assignments, of `models` alone.

    What an assignment names is what it says all the time, whatever the log changes; the rest follows
    the log. `sections` says how each model was configured. Raises `ConfigError` for an assignment
    that is wrong, and `InputError` for a model of which nothing is said. What a variant makes of
    settings that the log changed to raises `ConfigError` where these do not go together with it.
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
    """What the assignments make of a model's settings, whatever these have become since."""
    if not assignments:
        return lambda _model, settings: settings
    for model in models:
        if model not in sections:
            raise InputError(f"--set: the log does not say how {model} was configured")
        changed_model(sections[model], assignments)

    def change(model: str, settings: ModelSettings) -> ModelSettings:
        now = sections_in_force(sections[model], settings)
        before, after = changed_model(now, ()), changed_model(now, assignments)
        changed = merged(settings, before.scheduler_settings(), after.scheduler_settings())
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
