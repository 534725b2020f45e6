"""Experts of one checkpoint into another: how experts that were trained apart come together."""

import re
from collections.abc import Sequence
from pathlib import Path

from embernet.checkpoints import Checkpoint, open_checkpoint, save_checkpoint
from embernet.errors import InputError
from embernet.models.embernet.config import EmberNetConfig

_EXPERT = re.compile(r"\.moe\.experts\.(\d+)\.")


def merge_experts(base: Path, source: Path, experts: Sequence[int], output: Path) -> None:
    """Write the checkpoint `base` with the experts of these numbers, in every layer, taken from `source`.

    InputError if one of both is of another family, or they differ in more than the experts' values.
    """
    into, taken = _open(base), _open(source)
    if into.config.to_dict() != taken.config.to_dict():
        theirs = taken.config.to_dict()
        name = next(name for name, value in into.config.to_dict().items() if theirs[name] != value)
        raise InputError(
            f"{source}: cannot be merged into {base}: {name} differs (found {theirs[name]!r:.80}, "
            f"expected {into.config.to_dict()[name]!r:.80})"
        )
    for expert in experts:
        if not 0 <= expert < into.config.num_experts:
            raise InputError(f"{source}: there is no expert {expert} (found {into.config.num_experts} experts)")

    def is_taken(name: str) -> bool:
        match = _EXPERT.search(name)
        return match is not None and int(match[1]) in experts

    tokenizer = into.tokenizer_path
    save_checkpoint(
        output,
        into.config,
        {name: into.tensors.shape(name) for name in into.tensors},
        ((name, (taken if is_taken(name) else into).tensors[name]) for name in into.tensors),
        tokenizer.read_text(encoding="utf-8") if tokenizer else None,
    )


def _open(path: Path) -> Checkpoint:
    checkpoint = open_checkpoint(path)
    if checkpoint.family.name != EmberNetConfig.family:
        raise InputError(f"{path}: a checkpoint of the family {checkpoint.family.name!r} (expected 'embernet')")
    return checkpoint
