"""Policies by the names that `--policy` takes.

A policy of the configuration file has the same name here. Baselines are entries of the same table:
a name, the settings of a model under it and, where the scheduler does not have it built in, the
factory of the policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from batcher.config import BatchingConfig, format_duration, parse_duration
from batcher.config.policies import POLICIES, limit_ns_of
from batcher.config.units import parse_limit
from batcher.core.policies import PolicyFactory, make_policy
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings
from batcher.errors import InputError
from batcher.simulation.policies.baselines import BASELINES, Nexus

CONFIGURED: Final = "configured"
"""Each model's own policy, as the configuration has it."""


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """One policy to simulate: its name in reports, the settings it needs, and how it is made."""

    name: str
    settings: Callable[[ModelSettings], ModelSettings]
    factory: PolicyFactory = make_policy


Reader: TypeAlias = Callable[[str, str], NamedPolicy]
"""Makes a policy from its whole spelling and from what follows the colon; raises ValueError."""


def _as_configured(spelling: str, _parameters: str) -> NamedPolicy:
    return NamedPolicy(spelling, lambda settings: settings)


def _greedy(spelling: str, _parameters: str) -> NamedPolicy:
    return NamedPolicy(spelling, _plain)


def _fixed(spelling: str, parameters: str) -> NamedPolicy:
    if not parameters:
        return _built_in("fixed")(spelling, "")
    window = FixedWindow(parse_duration(parameters))
    return NamedPolicy(spelling, lambda settings: replace(settings, policy=window))


def _adaptive(spelling: str, parameters: str) -> NamedPolicy:
    """With another limit, where the spelling names one; all else is the model's own."""
    configured = _built_in("adaptive")(spelling, "")
    if not parameters:
        return configured
    key, _, value = parameters.partition("=")
    if key != "limit":
        raise ValueError("limit=LIMIT")
    limit = parse_limit(value)

    def with_limit(settings: ModelSettings) -> ModelSettings:
        found = configured.settings(settings)
        assert isinstance(found.policy, Adaptive)  # noqa: S101 - by its name
        limit_ns = limit_ns_of(limit, settings.target_ns)
        return replace(found, policy=replace(found.policy, limit_ns=limit_ns))

    return NamedPolicy(spelling, with_limit)


def _built_in(name: str) -> Reader:
    """A policy of the configuration file: a model that has it keeps its own parameters."""
    entry = POLICIES[name]

    def with_policy(settings: ModelSettings) -> ModelSettings:
        target_ns = settings.target_ns
        batching = BatchingConfig.model_validate(
            {
                "policy": name,
                "max_batch_size": settings.max_batch_size,
                "target_p99": None if target_ns is None else format_duration(target_ns),
            }
        )
        wanted = entry.settings(batching)
        if isinstance(settings.policy, type(wanted)):
            return settings
        return replace(settings, policy=wanted)

    return lambda spelling, _parameters: NamedPolicy(spelling, with_policy)


def _baseline(name: str) -> Reader:
    """A baseline. The model gets plain settings, so that nothing of a built-in policy is in effect."""
    return lambda spelling, _parameters: NamedPolicy(spelling, _plain, BASELINES[name])


def _nexus(spelling: str, parameters: str) -> NamedPolicy:
    if not parameters:
        return NamedPolicy(spelling, _plain, Nexus)
    if not (parameters.isascii() and parameters.isdecimal() and int(parameters)):
        raise ValueError("BATCH a whole number from 1 on")
    batch = int(parameters)
    return NamedPolicy(spelling, _plain, lambda settings: Nexus(settings, batch))


def _plain(settings: ModelSettings) -> ModelSettings:
    return replace(settings, policy=FixedWindow())


_READERS: Final[dict[str, tuple[str, Reader]]] = {
    CONFIGURED: (CONFIGURED, _as_configured),
    **{name: (name, _built_in(name)) for name in POLICIES},
    "adaptive": ("adaptive[:limit=LIMIT]", _adaptive),
    "fixed": ("fixed[:DELAY]", _fixed),
    "greedy": ("greedy", _greedy),
    **{name: (name, _baseline(name)) for name in BASELINES},
    "nexus": ("nexus[:BATCH]", _nexus),
}
"""Spelling and reader of every policy, by name."""


def policy_spellings() -> list[str]:
    """How each policy is written."""
    return [spelling for spelling, _ in _READERS.values()]


def parse_policy(text: str) -> NamedPolicy:
    """A policy by its name, `fixed:2ms` with its parameter. Raises `InputError`."""
    name, colon, parameters = text.partition(":")
    known = _READERS.get(name)
    try:
        if (
            known is not None
            and (bool(parameters) == bool(colon))
            and (":" in known[0] or not colon)
        ):
            return known[1](text, parameters)
    except ValueError as error:
        raise InputError(
            f"got {text!r}; allowed: {known[0] if known else ''}, with {error}"
        ) from None
    raise InputError(f"got {text!r}; allowed: {', '.join(policy_spellings())}")
