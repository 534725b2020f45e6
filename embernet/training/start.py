"""The model a run starts from: a checkpoint, or a new one of full size with SigLIP's weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from embernet.checkpoints import open_checkpoint
from embernet.errors import InputError
from embernet.export.tokenizer import read_tokenizer
from embernet.families import get_family
from embernet.hub import download_file
from embernet.initial import initial_tensors
from embernet.models.embernet.config import EmberNetConfig
from embernet.models.embernet.model import EmberNet

SIGLIP = "google/siglip-base-patch16-224"
TOKENIZER = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"  # of the published model, whatever its hub repository holds
_TOWER = "vision_encoder.encoder."


@dataclass(frozen=True)
class Start:
    """tensors: by the names of the torch module, each made when its turn comes. notes: what the user should know."""

    config: EmberNetConfig
    tensors: Iterable[tuple[str, NDArray[np.float32]]]
    tokenizer_json: str
    notes: tuple[str, ...] = ()

    def build(self) -> EmberNet:
        """The model, in memory once."""
        model = EmberNet(self.config)
        parameters = model.state_dict()
        with torch.no_grad():
            for name, array in self.tensors:
                parameters.pop(name).copy_(torch.from_numpy(array))
        if parameters:
            raise ValueError(f"no values for {', '.join(parameters)}")
        return model


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
        tensors=checkpoint.tensors.items(),
        tokenizer_json=_read_tokenizer(source, checkpoint.config),
        notes=tuple(checkpoint.warnings),
    )


def start_new(tokenizer: str | None, seed: int) -> Start:
    """A new model of full size: random weights, and the vision tower of SigLIP from the hub.

    NetworkError if that cannot be fetched and is not in the hub's cache.
    """
    config = EmberNetConfig()
    tower = _fetch_tower(config)
    tensors = (
        (name, tower.get(name, array)) for name, array in initial_tensors(get_family(config.family), config, seed)
    )
    return Start(config, tensors, _read_tokenizer(tokenizer or TOKENIZER, config))


def _fetch_tower(config: EmberNetConfig) -> dict[str, NDArray[np.float32]]:
    """SigLIP's vision weights under our names; InputError unless they are all that the tower needs."""
    path = download_file(SIGLIP, "model.safetensors")
    needed = {name: shape for name, shape in EmberNet.tensor_shapes(config).items() if name.startswith(_TOWER)}
    tower: dict[str, NDArray[np.float32]] = {}
    try:
        with safe_open(path, framework="np") as file:
            for name, shape in needed.items():
                tower[name] = file.get_tensor("vision_model." + name.removeprefix(_TOWER)).astype(np.float32)
                if tower[name].shape != shape:
                    raise InputError(
                        f"{path}: {name} has the wrong shape (found {tower[name].shape}, expected {shape})"
                    )
    except SafetensorError as error:
        raise InputError(f"{path}: not SigLIP's weights ({error})") from None
    return tower


def _read_tokenizer(source: str | Path, config: EmberNetConfig) -> str:
    return read_tokenizer(source, config.vocab_size, config.image_token_ids, config.prompt_template)
