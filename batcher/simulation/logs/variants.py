"""From `--set` and `--policy` on the command line to the variants that a what-if plays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from batcher.config import changed_model, sections_in_force
from batcher.core.settings import ModelSettings
from batcher.errors import InputError
from batcher.simulation.logs.generations import model_of
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

    A setting that is assigned keeps that value, whatever the log changes; the others follow the log.
    `sections` holds the configuration of each model, whose generations are all meant. Raises `ConfigError` for an assignment that is
    wrong, and `InputError` for a model without a configuration. `Variant.settings` raises `ConfigError`
    where settings of the log and an assignment contradict each other.
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
        policy.settings(assign(model, settings)) if model_of(model) in models else settings
    )


def _assigned(
    sections: Mapping[str, Mapping[str, Any]], models: Collection[str], assignments: Sequence[str]
) -> Change:
    """A function that applies the assignments to a model's settings at any moment of the log."""
    if not assignments:
        return lambda _model, settings: settings
    for model in models:
        if model not in sections:
            raise InputError(
                f"--set: the log does not say how {model} was configured; choose other models"
                " (--model), or leave out --set"
            )
        changed_model(sections[model], assignments)

    def change(model: str, settings: ModelSettings) -> ModelSettings:
        now = sections_in_force(sections[model_of(model)], settings)
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
