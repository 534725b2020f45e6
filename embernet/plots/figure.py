"""What all pictures share: the library, colors, and how a picture becomes a file."""

from pathlib import Path

from embernet.checkpoints import part_folder
from embernet.errors import InputError, MissingExtraError

try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ImportError:
    raise MissingExtraError(
        "pictures need matplotlib, which is not installed", hint="pip install 'embernet[plot]'"
    ) from None

__all__ = ["COLORS", "Figure", "Rectangle", "new_figure", "rc_context", "require_picture_name", "save_figure"]

# Okabe and Ito's colors, which are told apart with every kind of color vision, and two greys.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000", "#999999", "#555555")
SUFFIXES = (".png", ".svg")
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "embernet"}  # text stays text, and equal pictures are equal files


def require_picture_name(output: Path) -> None:
    """InputError unless it ends in .png or .svg."""
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(f"{output}: a picture is written as {' or '.join(SUFFIXES)}")


def new_figure(width: float, height: float) -> Figure:
    """Width and height in inches. It belongs to no window and to no global state."""
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, output: Path) -> None:
    """Write a PNG or an SVG, whole or not at all."""
    with part_folder(output) as (part, target), rc_context(_STYLE):
        metadata = {"Date": None} if target.suffix.lower() == ".svg" else None
        figure.savefig(part / target.name, dpi=150, metadata=metadata)
        (part / target.name).replace(target)
        part.rmdir()
