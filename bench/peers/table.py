"""The results as tables of Markdown, and as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_loop import SHARE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Results = dict[str, Any]

SHORT_HEAD = (
    "| server | by | highest rate with 99 % in time | p50, p99 at {same:g} a second"
    " | in time of 1.5 times its own highest rate | processor time a request at {same:g} a second |"
)
LONG_HEAD = (
    "| server | best settings found | highest rate, each of the repetitions"
    " | at 1.5 times of it: in time, late, refused or failed"
    " | processor time a request at its highest rate | load's core busy |"
)


def by_rate(results: Results) -> list[tuple[str, Results]]:
    """The servers, the highest rate first, those without figures last."""
    return sorted(
        results["servers"].items(), key=lambda each: each[1].get("highest", -1.0), reverse=True
    )


def short(results: Results) -> str:
    """One row for each server."""
    rows = [SHORT_HEAD.format(same=results["same_rate"]), "|---" * 6 + "|"]
    for _, found in by_rate(results):
        name = f"{found['title']} {found['version']}"
        if "why" in found:
            rows.append(
                f"| {name} | {found['transport']} | not measured: {_line(found['why'])} | | | |"
            )
            continue
        same, over = found["at_same_rate"], found["overload"]
        rows.append(
            f"| {name} | {found['transport']} | {_rate(found['highest'])} | {_latency(same)}"
            f" | {_rate(over['in_time_a_second'])} of {_rate(over['rate'])}"
            f" | {same['server_us_a_request'] / 1e3:.2f} ms |"
        )
    return "\n".join(rows)


def with_picture(results: Results) -> str:
    """That table, what it was measured on, and the picture beside the page."""
    machine = results["machine"]
    return (
        f"{short(results)}\n\n{machine['cores']} cores, {machine['processor']}, {machine['system']},"
        f" {results['date']}.\n\n"
        "![Highest rates, rates under overload, and latency of each server](peers.png)"
    )


def long(results: Results) -> str:
    """The settings that were kept, and more figures."""
    rows = [LONG_HEAD, "|---" * 6 + "|"]
    for _, found in by_rate(results):
        if "why" in found:
            rows.append(f"| {found['title']} | not measured: {_line(found['why'])} | | | | |")
            continue
        over, top = found["overload"], found["at_highest"]
        requests = max(over["requests"], 1)
        late, failed = over["late"] / requests, sum(over["failed"].values()) / requests
        settings = ", ".join(
            f"`{name}: {_value(value)}`" for name, value in found["settings"].items()
        )
        rows.append(
            f"| {found['title']} | {settings}"
            f" | {', '.join(_rate(each) for each in found['highest_each'])}"
            f" | {over['on_time_share']:.0%}, {late:.0%}, {failed:.0%}"
            + (
                f" | {top['server_us_a_request'] / 1e3:.2f} ms | {top['load_busy']:.0%} |"
                if top
                else " | none | none |"
            )
        )
    return "\n".join(rows)


def into(page: Path, name: str, table: str) -> None:
    """Put a table between `<!-- NAME -->` and `<!-- /NAME -->` of a page.

    Raises ValueError where the page has no such place.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, also, after = rest.partition(end)
    if not found or not also:
        raise ValueError(f"{page} has no place for {name}")
    page.write_text(f"{before}{begin}\n{table}\n\n{end}{after}", encoding="utf-8")


def picture(results: Results, file: Path) -> None:
    """Draw rates and latencies of the servers side by side."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - no table needs it

    measured = [found for _, found in by_rate(results) if "why" not in found][::-1]
    names = [f"{found['title']} {found['version']}" for found in measured]
    figure = Figure(figsize=(11, 0.62 * len(measured) + 1.9), layout="constrained")
    rates, latency = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = range(len(measured))
    highest = [found["highest"] for found in measured]
    over = [found["overload"]["in_time_a_second"] for found in measured]
    rates.barh(
        [at + 0.19 for at in places],
        highest,
        0.36,
        color="#1f6fb4",
        label="highest rate with 99 % in time",
    )
    rates.barh(
        [at - 0.19 for at in places],
        over,
        0.36,
        color="#f2a541",
        label="in time while 1.5 times that rate is asked",
    )
    for at, (top, kept) in enumerate(zip(highest, over, strict=True)):
        rates.text(top, at + 0.19, f" {top:,.0f}", va="center", fontsize=8)
        rates.text(kept, at - 0.19, f" {kept:,.0f}", va="center", fontsize=8)
    rates.axvline(results["device_limit"], color="black", linewidth=1, linestyle="--")
    rates.set_yticks(list(places), names)
    rates.set_xlim(0, results["device_limit"] * 1.12)
    rates.set_xlabel("requests a second (dashed: what the device can serve)")
    _latencies(measured, latency)
    latency.axvline(results["target_ms"], color="black", linewidth=1, linestyle="--")
    latency.set_xscale("log")
    latency.xaxis.set_major_formatter(lambda ms, _: f"{ms:,.0f}")
    latency.set_xlabel(f"ms at {results['same_rate']:g} requests a second (dashed: in time)")
    figure.legend(loc="outside upper center", ncols=4, fontsize=9)
    for axes in (rates, latency):
        axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _latencies(measured: list[Results], axes: Axes) -> None:
    """A line from p50 to p99 for each server that answered at all."""
    answered = [
        (at, found["at_same_rate"]["latency_ms"])
        for at, found in enumerate(measured)
        if found["at_same_rate"]["latency_ms"]
    ]
    places = [at for at, _ in answered]
    p50, p99 = ([ms[name] for _, ms in answered] for name in ("p50", "p99"))
    color = "#1f6fb4"
    axes.hlines(places, p50, p99, color=color, linewidth=2)
    axes.plot(p50, places, "o", color=color, label="p50")
    axes.plot(p99, places, "|", color=color, markersize=14, markeredgewidth=2, label="p99")


def _latency(found: Results) -> str:
    ms = found["latency_ms"]
    if not ms:
        return "no answers"
    both = f"{ms['p50']:,.1f}, {ms['p99']:,.1f} ms"
    share = found["on_time_share"]
    return both if share >= SHARE else f"{both}, {share:.0%} in time"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value else "none"


def _value(value: object) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _line(text: str) -> str:
    """The first line, fit for a table."""
    return text.strip().splitlines()[0].replace("|", "\\|") if text.strip() else "no reason given"
