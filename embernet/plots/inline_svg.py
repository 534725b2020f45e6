"""Figures as parts of an HTML page, in the colors and the typeface of the page."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from embernet.plots.figure import Figure, rc_context

# Stands for the page's own color of text, which differs by day and by night.
INK = "#0a0b0c"
_STYLE = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "embernet",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@contextmanager
def page_style() -> Iterator[None]:
    """Figures that are made and written inside look as those of a page."""
    with rc_context(_STYLE):
        yield


def inline_svg(figure: Figure, name: str) -> str:
    """An <svg> element that is as wide as its place. name: a word that no other figure of the page has.

    Only for figures that show no text of strangers.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)  # an id is the only one of a page
    text = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", text)
    text = re.sub(r'^<svg([^>]*?) height="[^"]*"', r'<svg aria-hidden="true"\1', text)
    return text.replace(INK, "currentColor").strip()
