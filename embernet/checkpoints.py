"""Reading and writing checkpoints.

Ours is a directory: `config.json`, `model.safetensors`, and `tokenizer.json` where there is one. Every published form
is read too; which family a file belongs to is asked of the families. Files from strangers are hostile: tensors are
read with `weights_only=True` or from safetensors, never by unpickling objects.
"""

import errno
import json
import os
import pickle
import shutil
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embernet.errors import EmbernetError, InputError, MissingExtraError
from embernet.families import Family, family_names, get_family
from embernet.json_file import read_json_object

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
# In a checkpoint directory, the first of these that exists holds the weights.
_WEIGHT_FILES = (WEIGHTS_FILE, "model.pt", "pytorch_model.bin")

_ZIP_MAGIC = b"PK\x03\x04"
_USABLE_KINDS = tuple(f"strided {dtype} on cpu" for dtype in ("float32", "float16", "bfloat16", "float64"))

_CONVERT_HINT = (
    "where you trust the file: python -c \"import torch; c = torch.load('{name}', weights_only=False); "
    "torch.save(c['model_state_dict'], 'converted.pt')\""
)


@dataclass(frozen=True)
class RawCheckpoint:
    """A checkpoint as its file has it: `tensors` by the file's own names, `config` as JSON values or None."""

    path: Path
    tensors: Mapping[str, Any]
    config: Mapping[str, Any] | None
    config_path: Path | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Overrides:
    """What the caller says about a checkpoint that its file does not; None = not said."""

    num_attention_heads: int | None = None
    vision_num_heads: int | None = None
    weight_quantizer: str | None = None
    activation_bits: int | None = None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a known family: its configuration and its tensors by canonical name, read when asked for."""

    path: Path
    family: Family
    config: Any
    tensors: "Tensors"
    tokenizer_path: Path | None
    metadata: Mapping[str, Any]
    warnings: list[str] = field(default_factory=list)


class Tensors(Mapping[str, NDArray[np.float32]]):
    """Float32 arrays of torch tensors, converted one at a time; InputError for a NaN or an infinity."""

    def __init__(self, tensors: Mapping[str, Any], path: Path) -> None:
        self._tensors = tensors
        self._path = path

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        array: NDArray[np.float32] = self._tensors[name].detach().resolve_neg().float().numpy()
        if not np.isfinite(array).all():
            raise InputError(f"{self._path}: {name} holds NaN or infinite values")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def size(self, name: str) -> int:
        return int(self._tensors[name].numel())


def require_usable(tensors: Mapping[str, Any], path: Path) -> None:
    """InputError unless every torch tensor is a dense one of floats that its file holds in full."""
    for name, tensor in tensors.items():
        kind = f"{tensor.layout} {tensor.dtype} on {tensor.device.type}".replace("torch.", "")
        if tensor.is_nested or kind not in _USABLE_KINDS:
            found = "nested" if tensor.is_nested else kind
            raise InputError(f"{path}: tensor {name} cannot be used (found {found}, expected dense floats)")
        size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if size > stored:
            raise InputError(
                f"{path}: tensor {name} is larger than its storage (found {stored} bytes, expected {size})"
            )


def open_checkpoint(
    path: str | os.PathLike[str], config: str | os.PathLike[str] | None = None, overrides: Overrides | None = None
) -> Checkpoint:
    """Open a checkpoint file or directory; InputError says what is wrong with it.

    config: a JSON file that is used instead of the one in the directory. overrides: what shapes cannot tell.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint")
    weights_path = _weights_path(path) if path.is_dir() else path
    config_path = Path(config) if config is not None else path / CONFIG_FILE
    values = read_json_object(config_path) if config is not None or config_path.is_file() else None
    tensors, metadata = _read_tensors(weights_path)
    raw = RawCheckpoint(weights_path, tensors, values, config_path if values is not None else None, metadata)
    for name in family_names():
        family = get_family(name)
        read = family.part("checkpoint")
        if (result := read(raw, overrides or Overrides())) is not None:
            config_object, named, warnings = result
            tokenizer = path / TOKENIZER_FILE
            return Checkpoint(
                path=path,
                family=family,
                config=config_object,
                tensors=Tensors(named, weights_path),
                tokenizer_path=tokenizer if path.is_dir() and tokenizer.is_file() else None,
                metadata=metadata,
                warnings=warnings,
            )
    raise InputError(
        f"{weights_path}: not a checkpoint of a known family (known: {', '.join(family_names())}; "
        f"first tensor found: {next(iter(tensors), 'none')})"
    )


