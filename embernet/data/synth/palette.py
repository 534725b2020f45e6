"""The colors that have a name, and backgrounds they stand out from."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Rgb: TypeAlias = tuple[int, int, int]

CONTRAST = 125  # of the 255 levels of a channel: what print must differ by to be read in a bad light

COLORS: dict[str, Rgb] = {
    "red": (214, 40, 40),
    "green": (46, 150, 60),
    "blue": (40, 80, 210),
    "yellow": (245, 215, 40),
    "orange": (245, 135, 25),
    "purple": (130, 50, 170),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}


def jitter(color: Rgb, amount: float, rng: np.random.Generator) -> Rgb:
    """A color that differs by up to `amount` in each channel."""
    red, green, blue = (c + offset for c, offset in zip(color, rng.uniform(-amount, amount, 3).tolist(), strict=True))
    return _channel(red), _channel(green), _channel(blue)


def background(rng: np.random.Generator, colors: Sequence[str], contrast: float = CONTRAST) -> Rgb:
    """A background that differs from each of `colors` by `contrast` in some channel."""
    inks = [COLORS[name] for name in colors]
    while True:
        if rng.random() < 0.8:  # mostly paper, grey or dark; sometimes any color
            levels = (rng.uniform(205, 255), rng.uniform(90, 205), rng.uniform(0, 60))
            base = levels[rng.integers(3)] + rng.uniform(-12, 12, 3)
        else:
            base = rng.uniform(0, 255, 3)
        red, green, blue = np.clip(base, 0, 255).tolist()
        if all(max(abs(r - red), abs(g - green), abs(b - blue)) > contrast for r, g, b in inks):
            return int(red), int(green), int(blue)


def black_or_white(color: Rgb) -> str:
    """Which of the two is easier to read on `color`."""
    red, green, blue = color
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 128 else "white"


def contrasting(color: Rgb, rng: np.random.Generator) -> str:
    """Name of a color that stands out from `color` (from some greys none does by CONTRAST, then the best)."""
    differences = np.abs(np.array(list(COLORS.values())) - color).max(axis=1)
    enough = min(CONTRAST, int(differences.max()))
    names = [name for name, difference in zip(COLORS, differences, strict=True) if difference >= enough]
    return names[rng.integers(len(names))]


def _channel(value: float) -> int:
    return int(min(max(value, 0), 255))
