"""The typefaces to print with, one family of them for the test split alone."""

import functools
import importlib.util
from pathlib import Path

import numpy as np
from PIL import ImageFont

from embernet.errors import MissingExtraError

# (package, used for): the [train] extra installs these typefaces.
_FONT_PACKAGES = {
    "font_caladea": "train",
    "font_fredoka_one": "train",
    "font_manrope": "train",
    "font_source_sans_pro": "train",
    "font_source_serif_pro": "train",
    "font_hanken_grotesk": "test",
}


def choose_typeface(rng: np.random.Generator, split: str) -> str:
    """Path of a typeface; half of the test drawings get one that training never sees."""
    paths = typefaces("test" if split == "test" and rng.random() < 0.5 else "train")
    return paths[rng.integers(len(paths))]


@functools.lru_cache(maxsize=512)
def load_typeface(path: str, size: int) -> ImageFont.FreeTypeFont:
    """A typeface at a size in pixels; opening one takes longer than printing a word."""
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def advance(path: str, character: str) -> float:
    """Width of a character in units of the typeface's size."""
    return load_typeface(path, 100).getlength(character) / 100


@functools.cache
def typefaces(split: str) -> list[str]:
    """Paths of the typefaces of "train" or "test", sorted by name; MissingExtraError without the packages."""
    paths: list[Path] = []
    for package, used_for in _FONT_PACKAGES.items():
        if used_for != split:
            continue
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError(
                f"the typeface package {package.replace('_', '-')!r} is not installed",
                hint="pip install 'embernet[train]'",
            )
        files = Path(spec.submodule_search_locations[0]) / "files"
        paths += [p for p in files.iterdir() if p.suffix in (".ttf", ".otf")]
    # Hairline weights vanish at 96 pixels; a TrueType twin of an OpenType file adds nothing.
    wanted = [p for p in paths if "ExtraLight" not in p.name and "Variable" not in p.name]
    return [str(p) for p in sorted(wanted, key=lambda p: p.name)]
