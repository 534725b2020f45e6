"""Writing a bundle: from a checkpoint to `NAME.ember/`, whole or not at all."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embernet import __version__
from embernet.checkpoints import Checkpoint, part_folder, replace_folder
from embernet.errors import InputError
from embernet.export.tokenizer import read_tokenizer
from embernet.export.weights import WeightsWriter
from embernet.parameters import ParameterCounts
from embernet.runtime.bundle import (
    FORMAT,
    FORMAT_VERSION,
    LEVEL_NAMES,
    MANIFEST_FILE,
    SUFFIX,
    TOKENIZER_FILE,
    file_sha256,
    parse_manifest,
)

Progress = Callable[[int], object]


@dataclass(frozen=True)
class ExportOptions:
    """vision, embedding: "int8" or "float32". tokenizer: path or hub repository, None = the checkpoint's own.

    name: what the bundle calls itself, None = its directory's name. force: replace a bundle that is there already.
    """

    vision: str = "int8"
    embedding: str = "int8"
    tokenizer: str | None = None
    name: str | None = None
    force: bool = False


@dataclass(frozen=True)
class ExportReport:
    """What was written. bytes_by_kind: of `weights.bin`; bits_per_ternary_weight counts padding, not scales."""

    path: Path
    parameters: ParameterCounts
    bytes_by_kind: dict[str, int]
    file_bytes: dict[str, int]
    warnings: list[str]

    @property
    def total_bytes(self) -> int:
        return sum(self.file_bytes.values())

    @property
    def bits_per_ternary_weight(self) -> float:
        return 8 * self.bytes_by_kind["ternary"] / self.parameters.ternary

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "parameters": self.parameters.to_dict(),
            "bytes": self.bytes_by_kind | {"total": self.total_bytes},
            "files": self.file_bytes,
            "bits_per_ternary_weight": self.bits_per_ternary_weight,
            "bits_per_weight": 8 * self.total_bytes / self.parameters.total,
            "warnings": self.warnings,
        }


def export_bundle(
    checkpoint: Checkpoint,
    output: Path,
    options: ExportOptions,
    progress: Progress = lambda _count: None,
    inspect: Callable[[Path], object] | None = None,
) -> ExportReport:
    """Write a checkpoint as a bundle, one tensor at a time.

    progress is called with the number of parameters that were folded since the last call; inspect with the finished
    bundle before it gets its name, and fails the export by raising. A failure leaves nothing behind. Where output is
    a link, the bundle behind it is replaced.
    """
    if output.exists() and not (output / MANIFEST_FILE).is_file():
        raise InputError(f"{output}: exists already and is not a bundle")
    if output.exists() and not options.force:
        raise InputError(f"{output}: exists already", hint="add --force to replace it")
    tokenizer, warnings = _tokenizer(checkpoint, options)
    with part_folder(output) as (part, target):
        name = options.name or target.name.removesuffix(SUFFIX)
        if not name.isprintable():
            raise InputError(f"{name!r:.80}: no name for a bundle (expected one line of printable text)")
        options = replace(options, name=name)
        report = _write(part, output, checkpoint, options, tokenizer, warnings, progress)
        if inspect is not None:
            inspect(part)
        replace_folder(part, target)
    return report


def _tokenizer(checkpoint: Checkpoint, options: ExportOptions) -> tuple[str | None, list[str]]:
    """The tokenizer's JSON, if there is one, and what the user should know about it."""
    config = checkpoint.config
    source = options.tokenizer or checkpoint.tokenizer_path
    if source is None:
        return None, ["no tokenizer: the bundle can run token ids, but cannot caption (add --tokenizer)"]
    try:
        return read_tokenizer(source, config.vocab_size, config.image_token_ids, config.prompt_template), []
    except InputError as error:
        if options.tokenizer:
            raise
        # Published uploads carry the tokenizer of another model.
        return None, [f"{error}; it is ignored (add --tokenizer)"]


def _write(
    folder: Path,
    output: Path,
    checkpoint: Checkpoint,
    options: ExportOptions,
    tokenizer: str | None,
    warnings: list[str],
    progress: Progress,
) -> ExportReport:
    tensors = _Watched(checkpoint.tensors, progress)
    weights = WeightsWriter(folder)
    try:
        build = checkpoint.family.part("graphs")
        graphs = build(checkpoint.config, tensors, weights, options.vision, options.embedding)
    finally:
        weights.close()
    for name, graph in graphs.items():
        ir.save(graph, folder / f"{name}.onnx")
    if tokenizer is not None:
        (folder / TOKENIZER_FILE).write_text(tokenizer, encoding="utf-8")
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())
    }
    shapes = {name: checkpoint.tensors.shape(name) for name in checkpoint.tensors}
    parameters = checkpoint.family.part("parameters")(checkpoint.config, shapes)
    manifest = _manifest(checkpoint, options, parameters, weights, files)
    parse_manifest(manifest, MANIFEST_FILE)  # what the reader would refuse is never written
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    for path in folder.iterdir():
        _sync(path)
    return ExportReport(
        path=output,
        parameters=parameters,
        bytes_by_kind=weights.bytes_by_kind,
        file_bytes={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        warnings=[*checkpoint.warnings, *warnings],
    )


def _manifest(
    checkpoint: Checkpoint,
    options: ExportOptions,
    parameters: ParameterCounts,
    weights: WeightsWriter,
    files: Mapping[str, Any],
) -> dict[str, Any]:
    config = checkpoint.config
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": options.name,
        "family": checkpoint.family.name,
        "config": config.to_dict(),
        "quantizer": {
            "weights": config.weight_quantizer,
            "activation_bits": config.activation_bits,
            "levels": dict(zip(LEVEL_NAMES, weights.levels.tolist(), strict=True)),
        },
        "precision": {"vision": options.vision, "embedding": options.embedding},
        "tokens": {
            "vocab_size": config.vocab_size,
            "context_length": config.max_position_embeddings,
            "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_id,
        },
        "experts": list(config.expert_domains),
        "image": {
            "size": config.image_size,
            "resample": config.resample,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "prompt": {
            "template": config.prompt_template,
            "turn": config.turn_template,
            "prompts": dict(config.prompts),
        },
        "generation": {
            "max_new_tokens": config.max_new_tokens,
            "temperature": 0.0,
            "top_k": config.top_k,
            "top_p": config.top_p,
        },
        "parameters": parameters.to_dict(),
        "bytes": weights.bytes_by_kind,
        "files": dict(files),
        "provenance": {
            "embernet_version": __version__,
            "checkpoint": checkpoint.path.name,
            "checkpoint_values": dict(checkpoint.metadata),
        },
    }


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class _Watched(Mapping[str, NDArray[np.float32]]):
    """Tensors that report their size when they are first read."""

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]], progress: Progress) -> None:
        self._tensors = tensors
        self._progress = progress
        self._seen: set[str] = set()

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        array = self._tensors[name]
        if name not in self._seen:
            self._seen.add(name)
            self._progress(array.size)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
