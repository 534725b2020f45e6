"""What a result of `embernet bench` says, as lines and rows of text: for the terminal and for the report's page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embernet.cli.output import format_bytes

if TYPE_CHECKING:
    from embernet.device.comparison import Difference

Result = Mapping[str, Any]
Row = tuple[str, str]
# What the metrics of a comparison are called, and their units.
_METRICS = {
    "cold_start_ms": ("cold start", "ms"),
    "warm_start_ms": ("warm start", "ms"),
    "load_ms": ("load", "ms"),
    "preprocess_ms": ("preprocess", "ms"),
    "vision_ms": ("image", "ms"),
    "prefill_tokens_per_second": ("prefill", "ts"),
    "time_to_first_token_ms": ("first token", "ms"),
    "decode_tokens_per_second": ("decode", "ts"),
    "weight_bandwidth_bytes_per_second": ("weight bandwidth", "B/s"),
    "peak_rss_bytes": ("peak resident", "bytes"),
    "peak_pss_bytes": ("peak proportional", "bytes"),
    "anonymous_bytes": ("anonymous", "bytes"),
}
_STAGES = (
    ("load", "load"),
    ("preprocess", "preprocess"),
    ("image", "vision"),
    ("prefill", "prefill"),
    ("first token", "time_to_first_token"),
    ("further token", "token"),
)
START_STAGES = {
    "interpreter_ms": "interpreter",
    "import_ms": "imports",
    "load_ms": "load",
    "image_ms": "image",
    "prefill_ms": "prefill",
}


def headline(r: Result) -> str:
    """The model and the machine."""
    parameters = "unknown" if r["model_n_params"] is None else f"{r['model_n_params']:,}"
    return (
        f"{r['model']['name']}: {format_figure(r['model_size'], 'bytes')}, {parameters} parameters; "
        f"{r['cpu_info'] or 'processor not known'}, threads {r['n_threads']}, kernels {r['kernel']}"
    )


def workload(r: Result) -> str:
    """What a round was."""
    rounds = "" if r["repetitions"] is None else f", rounds {r['repetitions']}"
    return f"{r['n_image']} image + {r['n_prompt']} prompt + {r['n_gen']} new tokens{rounds}"


def reservations(r: Result) -> list[str]:
    """Why the numbers are not to be taken as they are."""
    lines = ["EMULATED: these are not the times of a real processor"] if r["emulated"] else []
    if r["valid"] is False:
        lines.append(f"NOT VALID: {'; '.join(r['invalid_reasons'] or ('no reason is given',))}")
    return lines


def stage_rows(r: Result) -> list[tuple[str, str, str, str]]:
    """Of each stage its name, median, 90th percentile and rate."""
    rates = {"prefill": r["prefill_tokens_per_second"], "token": r["decode_tokens_per_second"]}
    return [
        (
            label,
            format_figure(r[f"{name}_ms"], "ms"),
            format_figure(r[f"{name}_p90_ms"], "ms") if f"{name}_p90_ms" in r else "",
            format_figure(rates[name], "ts") if name in rates else "",
        )
        for label, name in _STAGES
    ]


def memory_rows(r: Result) -> list[Row]:
    """Weights and memory."""
    bandwidth = format_figure(r["weight_bandwidth_bytes_per_second"], "B/s")
    if None not in (r["weight_bandwidth_share"], r["read_bandwidth_bytes_per_second"]):
        bandwidth += (
            f", {r['weight_bandwidth_share']:.1%} of {format_figure(r['read_bandwidth_bytes_per_second'], 'B/s')} "
            f"({r['read_bandwidth_source']} of {format_figure(r['read_bandwidth_size_bytes'], 'bytes')})"
        )
    return [
        ("weights per token", format_figure(r["decode_weight_bytes"], "bytes")),
        ("weight bandwidth", bandwidth),
        ("peak resident", format_figure(r["peak_rss_bytes"], "bytes")),
        ("peak proportional", format_figure(r["peak_pss_bytes"], "bytes")),
        ("anonymous", format_figure(r["anonymous_bytes"], "bytes")),
    ]


def start_rows(r: Result) -> list[Row]:
    """The fresh processes, if any was started."""
    if r["warm_start"] is None:
        return []
    cold = "unknown: the bundle's files stayed in memory" if r["cold_start"] is None else _start(r["cold_start"])
    return [("cold start", cold), ("warm start", _start(r["warm_start"]))]


def _start(start: Result) -> str:
    stages = ", ".join(f"{label} {format_figure(start[key], 'ms')}" for key, label in START_STAGES.items())
    return f"{format_figure(start['total_ms'], 'ms')}: {stages}; peak {format_figure(start['peak_rss_bytes'], 'bytes')}"


def board_rows(r: Result) -> list[Row]:
    """How the board was, as far as it tells."""
    rows = []
    if r["temperature_c"] and _known(r["temperature_c"]):
        rows.append(("temperature", _course(r["temperature_c"], "max", "at most", ".1f", "°C")))
    if r["frequency_mhz"] and _known(r["frequency_mhz"]):
        rows.append(("clock", _course(r["frequency_mhz"], "min", "at least", ".0f", "MHz")))
    if r["governor"] is not None:
        rows.append(("governor", r["governor"]))
    if r["throttled"] and _known(r["throttled"]):
        rows.append(("throttling", _throttling(r["throttled"])))
    if r["swap_bytes"]:
        used = " to ".join(
            format_figure(r["swap_used_bytes"] and r["swap_used_bytes"][at], "bytes") for at in ("start", "end")
        )
        zram = f", {format_bytes(r['zram_bytes'])} of it compressed memory" if r["zram_bytes"] else ""
        out = format_figure(r["swapped_out_bytes"], "bytes")
        rows.append(("swap", f"{used} of {format_bytes(r['swap_bytes'])} used{zram}; {out} went out"))
    return rows


def _course(values: Mapping[str, float | None], extreme: str, label: str, digits: str, unit: str) -> str:
    start, end, most = (
        "unknown" if values[key] is None else format(values[key], digits) for key in ("start", "end", extreme)
    )
    return f"{start} to {end} {unit}, {label} {most} {unit}"


def _throttling(seen: Mapping[str, Sequence[str] | None]) -> str:
    now, before = set(seen["now"] or ()), list(seen["occurred_before"] or ())
    during = [
        *(seen["now"] or ()),
        *(name for name in seen["occurred"] or () if name not in now and name not in before),
    ]
    earlier = f" (before it: {', '.join(before)})" if before else ""
    return f"{', '.join(during) or 'none'} during the run{earlier}"


def _known(values: Mapping[str, Any]) -> bool:
    return any(value is not None for value in values.values())


def difference_rows(differences: "Iterable[Difference]") -> list[tuple[str, str, str, str, str]]:
    """Of each metric that is known of a run its name, now, before, now / before, and which is better."""
    return [
        (
            _METRICS[d.metric][0],
            format_figure(d.now, _METRICS[d.metric][1]),
            format_figure(d.before, _METRICS[d.metric][1]),
            "" if d.ratio is None else f"{d.ratio:.2f}",
            d.verdict,
        )
        for d in differences
        if (d.now, d.before) != (None, None)
    ]


def format_figure(value: float | None, unit: str) -> str:
    """A figure with its unit: three digits and more of it."""
    if value is None:
        return "unknown"
    if unit in ("bytes", "B/s"):
        return format_bytes(value) + ("/s" if unit == "B/s" else "")
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {'tokens/s' if unit == 'ts' else unit}"
