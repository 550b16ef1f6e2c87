"""The options of `batcher simulate --autoscale`: what they are, and from text to what a sweep takes.

Every error is an `InputError` that names the option, the value and what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batcher.cli.simulation_options import read_duration

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from batcher.autoscaling import HpaSettings, KedaSettings, Policy, ScalingRules
    from batcher.simulation.fleet import Scrape, Signal, StartUp

_PANEL = "Autoscaling (with --autoscale)"


def _option(*names: str, metavar: str, text: str) -> Any:
    return typer.Option(*names, rich_help_panel=_PANEL, metavar=metavar, help=text)


Autoscale = Annotated[
    bool,
    typer.Option(
        "--autoscale",
        rich_help_panel=_PANEL,
        help="Simulate a fleet of replicas that Kubernetes scales, once for each signal and set-point.",
    ),
]
Signals = Annotated[
    list[str] | None,
    _option(
        metavar="NAME",
        text="A signal to scale on: see below. Repeatable. [default: all]",
    ),
]
SetPoints = Annotated[
    list[str] | None,
    _option(
        "--set-points",
        metavar="SIGNAL=VALUES",
        text="What a replica's signal should be; several as `desired_ratio=0.6,0.8`. Repeatable."
        " [default: ten or so, from far too many replicas to too few]",
    ),
]
Replicas = Annotated[
    str,
    _option(metavar="MIN-MAX", text="The fewest and the most replicas. From 0 needs `--keda`."),
]
Start = Annotated[
    int | None,
    _option(metavar="N", text="Replicas at the start. [default: what the first five minutes need]"),
]
StartUpTime = Annotated[
    str,
    _option(
        metavar="TIME[:SPREAD]",
        text="From the decision for a replica until it is ready: image, load, warm-up. Each draws its own,"
        " SPREAD around the mean (`40s:0.3`).",
    ),
]
Balancer = Annotated[
    str,
    _option(
        metavar="NAME", text="`round_robin`, `least_request` (of two) or `orca` (by load reports)."
    ),
]
Sync = Annotated[str, _option(metavar="TIME", text="How often the HPA decides.")]
Tolerance = Annotated[
    str,
    _option(
        metavar="PART",
        text="The HPA changes nothing within this part of the set-point; `0.05:0.2` for up and down.",
    ),
]
ScaleUp = Annotated[
    str,
    _option(
        metavar="RULES",
        text="Window and policies of the HPA for more replicas: see below.",
    ),
]
ScaleDown = Annotated[
    str, _option(metavar="RULES", text="Window and policies of the HPA for fewer replicas.")
]
KedaTimes = Annotated[
    str | None,
    _option(
        "--keda",
        metavar="POLLING[:COOLDOWN]",
        text="Put KEDA on top, which scales to and from 0: `30s:300s` are its defaults.",
    ),
]
ScrapeTimes = Annotated[
    str,
    _option(
        metavar="INTERVAL[:DELAY]",
        text="How often replicas are read, and how old a reading is when it is known.",
    ),
]
RateWindow = Annotated[
    str,
    _option(metavar="TIME", text="Over how long `cpu` and `duty_cycle` are taken."),
]
Average = Annotated[
    str,
    _option(
        metavar="TIME",
        text="Scale on the mean of each replica's readings of this time, where they are no rates; `0s`: on the"
        " last one.",
    ),
]
Multiply = Annotated[
    int,
    _option(
        metavar="N",
        text="Requests for each one of a recorded trace, spread up to the next one: its rate over time"
        " keeps its shape, N times as high.",
    ),
]
CpuShare = Annotated[
    float,
    _option(
        metavar="PART",
        text="Of the time that batches run, the part in which a processor is busy with them, for `cpu`.",
    ),
]
Wait = Annotated[
    str | None,
    _option(
        metavar="TIME",
        text="How long callers wait where no replica is ready. [default: they fail at once]",
    ),
]

EPILOG = """
With `--autoscale` a fleet of replicas is simulated, each with the configured models, behind a load
balancer, under the algorithm of Kubernetes' HorizontalPodAutoscaler. It is run once for every
set-point of every signal; the table says what that costs (replica-hours) and brings (on time), and
marks what is worth having. One more process of arrivals fits it: `day:PEAK:LENGTH`, a synthetic day
with a slow wave, bursts and one step. Signals:

- `cpu`: processor time over what is requested. `duty_cycle`: part of the time in which any batch ran.

- `nvml_utilization`: the same over the last second, as a GPU tells it.

- `queue_requests`: requests that wait. `oldest_age`: age of the oldest unanswered one, seconds.

