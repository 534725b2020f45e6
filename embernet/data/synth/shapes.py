"""Colored shapes: their outlines and names."""

import functools
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from embernet.data.synth.drawing import Mark

Points: TypeAlias = list[tuple[float, float]]

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
SIZES = {"small": (0.09, 0.13), "large": (0.18, 0.23)}  # radius in image sides
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


@dataclass(frozen=True)
class Thing:
    """A shape to draw: centre and radius in image sides. Its size and role are what its mark says."""

    size: str
    color: str
    shape: str
    x: float
    y: float
    radius: float
    role: str = ""

    @property
    def name(self) -> str:
        return f"{self.size} {self.color} {self.shape}"

    @property
    def mark(self) -> Mark:
        return Mark(self.shape, self.color, self.size, self.x, self.y, self.radius, self.radius, role=self.role)

    def corners(self, rng: np.random.Generator) -> Points:
        """Its outline in image sides, slightly turned."""
        turn = math.radians(float(rng.uniform(-14, 14)))
        return [
            (
                self.x + self.radius * (px * math.cos(turn) - py * math.sin(turn)),
                self.y + self.radius * (px * math.sin(turn) + py * math.cos(turn)),
            )
            for px, py in outline(self.shape)
        ]


def a_thing(color: str, shape: str) -> str:
    """("orange", "star") -> "an orange star"."""
    return f"{'an' if color == 'orange' else 'a'} {color} {shape}"


def scatter(count: int, radius: float, rng: np.random.Generator, top: float = 0.0) -> Points:
    """Centres of `count` things that do not touch, in the image below `top`."""
    centres: Points = []
    while len(centres) < count:  # six circles of the radii in use always leave room for another try
        x, y = (float(c) for c in rng.uniform((radius, top + radius), 1 - radius))
        if all(math.hypot(x - cx, y - cy) > 2.3 * radius for cx, cy in centres):
            centres.append((x, y))
    return centres


def on_circle(count: int, start: float = -90.0, radii: tuple[float, ...] = (1.0,)) -> Points:
    """`count` points around the origin, clockwise from `start` degrees, y downwards; they take the radii in turn."""
    angles = [math.radians(start + 360 * i / count) for i in range(count)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


@functools.cache
def outline(shape: str) -> tuple[tuple[float, float], ...]:
    """The corners of a shape that fits the unit circle, y downwards."""
    if shape == "circle":
        return tuple(on_circle(48))
    if shape == "square":
        return tuple(on_circle(4, start=-45))
    if shape == "triangle":
        return tuple(on_circle(3))
    if shape == "star":
        return tuple(on_circle(10, radii=(1.0, 0.42)))
    if shape == "heart":
        angles = [2 * math.pi * i / 48 for i in range(48)]
        return tuple(
            (
                math.sin(a) ** 3,
                -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 17,
            )
            for a in angles
        )
    w = 0.32  # cross: half the width of a bar
    quarter = [(-w, -1.0), (w, -1.0), (w, -w), (1.0, -w), (1.0, w), (w, w), (w, 1.0), (-w, 1.0), (-w, w), (-1.0, w)]
    return (*quarter, (-1.0, -w), (-w, -w))