def save_checkpoint(
    folder: str | os.PathLike[str],
    config: Any,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, NDArray[np.float32]]],
    tokenizer_json: str | None = None,
) -> None:
    """Write a checkpoint directory whole or not at all; tensors are written as they come, in the order of `shapes`.

    InputError if the folder exists and holds something.
    """
    folder = Path(folder)
    require_new(folder)
    with part_folder(folder) as (part, target):
        write_checkpoint_files(part, config, shapes, tensors, tokenizer_json)
        part.replace(target)


def write_checkpoint_files(
    part: Path,
    config: Any,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, NDArray[np.float32]]],
    tokenizer_json: str | None = None,
) -> None:
    """The files of a checkpoint directory, into a folder of `part_folder`."""
    _write_text(part / CONFIG_FILE, json.dumps(config.to_dict(), indent=2, allow_nan=False) + "\n")
    if tokenizer_json is not None:
        _write_text(part / TOKENIZER_FILE, tokenizer_json)
    _write_safetensors(part / WEIGHTS_FILE, shapes, tensors)


def replace_folder(part: Path, target: Path) -> None:
    """Put a finished folder in place; an old one is moved aside first and removed last."""
    old = target.with_name(f".{target.name}.old{os.getpid()}")
    if target.exists():
        target.replace(old)
    part.replace(target)
    parent = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def part_folder(output: Path) -> Iterator[tuple[Path, Path]]:
    """A hidden folder to write into, and the place to move it to: `output` with its links followed.

    The folder is removed when the block fails; errors of the system name `output`.
    """
    target = Path(os.path.realpath(output))
    part = target.with_name(f".{target.name}.part{os.getpid()}")
    try:
        parent = next(folder for folder in target.parents if folder.exists())
        if not parent.is_dir():
            raise InputError(f"{output}: {parent} is not a folder")
        part.mkdir(parents=True)
        yield part, target
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise EmbernetError(f"{output}: could not be written ({reason}); nothing was left behind") from None
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; one that is there is replaced."""
    with part_folder(path) as (part, target):
        _write_text(part / target.name, text)
        (part / target.name).replace(target)
        part.rmdir()


def require_writable(path: Path) -> None:
    """EmbernetError if a file cannot be written: for what takes hours to make."""
    with part_folder(path) as (part, _):
        part.rmdir()


def require_new(folder: Path) -> None:
    """InputError if `folder` exists and is not an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already", hint="choose another folder or remove it")


def _write_text(path: Path, text: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, NDArray[np.float32]]]
) -> None:
    """The safetensors format, written in pieces: the library's own writer wants every tensor in memory at once."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * 4
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, shape), (given, array) in zip(shapes.items(), tensors, strict=True):
            if given != name or array.shape != shape:
                raise ValueError(f"expected tensor {name} {shape}, got {given} {array.shape}")
            file.write(np.ascontiguousarray(array, dtype="<f4").data)
        file.flush()
        os.fsync(file.fileno())


def _weights_path(folder: Path) -> Path:
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: not a checkpoint (it holds none of {', '.join(_WEIGHT_FILES)})")


def _read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Names to memory-mapped torch tensors, and the plain values that a training checkpoint holds beside them."""
    try:
        import torch
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError(
            f"reading a checkpoint needs {error.name}, which is not installed", hint="pip install 'embernet[export]'"
        ) from None

    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, {}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a whole safetensors file ({error})") from None
    try:
        with open(path, "rb") as file:
            is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks about rare kinds of tensors and pickles
            # Files of before PyTorch 1.6 are no zip archives and cannot be mapped.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror or error})") from None
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ... on cut and foreign files
        if isinstance(error, pickle.UnpicklingError) and (is_zip or "GLOBAL" in str(error)):
            raise InputError(
                f"{path}: holds pickled Python objects beside its tensors, and embernet runs no code from files",
                hint=_CONVERT_HINT.format(name=path.name),
            ) from None
        raise InputError(f"{path}: not a PyTorch checkpoint, or a damaged one") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: not a checkpoint (it holds a {type(content).__name__}, expected a dictionary)")
    state = content.get("model_state_dict", content)
    metadata = {
        name: _json_value(value)
        for name, value in content.items()
        if isinstance(name, str) and _json_value(name) is not None and isinstance(value, int | float | str)
    }
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: model_state_dict is a {type(state).__name__}, expected a dictionary")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no tensors")
    return tensors, metadata


def _json_value(value: float | str) -> float | str | None:
    """The value, or None for what JSON in UTF-8 cannot say: NaN, an infinity, half a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return None
    return value