- `work_seconds`: predicted seconds for what waits. `desired_ratio`: offered over what fits the target.

RULES are a window and policies: `300s,10%/60s,2/60s,min` keeps what was highest in 300 s and takes away
at most the lesser of 10 % and 2 replicas a minute; `0s,100%/15s,4/15s` (up) and `300s,100%/15s` (down)
are Kubernetes' defaults; `max` (the greater) is the default, `disabled` forbids the direction.
"""


@dataclass(frozen=True, slots=True)
class AutoscaleOptions:
    """The texts of the options."""

    signals: Sequence[str]
    set_points: Sequence[str]
    replicas: str
    start: int | None
    start_up: str
    balancer: str
    sync: str
    tolerance: str
    scale_up: str
    scale_down: str
    keda: str | None
    scrape: str
    rate_window: str
    average: str
    multiply: int
    cpu_share: float
    wait: str | None


NAMES = (
    *("signal", "set_points", "replicas", "start", "start_up", "balancer", "hpa_sync", "tolerance"),
    *("scale_up", "scale_down", "keda", "scrape", "rate_window", "average", "multiply"),
    *("cpu_share", "wait"),
)
"""The options that need --autoscale, as parameters."""


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def refuse_without_autoscale(context: typer.Context) -> None:
    """Raises `InputError` if any of the options was given, because it would do nothing."""
    from batcher.errors import InputError

    for name in NAMES:
        if _is_given(context, name):
            raise InputError(f"--{name.replace('_', '-')} needs --autoscale")


def refuse_with_autoscale(context: typer.Context, signals: Collection[Signal]) -> None:
    """Raises `InputError` if an option was given that does nothing for these signals, or for a fleet."""
    from batcher.errors import InputError
    from batcher.simulation.fleet import Signal

    if _is_given(context, "optimum"):
        raise InputError("--optimum: of no effect with --autoscale; allowed: only without it")
    rates = {Signal.CPU, Signal.DUTY_CYCLE}
    for name, theirs in (
        ("cpu_share", {Signal.CPU}),
        ("rate_window", rates),
        ("average", set(Signal) - rates),
    ):
        if _is_given(context, name) and not theirs & set(signals):
            allowed = ", ".join(signal for signal in Signal if signal in theirs)
            raise InputError(
                f"--{name.replace('_', '-')}: of no effect on {', '.join(signals)}; allowed: with {allowed}"
            )


def read_signals(
    names: Sequence[str], set_points: Sequence[str]
) -> dict[Signal, tuple[float, ...] | None]:
    """The wanted signals, each with its set-points or None for the default ones."""
    from batcher.errors import InputError
    from batcher.simulation.fleet import Signal

    wanted: dict[Signal, tuple[float, ...] | None] = {}
    for text in set_points:
        name, equals, values = text.partition("=")
        allowed = "SIGNAL=VALUES above 0, such as desired_ratio=0.6,0.8"
        if not equals:
            raise InputError(f"--set-points: got {text!r}; allowed: {allowed}")
        wanted[_signal("--set-points", name)] = tuple(
            _number("--set-points", part, text, allowed, above=0.0009) for part in values.split(",")
        )
    for name in names:
        wanted.setdefault(_signal("--signal", name), None)
    if not names and not set_points:
        return dict.fromkeys(Signal)
    return wanted


def _signal(option: str, name: str) -> Signal:
    from batcher.errors import InputError
    from batcher.simulation.fleet import Signal

    try:
        return Signal(name.strip())
    except ValueError:
        raise InputError(f"{option}: got {name!r}; allowed: {', '.join(Signal)}") from None


def read_hpa(options: AutoscaleOptions) -> tuple[HpaSettings, KedaSettings | None]:
    """The autoscaler."""
    from batcher.autoscaling import HpaSettings
    from batcher.errors import InputError

    low, high = _bounds(options.replicas)
    if low == 0 and options.keda is None:
        raise InputError(
            f"--replicas: got {options.replicas}; allowed: from 1 on without --keda, which scales from 0"
        )
    sync_ns = _duration("--hpa-sync", options.sync)
    if sync_ns < SHORTEST_SYNC_NS:
        raise InputError(f"--hpa-sync: got {options.sync}; allowed: from 100ms on")
    up, down = _tolerances(options.tolerance)
    hpa = HpaSettings(
        min_replicas=max(low, 1),
        max_replicas=high,
        scale_up=_rules("--scale-up", options.scale_up, up),
        scale_down=_rules("--scale-down", options.scale_down, down),
        sync_ns=sync_ns,
    )
    return hpa, None if options.keda is None else _keda(options.keda, low, high)


def _bounds(text: str) -> tuple[int, int]:
    from batcher.errors import InputError

    low, dash, high = text.partition("-")
    whole = low.isascii() and low.isdecimal() and high.isascii() and high.isdecimal()
    if not dash or not whole or not int(low) <= int(high) or not 1 <= int(high) <= MOST_REPLICAS:
        raise InputError(
            f"--replicas: got {text!r}; allowed: MIN-MAX with 0 <= MIN <= MAX and MAX from 1 to"
            f" {MOST_REPLICAS}, such as 1-30"
        )
    return int(low), int(high)


SHORTEST_SYNC_NS = 100_000_000
"""The HPA looks each 15 s. Far more often takes for ever to simulate, and changes nothing."""

MOST_REPLICAS = 1000
"""The largest fleet that is simulated: each replica that starts takes some megabytes."""


def _tolerances(text: str) -> tuple[float, float]:
    allowed = "a part from 0 on, such as 0.1, or UP:DOWN"
    up, colon, down = text.partition(":")
    first = _number("--tolerance", up, text, allowed, at_least=0)
    return first, _number("--tolerance", down, text, allowed, at_least=0) if colon else first


def _keda(text: str, low: int, high: int) -> KedaSettings:
    from batcher.autoscaling import KedaSettings

    polling, _, cooldown = text.partition(":")
    return KedaSettings(
        min_replicas=low,
        max_replicas=high,
        polling_ns=_duration("--keda", polling),
        cooldown_ns=_duration("--keda", cooldown or "300s", or_zero=True),
    )


def _rules(option: str, text: str, tolerance: float) -> ScalingRules:
    from batcher.autoscaling import ScalingRules, SelectPolicy
    from batcher.errors import InputError

    window, *rest = [part.strip() for part in text.split(",")]
    selects = {select.value.lower(): select for select in SelectPolicy}
    select = SelectPolicy.MAX
    if rest and rest[-1] in selects:
        select = selects[rest.pop()]
    try:
        return ScalingRules(
            _duration(option, window, or_zero=True),
            tuple(_policy(option, part, text) for part in rest or ["100%/15s"]),
            select,
            tolerance,
        )
    except ValueError as error:
        raise InputError(f"{option}: got {text!r}; {error}") from None


def _policy(option: str, part: str, text: str) -> Policy:
    from batcher.autoscaling import Policy, PolicyKind
    from batcher.errors import InputError

    value, slash, period = part.partition("/")
    percent = value.endswith("%")
    number = value.removesuffix("%")
    if not slash or not (number.isascii() and number.isdecimal()):
        raise InputError(
            f"{option}: got {text!r}; allowed: a window, then policies as 4/15s or 100%/15s, then"
            " max, min or disabled"
        )
    kind = PolicyKind.PERCENT if percent else PolicyKind.PODS
    return Policy(kind, int(number), _duration(option, period))


def read_start_up(text: str) -> StartUp:
    """How long a replica takes to start."""
    from batcher.simulation.engine.service_time import QUIET, Noise
    from batcher.simulation.fleet import Span, StartUp

    mean, colon, spread = text.partition(":")
    allowed = "a time, or TIME:SPREAD with a spread from 0 to 1, such as 40s:0.3"
    part = _number("--start-up", spread, text, allowed, at_least=0) if colon else 0.0
    noise = Noise("uniform", min(part, 1.0)) if part else QUIET
    return StartUp(image=Span(_duration("--start-up", mean, or_zero=True), noise))


def read_scrape(options: AutoscaleOptions) -> Scrape:
    """How replicas are read."""
    from batcher.simulation.fleet import Scrape

    interval, _, delay = options.scrape.partition(":")
    return Scrape(
        interval_ns=_duration("--scrape", interval),
        delay_ns=_duration("--scrape", delay or "500ms", or_zero=True),
        rate_ns=_duration("--rate-window", options.rate_window),
    )


def _duration(option: str, text: str, *, or_zero: bool = False) -> int:
    found = read_duration(option, text, or_zero=or_zero)
    assert found is not None  # noqa: S101 - there is a text
    return found


def _number(
    option: str,
    part: str,
    text: str,
    allowed: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
) -> float:
    from batcher.errors import InputError

    try:
        value = float(part)
    except ValueError:
        value = float("nan")
    wrong = (above is not None and value <= above) or (at_least is not None and value < at_least)
    if not isfinite(value) or wrong:
        raise InputError(f"{option}: got {text!r}; allowed: {allowed}")
    return value
