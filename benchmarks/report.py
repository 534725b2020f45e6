"""Fill the tables of docs/performance.md, and draw its plot, from benchmarks/results.

    python -m benchmarks.report

Only what stands between `<!-- NAME -->` and `<!-- /NAME -->` changes. Needs the package `matplotlib`.
"""

import argparse
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, ratio_of_medians, say

PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "images" / "performance.svg"

Result = dict[str, Any]
Samples = Sequence[float]


# --- numbers ----------------------------------------------------------------------------------------------------------


def three_digits(value: float) -> str:
    """1234 -> 1234, 123.4 -> 123, 12.34 -> 12.3, 1.234 -> 1.23"""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.2f}"


def spread(samples: Samples) -> str:
    """The median, and the least and largest."""
    low, high = three_digits(min(samples)), three_digits(max(samples))
    return f"{three_digits(statistics.median(samples))} ({low} – {high})"


def ratio(ours: Samples, theirs: Samples) -> str:
    """How many times theirs our speed is."""
    return f"{ratio_of_medians(ours, theirs):.2f}"


def speeds(microseconds: Samples, work: float) -> list[float]:
    """Work per call -> 10⁹ per second."""
    return [work / us * 1e-3 for us in microseconds]


def read_share(decode_per_s: Samples, bytes_per_token: float, bytes_per_s: Samples) -> float:
    """The speed at which weights arrive, as a share of the speed at which memory can be read."""
    return statistics.median(decode_per_s) * bytes_per_token / statistics.median(bytes_per_s)


def conditions(threads: int, isa: str) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}; embernet's kernels: `{isa}`."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- sections ---------------------------------------------------------------------------------------------------------


def machine_section(results: dict[str, Result]) -> str:
    """The machine of the comparisons; each says when it ran and beside what."""
    lines = []
    for machine in _distinct(result["machine"] for result in results.values()):
        flags = " ".join(machine["instruction_sets"])
        caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
        packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
        family = "/".join(str(part) for part in machine["cpu_family_model_stepping"] if part)
        rows = [
            ("CPU", f"{machine['cpu']}, {machine['architecture']}"),
            ("family/model/stepping", family or "unknown"),
            ("cores", f"{machine['cores']}{', of a virtual machine' if machine['hypervisor'] else ''}"),
            ("instruction sets", flags),
            ("caches of a core", caches or "unknown"),
            ("memory", f"{machine['memory_bytes'] / 2**30:.1f} GiB"),
            ("governor", machine["governor"] or "not visible"),
            ("kernel", f"Linux {machine['kernel']}"),
            ("compiler", machine["compiler"] or "unknown"),
            ("Python, packages", f"{machine['python']}; {packages}"),
        ]
        lines.append(table(("", ""), rows))
    runs = [
        (
            f"`{result['command']}`",
            result["date"],
            result["machine"]["commit"] or "",
            f"{result['load_average']['start']:.2f}, {result['load_average']['end']:.2f}",
        )
        for result in results.values()
    ]
    lines.append(table(("command", "began", "commit", "load average at start, at end"), runs))
    return "\n\n".join(lines)


def whole_model_section(result: Result) -> str:
    lines = []
    names = _names(result["samples"])
    ours = names[0]
    for threads in _distinct(sample["threads"] for sample in result["samples"]):

        def get(name: str, key: str, threads: int = threads) -> list[float]:
            return [s[key] for s in result["samples"] if s["contestant"] == name and s["threads"] == threads]

        rows = [
            [
                name,
                spread(get(name, "decode_per_s")),
                "" if name == ours else ratio(get(ours, "decode_per_s"), get(name, "decode_per_s")),
                spread(get(name, "prefill_per_s")),
                "" if name == ours else ratio(get(ours, "prefill_per_s"), get(name, "prefill_per_s")),
                f"{statistics.median(get(name, 'peak_rss_bytes')) / 1e6:.0f}",
                f"{result['file_bytes'][name] / 1e6:.0f}",
            ]
            for name in names
        ]
        head = ("", "decode, tokens/s", "ours / it", "prefill, tokens/s", "ours / it", "peak memory, MB", "files, MB")
        isa = next(s["isa"] for s in result["samples"] if s["contestant"] == ours)
        lines += [conditions(threads, isa), table(head, rows)]
        bandwidth, weight_bytes = get(ours, "read_bytes_per_s"), get(ours, "weight_bytes_per_token")[0]
        share = read_share(get(ours, "decode_per_s"), weight_bytes, bandwidth)
        lines.append(
            f"A token needs {weight_bytes / 1e6:.1f} MB of embernet's weights; they arrive at {share:.0%} of the "
            f"{statistics.median(bandwidth) / 1e9:.1f} GB/s at which a loop that only reads gets them."
        )
    return "\n\n".join(lines)


