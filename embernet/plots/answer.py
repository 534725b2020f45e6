"""One answer: its image, where attention went, and the experts that computed each of its tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embernet.errors import InputError
from embernet.evaluation.answering import Reply, open_answerer
from embernet.evaluation.samples import Probe, Sample
from embernet.plots.figure import COLORS, Figure, Rectangle, new_figure
from embernet.runtime.image import ImageSource, load_image


def plot_answer(model: str, image: ImageSource, question: str, tokenizer: str | None = None) -> Figure:
    """Ask a checkpoint or a bundle, and draw what happened; attention can be had of a checkpoint only.

    InputError if the image or the question cannot be used.
    """
    answerer = open_answerer(model, tokenizer)
    sample = Sample("", load_image(image).rgb, "", (Probe(None, question, ()),))
    reply = answerer.answer([sample])[0][0]
    if reply.problem is not None:
        raise InputError(reply.problem)
    attention = answerer.attention(sample, reply)
    layers, pictures = reply.choices.shape[1], 1 if attention is None else 2
    figure = new_figure(4 * pictures + 1.5 + max(3.0, 0.75 * len(reply.ids)), max(4.2, 1.2 + 0.35 * layers))
    figure.suptitle(f"{question}\n{reply.text}", fontweight="bold")
    axes = figure.subplots(1, pictures + 1, width_ratios=[4] * pictures + [max(3.0, 0.75 * len(reply.ids))])
    axes[0].imshow(sample.image)
    axes[0].set(title="image", xticks=[], yticks=[])
    if attention is not None:
        _plot_attention(figure, axes[1], sample.image, attention)
    _plot_experts(figure, axes[-1], reply, answerer.experts)
    return figure


def _plot_attention(figure: Figure, axis: Any, image: Image.Image, attention: NDArray[np.float32]) -> None:
    """attention (tokens, side, side) over the square that the model sees."""
    axis.imshow(image.convert("L"), cmap="gray", extent=(0, 1, 1, 0), alpha=0.6)
    mean = attention.mean(axis=0)
    shown = axis.imshow(100 * mean, cmap="inferno", extent=(0, 1, 1, 0), alpha=0.6, interpolation="nearest")
    axis.set(title=f"{mean.sum():.0%} of attention is on the image", xticks=[], yticks=[])
    axis.set_xlabel("mean of all tokens, layers and heads, followed through\nprojector and pooler", fontsize="small")
    figure.colorbar(shown, ax=axis, label="% of attention", shrink=0.75)


def _plot_experts(figure: Figure, axis: Any, reply: Reply, experts: Sequence[str]) -> None:
    """A cell for every token and layer, with a stripe for every chosen expert."""
    tokens, layers, chosen = reply.choices.shape
    for (token, layer, place), expert in np.ndenumerate(np.sort(reply.choices)):
        color = COLORS[int(expert) % len(COLORS)]
        left = token + place / chosen
        axis.add_patch(Rectangle((left, layer), 1 / chosen, 1, facecolor=color))
    for line in range(tokens + 1):
        axis.axvline(line, color="white", linewidth=2)
    for line in range(layers + 1):
        axis.axhline(line, color="white", linewidth=2)
    axis.set(
        xlim=(0, tokens),
        ylim=(layers, 0),
        ylabel="layer",
        title="experts of each token",
        xlabel="· adds no text (the end)",
    )
    labels = [piece.strip() or "·" for piece in reply.tokens]
    axis.set_xticks(np.arange(tokens) + 0.5, labels, rotation=90, fontsize="small")
    axis.set_yticks(np.arange(layers) + 0.5, [str(layer) for layer in range(layers)])
    used = sorted({int(expert) for expert in reply.choices.flat})
    handles = [Rectangle((0, 0), 1, 1, facecolor=COLORS[e % len(COLORS)], label=experts[e]) for e in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
