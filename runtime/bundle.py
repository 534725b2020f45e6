"""Reading a bundle: the directory `NAME.ember/` that holds one exported model. docs/bundle-format.md describes it.

A bundle may come from a stranger. Everything the manifest says is checked before it is used: version, types, file
names (plain names inside the directory), sizes, and on request the hashes.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embernet.errors import BundleError

FORMAT = "embernet.bundle"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.bin"
TOKENIZER_FILE = "tokenizer.json"
CARD_FILE = "README.md"  # for people; written after the bundle, which it describes, so no manifest lists it
GRAPH_FILES = ("vision.onnx", "embedding.onnx", "decoder.onnx")
SUFFIX = ".ember"
DEFAULT_MODEL = "spark"
# In manifests: how many ternary weights are -1, 0 and +1.
LEVEL_NAMES = ("minus_one", "zero", "plus_one")

MAX_CONTEXT_LENGTH = 2**20
MAX_VOCAB_SIZE = 2**24
MAX_EXPERTS = 4096
_MAX_NAME_BYTES = 255  # Linux

_BUILT_IN = Path(__file__).parent / "models"


@dataclass(frozen=True)
class ImageFormat:
    """How an image becomes pixel_values: resize to size x size, / 255, subtract mean, divide by std."""

    size: int
    resample: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class PromptFormat:
    """template: the first turn, turn: every later one, each with {prompt}; prompts: texts of the named tasks."""

    template: str
    turn: str
    prompts: Mapping[str, str]


@dataclass(frozen=True)
class GenerationDefaults:
    """What a caller who says nothing gets. temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`, checked. `config` is the family's own and is checked by the family's pipeline."""

    name: str
    family: str
    config: Mapping[str, Any]
    quantizer: Mapping[str, Any]
    precision: Mapping[str, str]
    vocab_size: int
    context_length: int
    bos_token_id: int
    eos_token_id: int
    experts: tuple[str, ...]
    image: ImageFormat
    prompt: PromptFormat
    generation: GenerationDefaults
    parameters: Mapping[str, Any]
    bytes_by_kind: Mapping[str, int]
    files: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and its manifest. No weights are read yet."""

    path: Path
    manifest: Manifest

    def has_tokenizer(self) -> bool:
        return TOKENIZER_FILE in self.manifest.files

    def sha256(self) -> str:
        """One hash for the whole bundle: of its files' names and hashes."""
        lines = [f"{name} {entry['sha256']}\n" for name, entry in sorted(self.manifest.files.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def size(self) -> int:
        """Bytes of all files that the manifest lists."""
        return sum(entry["bytes"] for entry in self.manifest.files.values())

    def verify(self, progress: Callable[[int], object] = lambda _count: None) -> None:
        """Read every file and compare its hash; BundleError names the first that differs or is not listed.

        progress is called with the number of bytes read since the last call.
        """
        for file in sorted(self.path.iterdir()):
            if file.is_file() and file.name not in (MANIFEST_FILE, CARD_FILE, *self.manifest.files):
                raise BundleError(
                    f"{file}: not a file of this bundle (the manifest does not list it)", hint="remove it"
                )
        for name, entry in self.manifest.files.items():
            if file_sha256(self.path / name, progress) != entry["sha256"]:
                raise BundleError(
                    f"{self.path / name}: the content does not match the manifest's sha256",
                    hint="copy or export the bundle again",
                )


def file_sha256(path: Path, progress: Callable[[int], object] = lambda _count: None) -> str:
    """Hash a file piece by piece."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()


def bundle_names() -> dict[str, Path]:
    """Bundles that can be named without a path: those of the user's model folder, then the built-in ones."""
    found: dict[str, Path] = {}
    for folder in (model_folder(), _BUILT_IN):
        if folder.is_dir():
            for path in sorted(folder.glob(f"*{SUFFIX}")):
                found.setdefault(path.name.removesuffix(SUFFIX), path)
    return found


def model_folder() -> Path:
    """Where the user's bundles live: $EMBERNET_HOME, or embernet/ in the cache folder."""
    if home := os.environ.get("EMBERNET_HOME"):
        return Path(home)
    # Unlike Path.home(), this does not fail for a user who has none.
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "embernet"  # noqa: PTH111


def find_bundle(path_or_name: str | os.PathLike[str]) -> Path:
    """The directory of a bundle given by path or by name; BundleError lists the names if there is none."""
    path, text = Path(path_or_name), os.fspath(path_or_name)
    if (path / MANIFEST_FILE).is_file():
        return path
    names = bundle_names()
    # A folder that happens to have a bundle's name, such as the checkpoint it was made of, does not hide the bundle.
    if path.exists() and text not in names:
        return path
    if text in names:
        return names[text]
    if len(path.parts) > 1 or path.suffix == SUFFIX:
        raise BundleError(f"{text}: no such bundle")
    raise BundleError(f"{text}: no bundle of this name (known: {', '.join(sorted(names)) or 'none'})")


def open_bundle(path_or_name: str | os.PathLike[str]) -> Bundle:
    """Open a bundle: read and check the manifest and the sizes of all files."""
    path = find_bundle(path_or_name)
    if not path.is_dir():
        raise BundleError(f"{path}: not a bundle (a bundle is a directory)")
    manifest_path = path / MANIFEST_FILE
    if not manifest_path.is_file():
        raise BundleError(f"{path}: not a bundle (it holds no {MANIFEST_FILE})")
    try:
        text = manifest_path.read_text(encoding="utf-8")
        values = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{manifest_path}: not readable as JSON ({error})") from None
    manifest = parse_manifest(values, str(manifest_path))
    for name, entry in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise BundleError(f"{file}: missing from the bundle", hint="copy or export the bundle again")
        if file.stat().st_size != entry["bytes"]:
            raise BundleError(
                f"{file}: wrong size (found {file.stat().st_size} bytes, expected {entry['bytes']})",
                hint="copy or export the bundle again",
            )
    return Bundle(path, manifest)


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is not JSON")
    return float(number)


def parse_manifest(values: Any, where: str) -> Manifest:
    """Check the decoded JSON of a manifest; BundleError begins with `where` and names the key that is wrong."""
    top = _Reader(values, where)
    if top.values.get("format") != FORMAT:
        raise BundleError(f"{where}: not an embernet bundle (format is {top.values.get('format')!r})")
    version = top.integer("format_version")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{where}: written in format version {version}; this embernet reads up to {FORMAT_VERSION}",
            hint="pip install --upgrade embernet",
        )
    tokens, image, prompt = top.section("tokens"), top.section("image"), top.section("prompt")
    generation = top.section("generation")
    files = top.section("files").values
    for name in (WEIGHTS_FILE, *GRAPH_FILES):
        if name not in files:
            raise BundleError(f"{where}: files lists no {name}", hint="export the model again")
    for name in files:
        is_plain = bool(name) and name.isprintable() and len(name.encode()) <= _MAX_NAME_BYTES and "\\" not in name
        if not is_plain or Path(name).name != name or name in (".", "..", MANIFEST_FILE):
            raise BundleError(f"{where}: {name!r:.80} is not a plain file name")
        entry = _Reader(files[name], f"{where}: files.{name}")
        entry.integer("bytes")
        entry.text("sha256")
    quantizer, precision, parameters = top.section("quantizer"), top.section("precision"), top.section("parameters")
    quantizer.line("weights")
    quantizer.integer("activation_bits")
    quantizer.section("levels").integers()
    for name in ("total", "ternary", "active"):
        parameters.integer(name)
    parameters.section("parts").integers()
    vocab_size = tokens.integer("vocab_size", low=1, high=MAX_VOCAB_SIZE)
    return Manifest(
        name=top.line("name"),
        family=top.line("family"),
        config=top.section("config").values,
        quantizer=quantizer.values,
        precision=precision.texts(),
        vocab_size=vocab_size,
        context_length=tokens.integer("context_length", low=1, high=MAX_CONTEXT_LENGTH),
        bos_token_id=tokens.integer("bos_token_id", high=vocab_size - 1),
        eos_token_id=tokens.integer("eos_token_id", high=vocab_size - 1),
        experts=top.names("experts", MAX_EXPERTS),
        image=ImageFormat(
            size=image.integer("size", low=1, high=4096),
            resample=image.choice("resample", ("bicubic", "bilinear")),
            mean=image.three_numbers("mean", -1e6, 1e6),
            std=image.three_numbers("std", 1e-6, 1e6),
        ),
        prompt=PromptFormat(
            template=prompt.template("template"),
            turn=prompt.template("turn"),
            prompts=prompt.section("prompts").texts(),
        ),
        generation=GenerationDefaults(
            max_new_tokens=generation.integer("max_new_tokens", low=1),
            temperature=generation.number("temperature", 0, 1e6),
            top_k=generation.integer("top_k"),
            top_p=generation.number("top_p", 1e-6, 1),
        ),
        parameters=parameters.values,
        bytes_by_kind=top.section("bytes").integers(),
        files=files,
        provenance=top.section("provenance").values,
    )


_LINE = "one line of printable text"


class _Reader:
    """Typed access to one JSON object; every failure names the key."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise BundleError(f"{where}: expected an object")
        self.values: dict[str, Any] = values
        self._where = where

    def _get(self, key: str, types: type | tuple[type, ...], expected: str) -> Any:
        value = self.values.get(key)
        if not isinstance(value, types) or isinstance(value, bool):
            raise BundleError(f"{self._where}: {key} is missing or wrong (found {value!r:.80}, expected {expected})")
        return value

    def section(self, key: str) -> "_Reader":
        return _Reader(self._get(key, dict, "an object"), f"{self._where}: {key}")

    def text(self, key: str) -> str:
        return str(self._get(key, str, "a text"))

    def line(self, key: str) -> str:
        """A text that is printed: a terminal is not to be told what to do by a name."""
        text = self.text(key)
        if not text.isprintable():
            raise BundleError(f"{self._where}: {key} must be {_LINE} (found {text!r:.80})")
        return text

    def _labels(self) -> list[str]:
        """The keys of an object that has names of its own, which are printed too."""
        for key in self.values:
            if not key.isprintable():
                raise BundleError(f"{self._where}: a key must be {_LINE} (found {key!r:.80})")
        return list(self.values)

    def template(self, key: str) -> str:
        text = self.text(key)
        if text.count("{prompt}") != 1:
            raise BundleError(f"{self._where}: {key} must hold {{prompt}} exactly once")
        return text

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        text = self.text(key)
        if text not in choices:
            raise BundleError(f"{self._where}: {key} is {text!r} (expected one of {', '.join(choices)})")
        return text

    def integer(self, key: str, low: int = 0, high: int = 2**53) -> int:
        value = int(self._get(key, int, "a whole number"))
        if not low <= value <= high:
            raise BundleError(f"{self._where}: {key} is {value!r:.80} (expected {low} to {high})")
        return value

    def integers(self) -> dict[str, int]:
        """The whole object, whose values are all counts."""
        return {key: self.integer(key) for key in self._labels()}

    def texts(self) -> dict[str, str]:
        """The whole object, whose values are all texts."""
        return {key: self.text(key) for key in self._labels()}

    def number(self, key: str, low: float, high: float) -> float:
        value = self._get(key, (int, float), "a number")
        if not low <= value <= high:
            raise BundleError(f"{self._where}: {key} is {value!r:.80} (expected {low:g} to {high:g})")
        return float(value)

    def three_numbers(self, key: str, low: float, high: float) -> tuple[float, float, float]:
        values = self._get(key, list, "3 numbers")
        if len(values) != 3 or not all(type(v) in (int, float) and low <= v <= high for v in values):
            raise BundleError(f"{self._where}: {key} must hold 3 numbers from {low:g} to {high:g}")
        red, green, blue = map(float, values)
        return red, green, blue

    def names(self, key: str, most: int) -> tuple[str, ...]:
        values = self._get(key, list, "a list of texts")
        if len(values) > most or not all(isinstance(v, str) and v.isprintable() for v in values):
            raise BundleError(f"{self._where}: {key} must hold printable texts (at most {most})")
        return tuple(values)
