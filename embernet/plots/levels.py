"""How a model uses its ternary levels."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embernet.checkpoints import Checkpoint, open_checkpoint
from embernet.parameters import is_ternary
from embernet.plots.figure import COLORS, Figure, new_figure
from embernet.runtime.bundle import LEVEL_NAMES, MANIFEST_FILE, find_bundle, open_bundle
from embernet.runtime.reference import count_levels, quantize_weights

_LABELS = ("-1", "0", "+1")
_COLORS = (COLORS[0], "#DDDDDD", COLORS[5])
_LIMIT, _BINS = 4.0, 160  # of the histogram, in steps
_EXPERT_NUMBER = re.compile(r"\.\d+$")

Progress = Callable[[int], object]


def plot_levels(model: str, progress: Progress = lambda _count: None) -> Figure:
    """Shares of -1, 0 and +1: part by part of a checkpoint, with the weights they are made from; all of a bundle.

    A bundle's manifest knows no more. progress is called with the number of weights read since the last call.
    """
    path = Path(model)
    if (path / MANIFEST_FILE).is_file() or not path.exists():
        manifest = open_bundle(find_bundle(model)).manifest
        counts = np.array([manifest.quantizer["levels"].get(name, 0) for name in LEVEL_NAMES], np.int64)
        figure = new_figure(9, 2.4)
        _plot_shares(figure.subplots(), {"all": counts})
        figure.suptitle(f"Ternary levels of {manifest.name} ({manifest.quantizer['weights']})")
        return figure
    checkpoint = open_checkpoint(path)
    levels, histogram = _read(checkpoint, progress)
    figure = new_figure(12, 2.2 + 0.22 * len(levels))
    figure.suptitle(f"Ternary levels of {path.name} ({checkpoint.config.weight_quantizer})")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _plot_shares(left, levels)
    _plot_weights(right, histogram, checkpoint.config.weight_quantizer)
    return figure


def _read(checkpoint: Checkpoint, progress: Progress) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """Counts of the levels by part of the model, and how many weights lie where."""
    levels: dict[str, NDArray[np.int64]] = {}
    histogram = np.zeros(_BINS, np.int64)
    quantizer = checkpoint.config.weight_quantizer
    for name in checkpoint.tensors:
        if not is_ternary(name, checkpoint.tensors):
            continue
        weight = checkpoint.tensors[name]
        codes, step = quantize_weights(weight, quantizer)
        part = _EXPERT_NUMBER.sub("", name.rsplit(".", 2)[0])
        levels[part] = levels.get(part, np.zeros(len(LEVEL_NAMES), np.int64)) + count_levels(codes)
        centred = weight - weight.mean() if quantizer == "sign_mean" else weight
        inside = np.clip(centred / step, -_LIMIT, _LIMIT)
        histogram += np.histogram(inside, bins=_BINS, range=(-_LIMIT, _LIMIT))[0]
        progress(weight.size)
    return levels, histogram


def _plot_shares(axis: Any, levels: Mapping[str, NDArray[np.int64]]) -> None:
    """A bar for every part, the first at the top."""
    names = [*levels]
    shares = np.array([counts / max(counts.sum(), 1) for counts in levels.values()])
    starts = np.cumsum(shares, axis=1) - shares
    for level, (label, color) in enumerate(zip(_LABELS, _COLORS, strict=True)):
        axis.barh(names, shares[:, level], left=starts[:, level], color=color, label=label)
    for place, (share, start) in enumerate(zip(shares[:, 1], starts[:, 1], strict=True)):
        axis.text(start + share / 2, place, f"{share:.1%}", ha="center", va="center", fontsize="x-small")
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="share of weights; the figure is that of zeros")
    axis.tick_params(axis="y", labelsize="small")
    axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _plot_weights(axis: Any, histogram: NDArray[np.int64], quantizer: str) -> None:
    """Where the weights lie that the levels are made from; the last bins hold what lies beyond them."""
    edges = np.linspace(-_LIMIT, _LIMIT, _BINS + 1)
    borders = (0.0,) if quantizer == "sign_mean" else (-0.5, 0.5)
    centres = (edges[:-1] + edges[1:]) / 2
    level = np.digitize(centres, borders) if len(borders) == 2 else 2 * np.digitize(centres, borders)
    axis.bar(
        centres,
        histogram / max(histogram.sum(), 1),
        width=edges[1] - edges[0],
        color=[_COLORS[index] for index in level],
    )
    for border in borders:
        axis.axvline(border, color="black", linewidth=0.8, linestyle=":")
    what = "weight - its matrix's mean" if quantizer == "sign_mean" else "weight"
    axis.set(title="All ternary matrices", ylabel="share of weights")
    axis.set_xlabel(f"{what}, in steps (mean |w| of its matrix)")
