"""Figures of a result of `embernet bench`: times, memory, and the run's course."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

from embernet.plots.figure import COLORS, Figure, Rectangle, new_figure
from embernet.plots.inline_svg import INK

_WIDTH = 5.0
_NOW, _BEFORE, _HEAT = COLORS[0], COLORS[8], COLORS[5]
# More points than this are drawn as an image, so that a page never becomes a large file.
_MANY = 2000
_LATENCIES = {
    "preprocess": "preprocess",
    "image": "vision",
    "prefill": "prefill",
    "first token": "time_to_first_token",
    "further token": "token",
}
_PEAKS = {"resident": "peak_rss_bytes", "proportional": "peak_pss_bytes", "anonymous": "anonymous_bytes"}
_MEMORY = {
    "resident": ("resident_bytes", COLORS[0]),
    "proportional": ("proportional_bytes", COLORS[4]),
    "anonymous": ("anonymous_bytes", COLORS[1]),
}
_MEMORY_STAGES = ("load", "image", "prefill", "decode")
Result = Mapping[str, Any]


def plot_latency(now: Result, before: Result | None = None) -> Figure:
    """A bar for the median of every stage, and a line to its 90th percentile; with those of another run, if given."""
    rows = {label: (f"{name}_ms", f"{name}_p90_ms") for label, name in _LATENCIES.items()}
    return _bars(rows, now, before, 1.0, "ms")


def plot_peaks(now: Result, before: Result | None = None) -> Figure:
    """A bar for every kind of memory at its peak."""
    return _bars({label: (key, None) for label, key in _PEAKS.items()}, now, before, 1e-6, "MB")


def _bars(
    rows: Mapping[str, tuple[str, str | None]], now: Result, before: Result | None, factor: float, unit: str
) -> Figure:
    """rows: keys of a value and of what a line goes to, by label. factor: from their unit to `unit`."""
    runs = [(now, _NOW), *([] if before is None else [(before, _BEFORE)])]
    thickness = 0.8 / len(runs)
    figure = new_figure(_WIDTH, 0.8 + len(rows) * (0.2 + 0.22 * len(runs)))
    axis = figure.subplots()
    longest = 0.0
    for place, (run, color) in enumerate(runs):
        for row, (key, tail_key) in enumerate(rows.values()):
            if run[key] is None:
                continue
            y, value = row + (place - (len(runs) - 1) / 2) * thickness, run[key] * factor
            tail = max(value, (run[tail_key] or 0) * factor if tail_key else 0)
            axis.barh(y, value, 0.9 * thickness, color=color)
            if tail > value:
                axis.plot([value, tail], [y, y], color=INK, linewidth=1.2, marker="|", markevery=[1], markersize=6)
            _annotate(axis, tail, y, f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}")
            longest = max(longest, tail)
    axis.set_yticks(range(len(rows)), [*rows])
    _finish_bars(axis, len(rows), longest, unit)
    if before is not None:
        _legend(axis, [_key(_NOW, "now"), _key(_BEFORE, "before")])
    return figure


def _annotate(axis: Any, x: float, y: float, text: str) -> None:
    axis.annotate(text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=8)


def _finish_bars(axis: Any, rows: int, longest: float, unit: str) -> None:
    """The first bar at the top, and room for the figures."""
    axis.set(ylim=(rows - 0.5, -0.5), xlim=(0, 1.28 * longest or 1), xlabel=unit)
    axis.grid(axis="x")
    axis.set_axisbelow(True)


def plot_tokens(now: Result) -> Figure | None:
    """Time of every token as the run went on, with the temperature, if it is known; None without samples."""
    rounds: Sequence[Sequence[float]] = (now["samples"] or {}).get("decode_ns") or []
    if not any(rounds):
        return None
    course = now["course"] or {"decode_start_s": [], "at_s": [], "temperature_c": []}  # an older result has none
    starts = course["decode_start_s"]
    figure = new_figure(_WIDTH, 2.7)
    axis = figure.subplots()
    as_image = sum(map(len, rounds)) > _MANY
    if len(starts) == len(rounds):
        unit = "seconds since the start"
        places = [[start + t / 1e9 for t in accumulate(tokens)] for start, tokens in zip(starts, rounds, strict=True)]
    else:
        unit = "token"
        ends = accumulate(map(len, rounds))
        places = [[*range(end - len(tokens), end)] for end, tokens in zip(ends, rounds, strict=True)]
    for place, tokens in zip(places, rounds, strict=True):
        times = [t / 1e6 for t in tokens]
        axis.plot(place, times, color=_NOW, linewidth=0.8, marker=".", markersize=3, rasterized=as_image)
    axis.set(ylim=(0, 1.05 * max(chain.from_iterable(rounds)) / 1e6 or 1), xlabel=unit, ylabel="ms")
    axis.grid(axis="y")
    handles = [_key(_NOW, "a further token")]
    looks = zip(course["at_s"], course["temperature_c"], strict=False)
    heat = [(at, degrees) for at, degrees in looks if degrees is not None] if unit != "token" else []
    if heat:
        limits = axis.get_xlim()
        right = axis.twinx()
        as_image = len(heat) > _MANY
        right.plot(*zip(*heat, strict=True), color=_HEAT, linewidth=1.4, drawstyle="steps-post", rasterized=as_image)
        right.set(xlim=limits, ylabel="°C")
        right.spines["right"].set_visible(True)
        handles.append(_key(_HEAT, "temperature (right)"))
    _legend(axis, handles)
    return figure


def _key(color: str, label: str) -> Rectangle:
    return Rectangle((0, 0), 1, 1, facecolor=color, label=label)


def _legend(axis: Any, handles: Sequence[Rectangle]) -> None:
    """Above the axis, where no bar is."""
    axis.legend(handles=handles, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, fontsize=8)


def plot_stage_memory(now: Result) -> Figure | None:
    """Memory at the end of every stage; None where it is not known."""
    stages = now["stage_memory"]
    if stages is None or all(value is None for stage in stages.values() for value in stage.values()):
        return None
    figure = new_figure(_WIDTH, 2.7)
    axis = figure.subplots()
    for place, (kind, color) in enumerate(_MEMORY.values()):
        values = [(stages[stage][kind] or 0) / 1e6 for stage in _MEMORY_STAGES]
        bars = axis.bar([x + 0.27 * (place - 1) for x in range(len(values))], values, 0.25, color=color)
        axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
    axis.set_xticks(range(len(_MEMORY_STAGES)), _MEMORY_STAGES)
    axis.set(ylabel="MB")
    axis.grid(axis="y")
    axis.set_axisbelow(True)
    _legend(axis, [_key(color, label) for label, (_, color) in _MEMORY.items()])
    return figure


def plot_starts(now: Result, stages: Mapping[str, str]) -> Figure | None:
    """What a fresh process does until its first token; None if none was started. stages: keys and their names."""
    starts = {label: now[f"{label}_start"] for label in ("cold", "warm") if now[f"{label}_start"] is not None}
    if not starts:
        return None
    figure = new_figure(_WIDTH, 1.2 + 0.4 * len(starts))
    axis = figure.subplots()
    for row, start in enumerate(starts.values()):
        left = 0.0
        for color, key in zip(COLORS, stages, strict=False):
            axis.barh(row, start[key], 0.6, left=left, color=color)
            left += start[key]
        _annotate(axis, left, row, f"{left:.0f} ms")
    axis.set_yticks(range(len(starts)), [*starts])
    _finish_bars(axis, len(starts), max(sum(start[key] for key in stages) for start in starts.values()), "ms")
    _legend(axis, [_key(color, label) for color, label in zip(COLORS, stages.values(), strict=False)])
    return figure
