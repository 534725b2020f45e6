"""Checkpoints of a run: written whole or not at all, found again, and read back exactly.

A run's folder, stage1 or stage2, holds `checkpoint_step_N` and `checkpoint_epoch_N`, from which training continues
as if it had never stopped, and `best_model` and `final_model`, which are finished models. Each is a checkpoint that
`embernet export` reads, with more files beside:

    run.json            stage, step, learning rate, configuration, and what the run remembers
    optimizer.pt        the optimiser's state by parameter name
    ema.safetensors     averages of the trained weights; finished models hold them as their weights
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embernet.checkpoints import part_folder, replace_folder, write_checkpoint_files
from embernet.errors import InputError
from embernet.json_file import read_json_object
from embernet.training.config import TrainConfig
from embernet.training.state import RunState

RUN_FILE = "run.json"
OPTIMIZER_FILE = "optimizer.pt"
EMA_FILE = "ema.safetensors"
BEST_MODEL = "best_model"
FINAL_MODEL = "final_model"
_CONTINUABLE = re.compile(r"checkpoint_(?:step|epoch)_\d+")
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>part|old)\d+")


@dataclass(frozen=True)
class RunCheckpoint:
    """A checkpoint directory that a run wrote."""

    path: Path
    config: TrainConfig
    state: RunState
    global_batch: int
    num_examples: int
    can_continue: bool

    @property
    def stage(self) -> int:
        return self.config.stage


@dataclass(frozen=True)
class RunTensors:
    """CPU tensors of the whole model by name. optimizer, ema: None in a finished model."""

    model: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None = None
    ema: Mapping[str, Any] | None = None


def write_run_checkpoint(
    path: Path, model_config: Any, tokenizer_json: str, tensors: RunTensors, run: Mapping[str, Any]
) -> None:
    """Write a checkpoint directory whole or not at all; one that is there is replaced."""
    import torch
    from safetensors.torch import save

    arrays = {name: tensor.float().numpy() for name, tensor in tensors.model.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    with part_folder(path) as (part, target):
        write_checkpoint_files(part, model_config, shapes, arrays.items(), tokenizer_json)
        if tensors.ema is not None:
            _write_bytes(part / EMA_FILE, save({name: t.contiguous() for name, t in tensors.ema.items()}))
        if tensors.optimizer is not None:
            with open(part / OPTIMIZER_FILE, "xb") as file:
                torch.save(tensors.optimizer, file)
                file.flush()
                os.fsync(file.fileno())
        _write_bytes(part / RUN_FILE, (json.dumps(run, indent=2, allow_nan=False) + "\n").encode())
        replace_folder(part, target)


def read_run_checkpoint(path: Path) -> RunCheckpoint:
    """Read what a checkpoint says about its run, without its tensors; InputError if that is not usable."""
    values = read_json_object(path / RUN_FILE)
    try:
        return RunCheckpoint(
            path=path,
            config=TrainConfig.from_dict(values["config"], str(path / RUN_FILE)),
            state=RunState.from_dict(values["state"]),
            global_batch=int(values["global_batch"]),
            num_examples=int(values["num_examples"]),
            can_continue=(path / OPTIMIZER_FILE).is_file(),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path / RUN_FILE}: not the record of a run ({error})") from None


def read_run_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The optimiser's state and the averages, if any, of a checkpoint that can be continued."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        optimizer = torch.load(path / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
        ema = load_file(path / EMA_FILE) if (path / EMA_FILE).is_file() else None
    except (OSError, RuntimeError, EOFError, KeyError, SafetensorError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: its optimiser's state is damaged ({' '.join(str(error).split())[:200]})") from None
    return optimizer, ema


def find_run_checkpoint(path: Path, stage: int | None = None) -> RunCheckpoint:
    """The checkpoint that `path` is, or the one to go on from in a run's folder or the folder of both stages.

    stage: what is to be trained; None: what the newest checkpoint was. That is the newest checkpoint of that stage,
    or, for a stage 2 that has not begun, the finished model of stage 1.
    """
    if (path / RUN_FILE).is_file():
        return read_run_checkpoint(path)
    folders = [path, path / "stage1", path / "stage2"]
    written = [child for folder in folders if folder.is_dir() for child in folder.iterdir() if not _is_hidden(child)]
    found = [read_run_checkpoint(child) for child in written if (child / RUN_FILE).is_file()]
    to_continue = [c for c in found if c.can_continue and stage in (None, c.stage)]
    if to_continue:
        return max(to_continue, key=lambda c: (c.stage, c.state.global_step))
    for checkpoint in found:
        if stage == 2 and checkpoint.stage == 1 and checkpoint.path.name == FINAL_MODEL:
            return checkpoint
    raise InputError(f"{path}: no checkpoint of a run to go on from")


def remove_old_checkpoints(folder: Path, keep: int, step: int) -> None:
    """Remove all but the newest `keep` checkpoints that can be continued; finished models stay.

    Those after `step`, where the run is, go too: they are of the course that it left when it went on from an older one.
    """
    found = [read_run_checkpoint(child) for child in folder.iterdir() if _CONTINUABLE.fullmatch(child.name)]
    found.sort(key=lambda c: c.state.global_step)
    abandoned = [c for c in found if c.state.global_step > step]
    for checkpoint in abandoned + [c for c in found if c not in abandoned][:-keep]:
        hidden = checkpoint.path.with_name(f".{checkpoint.path.name}.old{os.getpid()}")
        checkpoint.path.replace(hidden)  # so that a half-removed one is never seen
        shutil.rmtree(hidden, ignore_errors=True)  # what a network file system holds open goes when the run is resumed


def clean_run_folder(folder: Path) -> None:
    """Finish what a killed run left unfinished: half-written folders go, one that was only moved aside comes back."""
    for child in folder.iterdir():
        if (match := _LEFTOVER.fullmatch(child.name)) is None:
            continue
        whole = folder / match["name"]
        if match["kind"] == "old" and match["name"] in (BEST_MODEL, FINAL_MODEL) and not whole.exists():
            child.replace(whole)
        elif child.is_dir():
            shutil.rmtree(child)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _write_bytes(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
