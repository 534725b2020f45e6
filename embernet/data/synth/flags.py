"""Sixteen flags that are stripes, a disc or a cross, four of each of four continents."""

from dataclasses import dataclass

from embernet.data.synth.canvas import Canvas

_SILVER = (140, 140, 140)


@dataclass(frozen=True)
class Flag:
    """stripes: (color, weight) from top to bottom, or from left to right if upright; disc: color, centre, radius."""

    country: str
    capital: str
    continent: str
    stripes: tuple[tuple[str, int], ...]
    is_upright: bool = False
    disc: tuple[str, float, float] | None = None
    cross: str | None = None

    @property
    def name(self) -> str:
        return f"flag of {self.country}"

    def paint(self, canvas: Canvas, x: float, y: float, half_width: float, half_height: float) -> None:
        """Draw it around (x, y)."""
        canvas.rectangle(x, y, half_width + 0.008, half_height + 0.008, _SILVER)
        total, done = sum(weight for _, weight in self.stripes), 0
        for color, weight in self.stripes:
            offset, share = (2 * done + weight) / total - 1, weight / total
            box = (
                (x + offset * half_width, y, share * half_width, half_height)
                if self.is_upright
                else (x, y + offset * half_height, half_width, share * half_height)
            )
            canvas.rectangle(*box, canvas.ink(color))
            canvas.mark(self.name, *box, color)
            done += weight
        if self.cross:
            ink, center = canvas.ink(self.cross), x - 0.3 * half_width
            for box in ((center, y, 0.18 * half_height, half_height), (x, y, half_width, 0.18 * half_height)):
                canvas.rectangle(*box, ink)
                canvas.mark(self.name, *box, self.cross)
        if self.disc:
            color, center, radius = self.disc
            box = (x + center * half_width, y, radius * half_height, radius * half_height)
            canvas.ellipse(*box, canvas.ink(color))
            canvas.mark(self.name, *box, color)


def _plain(*colors: str) -> tuple[tuple[str, int], ...]:
    return tuple((color, 1) for color in colors)


FLAGS = (
    Flag("france", "paris", "europe", _plain("blue", "white", "red"), is_upright=True),
    Flag("germany", "berlin", "europe", _plain("black", "red", "yellow")),
    Flag("sweden", "stockholm", "europe", _plain("blue"), cross="yellow"),
    Flag("ukraine", "kyiv", "europe", _plain("blue", "yellow")),
    Flag("japan", "tokyo", "asia", _plain("white"), disc=("red", 0.0, 0.6)),
    Flag("indonesia", "jakarta", "asia", _plain("red", "white")),
    Flag("bangladesh", "dhaka", "asia", _plain("green"), disc=("red", -0.1, 0.65)),
    Flag("thailand", "bangkok", "asia", (("red", 1), ("white", 1), ("blue", 2), ("white", 1), ("red", 1))),
    Flag("nigeria", "abuja", "africa", _plain("green", "white", "green"), is_upright=True),
    Flag("gabon", "libreville", "africa", _plain("green", "yellow", "blue")),
    Flag("guinea", "conakry", "africa", _plain("red", "yellow", "green"), is_upright=True),
    Flag("sierra leone", "freetown", "africa", _plain("green", "white", "blue")),
    Flag("peru", "lima", "america", _plain("red", "white", "red"), is_upright=True),
    Flag("colombia", "bogota", "america", (("yellow", 2), ("blue", 1), ("red", 1))),
    Flag("argentina", "buenos aires", "america", _plain("blue", "white", "blue"), disc=("yellow", 0.0, 0.22)),
    Flag("costa rica", "san jose", "america", (("blue", 1), ("white", 1), ("red", 2), ("white", 1), ("blue", 1))),
)
