"""One stage of training from its configuration: what to start or go on from, where to write, on which machine."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer

from embernet.checkpoints import write_text
from embernet.data.example import ExampleSource
from embernet.errors import InputError, MissingExtraError
from embernet.training.batches import ConversationEncoder
from embernet.training.config import TrainConfig, preset_values
from embernet.training.examples import Examples
from embernet.training.run_checkpoint import RUN_FILE, RunCheckpoint, clean_run_folder, find_run_checkpoint
from embernet.training.start import start_from, start_new
from embernet.training.state import RunState
from embernet.training.trainer import Reporter, Trainer, TrainResult

CONFIG_FILE = "train_config.json"


@dataclass(frozen=True)
class Run:
    """A stage that is about to start. origin: the checkpoint it begins with, or goes on from if `goes_on`."""

    config: TrainConfig
    origin: RunCheckpoint | None = None
    goes_on: bool = False

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir) / f"stage{self.config.stage}"


def plan_run(
    given: Mapping[str, Any],
    file: Mapping[str, Any],
    file_name: str,
    preset: str | None = None,
    resume: Path | None = None,
) -> Run:
    """Decide every value of a run, and what it begins with.

    given: values of flags; file: those of a config file called `file_name`; resume: a checkpoint of a run, or a folder
    of them. InputError for a value that is not usable, a stage 1 after a stage 2, or a stage 2 without a stage 1.
    """
    TrainConfig.from_dict({"stage": 2} | dict(file), file_name)
    stage = given.get("stage", file.get("stage"))
    origin = find_run_checkpoint(resume, stage) if resume is not None else None
    if origin is not None and stage is None:
        stage = origin.stage
    if stage is None:
        raise InputError("which stage to train is not said", hint="add --stage 1 or --stage 2")
    goes_on = origin is not None and origin.stage == stage
    if origin is not None and goes_on and not origin.can_continue:
        raise InputError(
            f"{origin.path}: a finished model, without what is needed to go on",
            hint=f"add --model {origin.path} instead",
        )
    if origin is not None and stage < origin.stage:
        raise InputError(f"{origin.path}: of stage {origin.stage}, which comes after stage {stage}")
    if origin is not None and "model" in given:
        raise InputError(f"--resume and --model both say what to start from ({origin.path} and {given['model']})")
    values: dict[str, Any] = preset_values(preset, stage) if preset else {}
    if origin is not None and goes_on:
        values = origin.config.to_dict()
        if origin.path.parent.name == f"stage{stage}":
            values["output_dir"] = str(origin.path.parent.parent)
    config = TrainConfig.from_dict(values | dict(file) | dict(given) | {"stage": stage}, "training")
    if origin is not None and goes_on:
        _require_same_parameters(origin, config)
    if stage == 2 and origin is None and config.model is None:
        raise InputError(
            "stage 2 needs what stage 1 has made",
            hint="add --resume CHECKPOINTS/stage1/final_model, or --model with a checkpoint to start from",
        )
    return Run(config, origin, goes_on)


def _require_same_parameters(origin: RunCheckpoint, config: TrainConfig) -> None:
    """The optimiser's state is one of certain parameters, and of that optimiser."""
    for name in ("freeze", "experts", "optimizer"):
        found, expected = getattr(config, name), getattr(origin.config, name)
        if found != expected:
            raise InputError(
                f"{origin.path}: its run had another {name} (found {found}, expected {expected})",
                hint=f"--model {origin.path} for a new run",
            )


def train_stage(
    run: Run, training: Sequence[ExampleSource], validation: Sequence[ExampleSource], reporter: Reporter
) -> TrainResult:
    """Train on these sources; see `Trainer.run`. Started by `accelerate launch`, it works with the others."""
    config = run.config
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise InputError("device 'cuda' is not usable here", hint="--device cpu")
    on_cpu = config.device == "cpu" or not has_gpu
    amp = config.amp if config.amp is not None else not on_cpu
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="bf16" if amp else "no",
        log_with=_trackers(config) or None,
        project_dir=str(run.folder),
    )
    try:
        if accelerator.is_main_process:
            _prepare_folder(run)
        accelerator.wait_for_everyone()
        if run.origin is not None:
            start = start_from(run.origin.path, config.tokenizer)
        elif config.model is not None:
            start = start_from(Path(config.model), config.tokenizer)
        else:
            start = start_new(config.tokenizer, config.seed)
        if config.experts is not None and max(config.experts) >= start.config.num_experts:
            raise InputError(f"there is no expert {max(config.experts)} (found {start.config.num_experts} experts)")
        model = start.build()
        encoder = ConversationEncoder(Tokenizer.from_str(start.tokenizer_json), start.config)
        limit = config.max_samples_per_dataset
        trainer = Trainer(
            config,
            model,
            start.tokenizer_json,
            Examples(training, encoder, config.max_text_tokens, limit),
            Examples(validation, encoder, config.max_text_tokens, limit) if validation else None,
            run.folder,
            accelerator,
            reporter,
            run.origin.state if run.origin is not None and run.goes_on else RunState(),
            run.origin.path if run.origin is not None and run.goes_on else None,
        )
        if run.origin is not None and run.goes_on:
            _check_same_order(run.origin, trainer)
        if accelerator.is_main_process:
            write_text(run.folder / CONFIG_FILE, json.dumps(config.to_dict(), indent=2) + "\n")
            for text in start.notes:
                reporter.note(text)
        _start_trackers(accelerator, trainer)
        return trainer.run()
    finally:
        accelerator.end_training()


def _prepare_folder(run: Run) -> None:
    """Make the run's folder, or tidy the one that is gone on in; InputError if another run has been there."""
    if run.folder.is_dir():
        clean_run_folder(run.folder)
    goes_on_here = run.goes_on and run.origin is not None and run.folder.resolve() == run.origin.path.parent.resolve()
    if not goes_on_here and any(run.folder.glob(f"*/{RUN_FILE}")):
        raise InputError(
            f"{run.folder}: holds a run already", hint=f"--resume {run.folder}, or another --output-dir for a new one"
        )
    run.folder.mkdir(parents=True, exist_ok=True)


def _check_same_order(origin: RunCheckpoint, trainer: Trainer) -> None:
    """A run can go on only over the batches it began with."""
    for what, found, expected in (
        ("examples to train on", trainer.num_examples, origin.num_examples),
        ("examples per step", trainer.plan.global_batch, origin.global_batch),
    ):
        if found != expected:
            raise InputError(
                f"{origin.path}: its run had other {what} (found {found}, expected {expected})",
                hint="batch size x accumulation x processes, and the data, must be as before; or --model for a new run",
            )


def _trackers(config: TrainConfig) -> list[str]:
    """Names of the trackers that are asked for, as accelerate knows them."""
    wanted = [name for name in ("tensorboard", "wandb") if getattr(config, name)]
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(
                f"--{name} needs {name}, which is not installed", hint=f"pip install 'embernet[{name}]'"
            )
    return wanted


def _start_trackers(accelerator: Accelerator, trainer: Trainer) -> None:
    config, model = trainer.config, trainer.model_config
    values = {
        "stage": config.stage,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "gradient_accumulation_steps": config.grad_accum,
        "use_bitnet_optimizer": config.optimizer == "bitnet",
        "hidden_size": model.hidden_size,
        "num_layers": model.num_layers,
        "num_experts": model.num_experts,
        "num_experts_per_tok": model.num_experts_per_tok,
    }
    accelerator.init_trackers(
        config.wandb_project, config=values, init_kwargs={"wandb": {"name": config.run_name}} if config.wandb else {}
    )
