"""The options of `batcher simulate`: from text to what the simulation takes.

Every error is an `InputError` that names the option, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from batcher.config import Config
    from batcher.simulation.engine.scenario import Costs
    from batcher.simulation.engine.simulation import Conditions
    from batcher.simulation.traffic.arrivals import Closed, Process
    from batcher.simulation.traffic.workload import Traffic

Parsed = TypeVar("Parsed")


def read(option: str, text: str, parse: Callable[[str], Parsed]) -> Parsed:
    """The value of an option, parsed. An `InputError` gets the name of the option."""
    from batcher.errors import InputError

    try:
        return parse(text)
    except InputError as error:
        raise InputError(f"{option}: {error}") from None


def read_duration(option: str, text: str | None, *, or_zero: bool = False) -> int | None:
    """Nanoseconds above 0, or 0 where it may be."""
    from batcher.config import parse_duration
    from batcher.errors import InputError

    if text is None:
        return None
    try:
        duration_ns = parse_duration(text)
    except ValueError as error:
        raise InputError(f"{option}: got {text!r}; allowed: {error}") from None
    if not duration_ns and not or_zero:
        raise InputError(f"{option}: got {text!r}; allowed: longer than 0")
    return duration_ns


def read_arrivals(text: str) -> Process | Closed:
    """An arrival process, or the trace in a file."""
    from batcher.simulation.traffic.arrivals import is_process, parse_process
    from batcher.simulation.traffic.traces import read_trace

    path = Path(text)
    if is_process(text) or not (path.exists() or path.suffix or "/" in text):
        return read("--arrivals", text, parse_process)
    return read("--arrivals", text, lambda name: read_trace(Path(name)))


def read_traffic(
    config: Config, models: str | None, rows: str, tenants: str | None, priorities: str
) -> Traffic:
    """Models, rows, tenants and priorities of the requests."""
    from batcher.errors import InputError
    from batcher.simulation.engine.scenario import model_names, models_of
    from batcher.simulation.traffic.workload import Mix, Traffic, parse_mix, parse_whole_mix

    wanted = models_of(config, None if models is None else read("--model", models, parse_mix))
    sizes = read("--rows", rows, lambda text: parse_whole_mix(text, least=1))
    known = model_names(config)
    for name in wanted.values:
        most = known[name].scheduler_settings().max_request_rows
        if max(sizes.values) > most:
            raise InputError(
                f"--rows: got {rows!r}; allowed: at most {most}"
                f" (max_batch_size x queue.max_batches_per_request of {name})"
            )
    unnamed = Mix(("",), (1.0,))
    return Traffic(
        wanted,
        sizes,
        unnamed if tenants is None else read("--tenants", tenants, parse_mix),
        read("--priorities", priorities, lambda text: parse_whole_mix(text, least=0)),
    )


def read_costs(tables: list[str], profile: Path | None, noise: str | None) -> Costs:
    """Service times of batches."""
    from batcher.simulation.engine.profile import read_object, read_profile
    from batcher.simulation.engine.scenario import Costs
    from batcher.simulation.engine.service_time import parse_noise, table_of

    found: dict[str, dict[int, int]] = {}
    for text in tables:
        name, equals, file = text.rpartition("=")
        found[name if equals else ""] = table_of(read_object(Path(file)), file)
    return Costs(
        found,
        {} if profile is None else read_profile(profile),
        None if noise is None else read("--noise", noise, parse_noise),
    )


def read_conditions(
    slowdowns: list[str],
    timer_delay: str | None,
    deadline: str | None,
    reply_time: str | None,
    batch_gap: str | None,
    *,
    cold: bool,
) -> Conditions:
    """Delays, slowdowns and the patience of callers."""
    from batcher.simulation.engine.service_time import parse_slowdown, parse_timer_delay
    from batcher.simulation.engine.simulation import Conditions

    return Conditions(
        slowdowns=tuple(read("--slowdown", text, parse_slowdown) for text in slowdowns),
        timer_delay=None
        if timer_delay is None
        else read("--timer-delay", timer_delay, parse_timer_delay),
        deadline_ns=read_duration("--deadline", deadline),
        cold=cold,
        reply_ns=read_duration("--reply-time", reply_time) or 0,
        batch_gap_ns=read_duration("--batch-gap", batch_gap) or 0,
    )


def read_rates(rate: str | None, load: str | None, capacity: float) -> tuple[float | None, ...]:
    """Requests a second; None keeps the rate of the arrivals."""
    from batcher.errors import InputError

    if rate is not None and load is not None:
        raise InputError(f"got --rate {rate} and --load {load}; allowed: one of them")
    if rate is not None:
        return tuple(_numbers("--rate", rate, "requests a second above 0, as 800 or 800,1200"))
    if load is not None:
        shares = _numbers("--load", load, "shares of capacity above 0, as 0.8 or 0.5,0.8,1.0")
        return tuple(share * capacity for share in shares)
    return (None,)


def _numbers(option: str, text: str, allowed: str) -> list[float]:
    from math import isfinite

    from batcher.errors import InputError

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [0.0]
    if not all(isfinite(number) and number > 0 for number in numbers):
        raise InputError(f"{option}: got {text!r}; allowed: {allowed}")
    return numbers
