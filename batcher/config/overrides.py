"""The sections `batching` and `queue` of a model: from settings, and with some values changed.

A command line changes values as `batching.target_p99=40ms`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from batcher.config.edit import edited
from batcher.config.model import ModelConfig
from batcher.config.policies import policy_section
from batcher.config.units import format_duration, format_size
from batcher.core.settings import ModelSettings
from batcher.errors import ConfigError

SECTIONS: Final = ("batching", "queue")
"""The sections that can be changed."""

_FORM: Final = re.compile(rf"\s*({'|'.join(SECTIONS)})\.[^=]+=.*", re.DOTALL)
_ALLOWED: Final = " or ".join(f"{name}.KEY=VALUE" for name in SECTIONS)


def changed_model(sections: Mapping[str, Any], assignments: Sequence[str]) -> ModelConfig:
    """A model with these sections and assignments (`PATH=VALUE`, the value as YAML has it).

    Raises `ConfigError` with every problem found, of form first.
    """
    malformed = [text for text in assignments if not _FORM.fullmatch(text)]
    if malformed:
        example = "such as batching.target_p99=40ms"
        raise ConfigError([f'got "{text}"; allowed: {_ALLOWED}, {example}' for text in malformed])
    document: dict[str, Any] = {"name": "model", "executor": "any"}
    document |= {name: deepcopy(sections.get(name, {})) for name in SECTIONS}
    pairs = [text.partition("=") for text in assignments]
    return edited(document, [(path.strip(), value) for path, _, value in pairs])


def sections_of(settings: ModelSettings) -> dict[str, dict[str, Any]]:
    """Sections that make these settings, every key written out but for those nothing reads."""
    queue = settings.queue
    return {
        "batching": {
            "max_batch_size": settings.max_batch_size,
            **({"batch_sizes": list(settings.batch_sizes)} if settings.batch_sizes else {}),
            "target_p99": _text(settings.target_ns, format_duration),
            **policy_section(settings.policy, settings.target_ns),
        },
        "queue": {
            "max_requests": queue.max_requests,
            "max_groups": queue.max_groups,
            "max_batches_per_request": queue.max_batches_per_request,
            "max_rows": queue.max_rows,
            "max_bytes": _text(queue.max_bytes, format_size),
            "timeout": _text(queue.timeout_ns, format_duration),
            "allow_timeout_override": queue.allow_timeout_override,
            "priority_levels": queue.priority_levels,
            "default_priority": queue.default_priority,
            "promote_after": format_duration(queue.promote_after_ns),
            "tenants": dict(queue.tenants),
        },
    }


def sections_in_force(
    sections: Mapping[str, Any], settings: ModelSettings
) -> dict[str, dict[str, Any]]:
    """The sections of a model that has these settings by now, where it began with `sections`.

    What did not change stays as it was written, also where it was left out. Raises `ConfigError`
    where `sections` are wrong.
    """
    began = sections_of(changed_model(sections, ()).scheduler_settings())
    now = sections_of(settings)
    found: dict[str, dict[str, Any]] = {}
    for name in SECTIONS:
        keys = found[name] = dict(sections.get(name, {}))
        for key in began[name] | now[name]:
            if key not in now[name]:
                keys.pop(key, None)
            elif key not in began[name] or began[name][key] != now[name][key]:
                keys[key] = now[name][key]
    return found


def _text(value: int | None, formatted: Callable[[int], str]) -> str | None:
    return None if value is None else formatted(value)
