"""Which experts answer questions of which domain, as a heat map."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embernet.errors import InputError
from embernet.evaluation.evaluate import read_report
from embernet.plots.figure import Figure, new_figure


def plot_routing(report: Path) -> Figure:
    """A heat map for every layer, of a JSON file of `embernet eval`; InputError if it is none or has no routing."""
    values = read_report(report)
    try:
        return _plot(values["model"]["name"], values["routing"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{report}: its routing cannot be drawn ({type(error).__name__}: {error})") from None


def _plot(name: str, routing: Mapping[str, Any]) -> Figure:
    shares = np.array(routing["shares"], float)  # layers, domains, experts
    layers, domains, experts = shares.shape
    columns = min(layers, 4)
    rows = -(-layers // columns)
    figure = new_figure(2.6 + columns * (1 + 0.28 * experts), rows * (0.6 + 0.32 * domains) + 1.9)
    figure.suptitle(f"Experts by domain: {name}")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    image: Any = None
    for layer, axis in enumerate(axes.flat):
        if layer >= layers:
            axis.set_visible(False)
            continue
        image = axis.imshow(shares[layer], vmin=0, vmax=max(shares.max(), 1e-9), cmap="viridis", aspect="auto")
        bits = routing["mutual_information_bits"][layer]
        axis.set_title(f"layer {layer}: {bits:.2f} bits of {routing['domain_entropy_bits']:.2f}", fontsize="medium")
        axis.set_xticks(range(experts), routing["experts"], rotation=90, fontsize="small")
        axis.set_yticks(range(domains), routing["domains"], fontsize="small")
    figure.supxlabel("expert")
    figure.supylabel("domain of the question")
    figure.colorbar(image, ax=axes, label="share of the domain's choices")
    return figure
