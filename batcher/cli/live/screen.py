"""Draws what is known of a server, for a terminal of any size."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

from batcher.cli.live.client import LiveError
from batcher.cli.live.numbers import block, blocks, percent, rate, seconds
from batcher.cli.live.state import LiveState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.text import Text

    from batcher.cli.live.client import Event

STYLES: Final = {"ok": "green", "notice": "cyan", "warning": "yellow", "critical": "bold red"}
MARKS: Final = {"ok": "+", "notice": "i", "warning": "!", "critical": "X"}
"""A level is told by a mark, too: not every terminal has colors, nor does everyone see them."""

WIDE: Final = 150
NARROW: Final = 72
"""Columns from which on there are plots, and below which a model takes three lines."""

MOST_TARGETS: Final = 4
"""Times the target that is the highest block of a plot; what is higher looks the same, and is red."""

STALE_S: Final = 3.0
"""Seconds without an event after which the screen says so."""


def take(state: LiveState, event: Event, now_s: float) -> None:
    """Have the state take an event. Raises `LiveError`, and changes nothing, where it cannot be drawn."""
    alone = LiveState()
    try:
        alone.take(event, now_s)
        for width in (WIDE, NARROW - 1):
            lines(alone, width, None, now_s)
    except Exception as error:  # noqa: BLE001 - whatever a server sends must not end the program
        raise LiveError(
            f"events come that cannot be shown ({type(error).__name__}); is the server of the same"
            " version of batcher?"
        ) from None
    state.take(event, now_s)


def lines(state: LiveState, width: int, height: int | None, now_s: float) -> list[Text]:
    """The whole screen, line by line; without a height, everything there is to show."""
    from rich.text import Text

    if state.values is None:
        return [Text(state.trouble or "waiting for the first numbers", no_wrap=True)]
    head = [*_head(state, width, now_s), Text()]
    models = [_model_lines(state, model, width) for model in state.models()]
    changes = list(_changes(state.values))
    table = [Text(_columns(width), style="bold reverse")] if width >= NARROW else []
    if height is None:
        return [*head, *table, *(line for each in models for line in each), Text(), *changes]
    left = height - len(head) - len(table)
    shown, used = list[Text](), 0
    for number, each in enumerate(models):
        last = number == len(models) - 1
        if used + len(each) + (not last) > left:
            more = len(models) - number
            shown.append(Text(f"  and {more} more model{'s' if more > 1 else ''}", style="dim"))
            used += 1
            break
        shown += each
        used += len(each)
    left -= used
    below = [Text(), *changes][: max(0, left)] if left > 2 else []
    return [*head, *table, *shown, *below][:height]


def _head(state: LiveState, width: int, now_s: float) -> Iterator[Text]:
    from rich.text import Text

    values = state.values or {}
    server, status = values["server"], values["status"]
    silent_s = now_s - state.received_s
    if silent_s > STALE_S or (state.trouble and silent_s > 1.5):
        why = state.trouble.split(";")[0] or "the server is silent"
        for line in wrap(f"? no data for {silent_s:.0f} s: {why}", width)[:3]:
            yield Text(line, style="bold red reverse")
    else:
        style = STYLES[status["level"]]
        for line in wrap(f"{MARKS[status['level']]} {status['text']}", width)[:3]:
            yield Text(line, style=f"bold {style}")
    about = [
        server["replica"],
        f"up {seconds(server['uptime_seconds'])}",
        "restarted" if state.restarted else "",
        "draining" if server["draining"] else "",
        f"load {percent(server['desired_ratio'])}" if "desired_ratio" in server else "",
        *(_device(device) for device in values["devices"]),
        f"rates of {values['window_seconds']} s",
    ]
    yield Text("  ".join(each for each in about if each), style="dim")
    for problem in values["problems"][1:4]:  # the headline has the first
        level = problem["severity"]
        name = f"{problem['model']}: " if problem["model"] else ""
        yield Text(f"{MARKS[level]} {name}{problem['text']}", style=STYLES[level])
    if len(values["problems"]) > 4:
        yield Text(f"  and {len(values['problems']) - 4} more", style="dim")


def _device(device: Mapping[str, Any]) -> str:
    gpu = device.get("statistics", {})
    known = [
        f"busy {percent(device['duty_cycle_ratio'])}" if "duty_cycle_ratio" in device else "",
        f"load {percent(device['load_ratio'])}" if "load_ratio" in device else "",
        f"GPU {percent(gpu['utilization_ratio'])}" if "utilization_ratio" in gpu else "",
        f"{gpu['memory_used_bytes'] / 2**30:.1f}GiB" if "memory_used_bytes" in gpu else "",
        f"{gpu['temperature_celsius']:.0f}C" if "temperature_celsius" in gpu else "",
        "FAILED" if gpu.get("failures") else "",
    ]
    said = " ".join(each for each in known if each)
    return f"{device['device']}: {said}" if said else ""


# A model is one line of fields, each as wide as its column.

_FIELDS: Final = (("age", 7), ("target", 7), ("in/s", 7), ("ok/s", 7), ("late/s", 7), ("lost/s", 7))
_MORE: Final = (("p50", 7), ("p99", 7), ("rows", 6), ("busy", 5))


def _fields(width: int) -> list[tuple[str, int]]:
    fields = [*_FIELDS, *_MORE]
    if width < 96:  # the p99 tells more than the p50, and what is late is in it
        fields = [each for each in fields if each[0] not in {"p50", "late/s"}]
    return fields


def _columns(width: int) -> str:
    fields = _fields(width)
    names = "".join(name.rjust(size) for name, size in fields)
    room = width - len(names)
    if width < WIDE:
        return f"{'  model'.ljust(room)}{names}"
    plots = f"  {'queue age, five minutes'.ljust(_plot(width))}"
    return (
        f"{'  model'.ljust(room - _plots(width))}{names}{plots}  batch sizes  not answered".ljust(
            width
        )
    )


def _plot(width: int) -> int:
    return min(60, max(24, (width - 120) // 2))


def _plots(width: int) -> int:
    return 2 + _plot(width) + 2 + len("batch sizes") + 2 + len("not answered") + 16


def _model_lines(state: LiveState, model: Mapping[str, Any], width: int) -> list[Text]:
    from rich.text import Text

    level = model["level"]
    values = _values(model)
    over = _over(model)
    if width < NARROW:
        return _narrow(state.name(model), level, values, over)
    fields = _fields(width)
    room = width - sum(size for _, size in fields) - (_plots(width) if width >= WIDE else 0)
    line = Text(
        f"{MARKS[level]} {_cut(state.name(model), room - 3)}".ljust(room), style=STYLES[level]
    )
    for name, size in fields:
        line.append(
            values[name].rjust(size), style="bold red" if over.get(name) else "default not bold"
        )
    if width >= WIDE:
        line.append_text(_history(state, model, width))
        line.append(f"  {_sizes(model).ljust(len('batch sizes'))}", style="default not bold")
        line.append(f"  {_reasons(model)}", style="bold red" if over["lost/s"] else "dim")
    notes = list[Text]()
    if model["state"] != "ready" or model["reason"]:
        said = f"{model['state']}: {model['reason']}" if model["reason"] else model["state"]
        notes = [Text(f"    {_cut(said, width - 5)}", style=STYLES[level])]
    return [line, *notes]


def _narrow(
    name: str, level: str, values: Mapping[str, str], over: Mapping[str, bool]
) -> list[Text]:
    from rich.text import Text

    def styled(key: str) -> str:
        return "bold red" if over[key] else ""

    age = Text("  ").append(f"age {values['age']} of {values['target']}", style=styled("age"))
    age.append(f"  p99 {values['p99']}", style=styled("p99"))
    rates = Text(f"  in {values['in/s']}  ok {values['ok/s']}")
    rates.append(f"  lost {values['lost/s']}", style=styled("lost/s"))
    return [Text(f"{MARKS[level]} {name}", style=STYLES[level]), age, rates]


def _values(model: Mapping[str, Any]) -> dict[str, str]:
    recent = model["recent"] or {}
    duties = [
        each["duty_cycle_ratio"]
        for each in model["devices"]
        if each["duty_cycle_ratio"] is not None
    ]
    return {
        "age": seconds(model["age_seconds"]),
        "target": seconds(model["target_seconds"]),
        "in/s": rate(recent.get("arrived")),
        "ok/s": rate(recent.get("answered")),
        "late/s": rate(recent.get("late")),
        "lost/s": rate(_lost(recent)),
        "p50": seconds(recent.get("latency_p50_seconds")),
        "p99": seconds(recent.get("latency_p99_seconds")),
        "rows": "-" if recent.get("batch_rows") is None else f"{recent['batch_rows']:.3g}",
        "busy": percent(max(duties, default=None)),
    }


def _lost(recent: Mapping[str, Any]) -> float | None:
    if not recent:
        return None
    return float(recent["refused"] + recent["expired"] + recent["failed"])


def _over(model: Mapping[str, Any]) -> dict[str, bool]:
    """Which of its numbers are not as they should be."""
    recent, target = model["recent"] or {}, model["target_seconds"]
    return {
        "age": target is not None and (model["age_seconds"] or 0) > target,
        "lost/s": bool(_lost(recent)),
        "late/s": bool(recent.get("late")),
        "p99": target is not None and (recent.get("latency_p99_seconds") or 0) > target,
    }


def _history(state: LiveState, model: Mapping[str, Any], width: int) -> Text:
    from rich.text import Text

    ages, target = state.ages(model), model["target_seconds"]
    highest = max([target or 0, *(age for age in ages if age is not None)], default=0)
    if target:  # one spike must not press everything else flat
        highest = min(highest, MOST_TARGETS * target)
    plot = Text("  ")
    size = _plot(width)
    whole = blocks(ages, size, highest)
    above = blocks(
        [age if target and age and age > target else None for age in ages], size, highest
    )
    for place, mark in enumerate(whole):
        plot.append(mark, style="red not bold" if above[place] != " " else "blue not bold")
    return plot


def _sizes(model: Mapping[str, Any]) -> str:
    sizes = (model["recent"] or {}).get("batch_sizes") or []
    if not sum(sizes):
        return ""
    return "".join(block(count, max(sizes)) if count else " " for count in sizes)


def _reasons(model: Mapping[str, Any]) -> str:
    reasons = [
        each for each in (model["recent"] or {}).get("reasons", ()) if each[0] != "cancelled"
    ]
    reasons.sort(key=lambda each: -each[2])
    return _cut(", ".join(reason for _, reason, _ in reasons), len("not answered") + 16)


def _changes(values: Mapping[str, Any]) -> Iterator[Text]:
    from time import localtime, strftime

    from rich.text import Text

    yield Text("what changed last", style="bold")
    for change in values["changes"]:
        level = change["severity"]
        line = Text(f"{strftime('%H:%M:%S', localtime(change['timestamp_seconds']))} ", style="dim")
        line.append(f"{MARKS[level]} {change['text']}", style=f"{STYLES[level]} not dim")
        yield line


def _cut(text: str, width: int) -> str:
    """The text, with its end left out where it is too long."""
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"
