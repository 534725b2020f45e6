"""The curves of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embernet.errors import InputError
from embernet.plots.figure import COLORS, Figure, new_figure
from embernet.training.metrics import METRICS_FILE, read_metrics

_EXPERT = "train/expert_"


def plot_run(folder: Path) -> Figure:
    """Loss, learning rate, gradient norm and the experts' shares by step; InputError if there is no run."""
    metrics = read_metrics(folder / METRICS_FILE)
    figure = new_figure(11, 7.5)
    figure.suptitle(f"Training run {folder}")
    axes = figure.subplots(2, 2, sharex=True)
    _plot_losses(axes[0, 0], metrics)
    _plot(axes[0, 1], metrics, "train/lr", COLORS[0])
    axes[0, 1].set(title="Learning rate", ylabel="learning rate", ylim=(0, None))
    _plot(axes[1, 0], metrics, "train/grad_norm", COLORS[0])
    axes[1, 0].set(title="Gradient", ylabel="norm before clipping", yscale="log")
    names = sorted({key for values in metrics for key in values if key.startswith(_EXPERT)}, key=_number)
    for name in names:
        color = COLORS[_number(name) % len(COLORS)]
        _plot(axes[1, 1], metrics, name, color, label=f"expert {_number(name)}", linewidth=1)
    if names:
        axes[1, 1].axhline(1 / len(names), color="grey", linewidth=0.8, linestyle=":", label="even")
        axes[1, 1].legend(fontsize="small", ncols=3)
    axes[1, 1].set(title="Experts, all layers", ylabel="share of choices", ylim=(0, None))
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("optimiser step")
    return figure


def _plot_losses(axis: Any, metrics: Sequence[Mapping[str, float]]) -> None:
    _plot(axis, metrics, "train/loss", COLORS[4], label="training, each step", linewidth=0.8)
    _plot(axis, metrics, "train/window_avg_loss", COLORS[0], label="training, mean of 50 steps")
    _plot(axis, metrics, "val/loss", COLORS[5], label="validation", marker="o", markersize=4)
    axis.set(title="Loss", ylabel="loss (nats)")
    axis.legend(fontsize="small")


def _plot(axis: Any, metrics: Sequence[Mapping[str, float]], name: str, color: str, **style: Any) -> None:
    points = [(values["step"], values[name]) for values in metrics if name in values]
    if points:
        axis.plot(*zip(*points, strict=True), color=color, **style)


def _number(name: str) -> int:
    try:
        return int(name.removeprefix(_EXPERT))
    except ValueError:
        raise InputError(f"{METRICS_FILE}: {name!r} is not the number of an expert") from None