def kernels_section(result: Result) -> str:
    measurements = result["measurements"]
    shapes = _distinct((m["rows"], m["inputs"]) for m in measurements)

    def get(name: str, shape: tuple[int, int], activations: int) -> Result:
        keys = ("contestant", "rows", "inputs", "activations")
        wanted = (name, *shape, activations)
        return next(m for m in measurements if tuple(m[key] for key in keys) == wanted)

    many = max(m["activations"] for m in measurements)
    head = [""]
    for rows, inputs in shapes:
        head += [f"{rows} × {inputs}: µs", "Gweights/s", "of reading"]
    head += [f"{rows} × {inputs} × {many}: GMAC/s" for rows, inputs in shapes]
    lines = []
    for name in _names(measurements):
        line = [name]
        for shape in shapes:
            one, read = get(name, shape, 1), get("read", shape, 1)
            us = one["microseconds"]
            bytes_per_us = one["matrix_bytes"] / statistics.median(us)
            share = bytes_per_us / (read["matrix_bytes"] / statistics.median(read["microseconds"]))
            weights = "" if name == "read" else three_digits(statistics.median(speeds(us, shape[0] * shape[1])))
            line += [spread(us), weights, f"{share:.0%}"]
        for shape in shapes:
            macs = speeds(get(name, shape, many)["microseconds"], shape[0] * shape[1] * many)
            line.append("" if name == "read" else three_digits(statistics.median(macs)))
        lines.append(line)
    return table(head, lines)


def matmulnbits_section(result: Result) -> str:
    measurements = result["measurements"]
    cases = _distinct((m["rows"], m["inputs"], m["activations"]) for m in measurements)
    names = _names(measurements)
    head = ["µs per matrix", *(f"{rows} × {inputs} × {count}" for rows, inputs, count in cases)]
    times = {(m["contestant"], m["rows"], m["inputs"], m["activations"]): m["microseconds"] for m in measurements}
    rows = [[name, *(spread(times[(name, *case)]) for case in cases)] for name in names]
    for name in names[1:]:  # times: theirs over ours
        rows.append(
            [f"ours / {name}, speed", *(ratio(times[(name, *case)], times[(names[0], *case)]) for case in cases)]
        )
    return f"{conditions(result['threads'], result['isa'])}\n\n{table(head, rows)}"


def vision_section(result: Result) -> str:
    measurements = result["measurements"]
    ours = measurements[0]["milliseconds"]
    rows = []
    for m in measurements:
        cosines = list(m["cosines"].values())
        rows.append(
            [
                m["contestant"],
                spread(m["milliseconds"]),
                "" if m is measurements[0] else ratio(m["milliseconds"], ours),
                f"{min(cosines):.5f}",
            ]
        )
    count = len(measurements[0]["cosines"])
    head = ["", "ms per image", "ours / it, speed", f"least cosine to float32, {count} images"]
    return f"{conditions(result['threads'], result['isa'])}\n\n{table(head, rows)}"


def _names(measurements: Iterable[Result]) -> list[str]:
    return _distinct(m["contestant"] for m in measurements)


