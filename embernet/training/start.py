"""The model a run starts from: a checkpoint, or a new one of full size with SigLIP's weights."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embernet.checkpoints import open_checkpoint
from embernet.errors import InputError, NetworkError
from embernet.export.tokenizer import read_tokenizer
from embernet.families import get_family
from embernet.initial import initial_tensors
from embernet.models.embernet.config import EmberNetConfig

SIGLIP = "google/siglip-base-patch16-224"
TOKENIZER = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"  # of the published model, whatever its hub repository holds
_TOWER = "vision_encoder.encoder."


@dataclass(frozen=True)
class Start:
    """tensors: float32, by the names of the torch module. notes: what the user should know."""

    config: EmberNetConfig
    tensors: Mapping[str, NDArray[np.float32]]
    tokenizer_json: str
    notes: tuple[str, ...] = ()


def start_from(path: Path, tokenizer: str | None) -> Start:
    """Start from a checkpoint in any form that `open_checkpoint` reads; InputError if it is another family's."""
    checkpoint = open_checkpoint(path)
    if checkpoint.family.name != EmberNetConfig.family:
        raise InputError(f"{path}: a checkpoint of the family {checkpoint.family.name!r} (expected 'embernet')")
    source: str | Path | None = tokenizer or checkpoint.tokenizer_path
    if source is None:
        if checkpoint.config.vocab_size != EmberNetConfig.vocab_size:
            raise InputError(f"{path}: has no tokenizer", hint="add --tokenizer TOKENIZER.json")
        source = TOKENIZER
    return Start(
        config=checkpoint.config,
        tensors=checkpoint.tensors,
        tokenizer_json=_read_tokenizer(source, checkpoint.config),
        notes=tuple(checkpoint.warnings),
    )


def start_new(tokenizer: str | None, seed: int) -> Start:
    """A new model of full size: random weights, and the vision tower of SigLIP from the hub.

    NetworkError if that cannot be fetched and is not in the hub's cache.
    """
    config = EmberNetConfig()
    tensors = dict(initial_tensors(get_family(config.family), config, seed))
    for name, array in _fetch_tower():
        if name in tensors and tensors[name].shape != array.shape:
            raise InputError(f"{SIGLIP}: tensor {name} has the wrong shape (found {array.shape})")
        if name in tensors:  # the pooling head is not among them
            tensors[name] = array
    return Start(config, tensors, _read_tokenizer(tokenizer or TOKENIZER, config))


def _fetch_tower() -> Iterator[tuple[str, NDArray[np.float32]]]:
    """SigLIP's vision weights under our names."""
    from transformers import SiglipVisionModel

    try:
        tower = SiglipVisionModel.from_pretrained(SIGLIP, use_safetensors=True)
    except (OSError, ValueError) as error:  # transformers' own words for: no network, no such file, offline mode
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NetworkError(
            f"{SIGLIP}: the vision tower cannot be fetched ({reason:.200})",
            hint="add --model CHECKPOINT to start from one that is here",
        ) from None
    for name, tensor in tower.state_dict().items():
        yield _TOWER + name.removeprefix("vision_model."), tensor.float().numpy()


def _read_tokenizer(source: str | Path, config: EmberNetConfig) -> str:
    return read_tokenizer(source, config.vocab_size, config.image_token_ids, config.prompt_template)