def _distinct(items: Iterable[Any]) -> list[Any]:
    """In the order of their first appearance; machines are compared without the commit."""
    found: list[Any] = []
    for item in items:
        plain = {k: v for k, v in item.items() if k != "commit"} if isinstance(item, dict) else item
        if plain not in found:
            found.append(plain)
    return found


SECTIONS = {
    "whole_model": whole_model_section,
    "kernels": kernels_section,
    "matmulnbits": matmulnbits_section,
    "vision": vision_section,
}


# --- the page ---------------------------------------------------------------------------------------------------------


def fill(page: str, name: str, text: str) -> str:
    """The page with this text between the markers of a section."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    filled, count = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page)
    if count != 1:
        raise ValueError(f"the page has no section {name}")
    return filled


def draw(results: dict[str, Result], path: Path) -> None:
    """Bars of medians: tokens per second of whole models, and weights per second of kernels."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "embernet", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    panels: list[tuple[str, list[tuple[str, list[float]]]]] = []
    if result := results.get("whole_model"):
        for key, title in (("decode_per_s", "decode, tokens/s"), ("prefill_per_s", "prefill, tokens/s")):
            bars = [
                (
                    f"{name}, {threads} thread{'s' if threads > 1 else ''}",
                    [s[key] for s in result["samples"] if s["contestant"] == name and s["threads"] == threads],
                )
                for threads in _distinct(s["threads"] for s in result["samples"])
                for name in _names(result["samples"])
            ]
            panels.append((title, bars))
    if result := results.get("kernels"):
        first = [m for m in result["measurements"] if m["activations"] == 1 and m["contestant"] != "read"]
        rows, inputs = first[0]["rows"], first[0]["inputs"]
        bars = [
            (m["contestant"], speeds(m["microseconds"], rows * inputs))
            for m in first
            if (m["rows"], m["inputs"]) == (rows, inputs)
        ]
        panels.append((f"kernel {rows} × {inputs}, 1 thread, Gweights/s", bars))
    height = sum(len(bars) for _, bars in panels) * 0.28 + 0.6 * len(panels)
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, height), height_ratios=[len(bars) for _, bars in panels], squeeze=False
    )
    for axis, (title, bars) in zip(axes[:, 0], panels, strict=True):
        medians = [statistics.median(samples) for _, samples in bars]
        around = [
            [m - min(samples) for m, (_, samples) in zip(medians, bars, strict=True)],
            [max(samples) - m for m, (_, samples) in zip(medians, bars, strict=True)],
        ]
        colors = ["#d9480f" if name.startswith("embernet") else "#868e96" for name, _ in bars]
        axis.barh(range(len(bars)), medians, xerr=around, color=colors, ecolor="#343a40", capsize=2, height=0.7)
        axis.set_yticks(range(len(bars)), [name for name, _ in bars])
        axis.invert_yaxis()
        axis.set_title(title, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.1)
        for place, (median, (_, samples)) in enumerate(zip(medians, bars, strict=True)):
            axis.annotate(three_digits(median), (max(samples), place), (5, 0), textcoords="offset points", va="center")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to fill")
    parser.add_argument("--plot", type=Path, default=PLOT, help="picture to draw")
    arguments = parser.parse_args()
    results = {}
    for name in SECTIONS:
        path = arguments.results / f"{name}.json"
        if path.is_file():
            results[name] = json.loads(path.read_text(encoding="utf-8"))
        else:
            say(f"{path}: is not there; its section stays as it is")
    if not results:
        raise SystemExit(f"{arguments.results}: holds no results")
    page = arguments.page.read_text(encoding="utf-8")
    page = fill(page, "machine", machine_section(results))
    for name, result in results.items():
        page = fill(page, name, SECTIONS[name](result))
    if results.keys() & {"whole_model", "kernels"}:
        draw(results, arguments.plot)
        page = fill(page, "plot", f"![Speeds in bars](images/{arguments.plot.name})")
    arguments.page.write_text(page, encoding="utf-8")
    say(f"filled {arguments.page}")


if __name__ == "__main__":
    main()
