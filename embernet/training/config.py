"""Every knob of a training run: its default, its presets, and the files it is read from. No torch here.

What decides a value, first to last: a flag of the command line, the config file, the run that is resumed or the
preset, the default of the stage.
"""

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embernet.errors import InputError, MissingExtraError

OPTIMIZERS = ("bitnet", "adamw", "reference")
SCHEDULES = ("two_phase", "cosine")
FREEZE_SETS = ("promised", "reference", "none")
DEVICES = ("auto", "cpu", "cuda")

# (freeze set, stage): what the published README promises, and what the published code uses.
_LEARNING_RATES = {
    ("promised", 1): 1e-3,
    ("promised", 2): 1e-4,
    ("reference", 1): 1e-4,
    ("reference", 2): 3e-4,
    ("none", 1): 1e-3,
    ("none", 2): 1e-4,
}


@dataclass(frozen=True)
class TrainConfig:
    """Steps are optimiser steps; rates are per step; batch sizes are examples per process."""

    stage: int
    """1 aligns the projector, 2 specialises the experts."""

    # where
    data_dir: str = "./data"
    output_dir: str = "./checkpoints"
    """The run is written to its folder stage1 or stage2."""
    model: str | None = None
    """Checkpoint to start from; None: a new full-size model with SigLIP's weights (stage 1 only)."""
    tokenizer: str | None = None
    """tokenizer.json, its folder or a hub repository; None: the checkpoint's own."""

    # how long
    epochs: int = 3
    batch_size: int = 4
    grad_accum: int = 4
    max_samples_per_dataset: int | None = None

    # what is trained, and how
    freeze: str = "promised"
    experts: tuple[int, ...] | None = None
    """Train these experts and nothing else (stage 2)."""
    optimizer: str = "bitnet"
    """bitnet: AdamW and weight_clamp. adamw: AdamW. reference: the published code's, with its quirks."""
    lr: float | None = None
    """None: 1e-3 in stage 1 and 1e-4 in stage 2; 1e-4 and 3e-4 with the reference freeze set."""
    schedule: str = "two_phase"
    warmup_steps: int = 100
    phase1_fraction: float = 0.6
    """two_phase: the share of all steps after which the learning rate is a tenth."""
    weight_decay: float = 0.01
    weight_clamp: float | None = None
    """bitnet: latent ternary weights stay within +-this, 0 = no limit. None: 3 for absmean, none for sign_mean."""
    grad_clip: float = 1.0
    """Norm of the whole gradient; of each tensor's with the reference optimiser."""
    ema: float = 0.999
    """Decay of the averaged weights, which are evaluated and published; 0 = no average."""
    balance_weight: float = 0.01
    expert_supervision: float = 0.1
    """Weight in stage 2 of the loss that sends an example to its domain's expert."""
    curriculum: bool = True
    """Stage 2 draws domains by the published shares: those of its curriculum, or its plain ones."""
    max_text_tokens: int = 2048

    # when
    log_interval: int = 10
    eval_interval: int = 500
    validation: bool = True
    """Evaluate on the data's split for validation, else on the 10 % that are kept for it."""
    max_validation_examples: int = 1000
    save_interval: int = 1000
    keep_checkpoints: int = 3
    early_stop_patience: int = 5
    """Evaluations without progress after which the run ends; 0 = never."""
    early_stop_delta: float = 0.001

    # on what
    device: str = "auto"
    amp: bool | None = None
    """bf16 autocast; None: on an accelerator, but not on a CPU."""
    num_workers: int = 4
    gradient_checkpointing: bool = False
    seed: int = 0

    # what is said about it
    wandb: bool = False
    wandb_project: str = "EmberNet"
    wandb_run_name: str | None = None
    """None: stage{stage}_bs{batch_size}."""
    tensorboard: bool = False
    device_watts: float = 150.0
    """Assumed draw of one process's device, for the energy estimate."""
    grid_kg_per_kwh: float = 0.386
    """Assumed carbon dioxide of a kilowatt hour."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _has_type(value, hints[field.name]):
                kind = getattr(hints[field.name], "__name__", str(hints[field.name]))
                raise InputError(f"{field.name} has the wrong type (found {value!r:.80}, expected {kind})")
            if field.name in _LIMITS and value is not None:
                low, high = _LIMITS[field.name]
                if not low <= value <= high:
                    raise InputError(f"{field.name} must lie between {low} and {high} (found {value!r:.80})")
            if field.name in _CHOICES and value not in _CHOICES[field.name]:
                known = ", ".join(_CHOICES[field.name])
                raise InputError(f"{field.name} is unknown (found {value!r:.80}, expected one of {known})")
        if self.experts is not None and self.stage != 2:
            raise InputError("experts are trained in stage 2 (found stage 1)", hint="add --stage 2")
        if self.experts is not None and (not self.experts or min(self.experts) < 0):
            raise InputError(f"experts must be numbers from 0 on (found {list(self.experts)})")

    @property
    def learning_rate(self) -> float:
        """The rate of phase 1, whoever decided it."""
        return self.lr if self.lr is not None else _LEARNING_RATES[self.freeze, self.stage]

    @property
    def run_name(self) -> str:
        return self.wandb_run_name or f"stage{self.stage}_bs{self.batch_size}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> "TrainConfig":
        """InputError begins with `where` and names an unknown key's nearest neighbour."""
        values = dict(values)
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}"
                raise InputError(f"{where}: unknown key {str(name)!r:.80}", hint=hint)
        if isinstance(values.get("experts"), list):
            values["experts"] = tuple(values["experts"])
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where}: {error}", error.hint) from None


_LIMITS: dict[str, tuple[float, float]] = {
    "stage": (1, 2),
    "epochs": (1, 10**6),
    "batch_size": (1, 2**16),
    "grad_accum": (1, 2**16),
    "max_samples_per_dataset": (1, 2**40),
    "lr": (0, 10),
    "warmup_steps": (0, 2**40),
    "phase1_fraction": (0, 1),
    "weight_decay": (0, 10),
    "weight_clamp": (0, 1e6),
    "grad_clip": (1e-6, 1e6),
    "ema": (0, 0.999999),
    "balance_weight": (0, 100),
    "expert_supervision": (0, 100),
    "max_text_tokens": (2, 2**20),
    "log_interval": (1, 2**40),
    "eval_interval": (1, 2**40),
    "max_validation_examples": (1, 2**40),
    "save_interval": (1, 2**40),
    "keep_checkpoints": (1, 2**40),
    "early_stop_patience": (0, 2**40),
    "early_stop_delta": (0, 100),
    "num_workers": (0, 512),
    "seed": (0, 2**63 - 1),
    "device_watts": (0, 1e6),
    "grid_kg_per_kwh": (0, 100),
}
_CHOICES = {"freeze": FREEZE_SETS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "device": DEVICES}

# The published presets; what differs between their stages is a pair.
_PRESETS: dict[str, dict[str, Any]] = {
    "trial": {
        "epochs": 1,
        "batch_size": 1,
        "grad_accum": 4,
        "max_samples_per_dataset": 10,
        "validation": False,
        "log_interval": 5,
        "output_dir": "./checkpoints/trial",
    },
    "main": {"epochs": (2, 5), "batch_size": (8, 4), "grad_accum": 4, "eval_interval": 200, "save_interval": 500},
}
PRESETS = tuple(_PRESETS)


def preset_values(name: str, stage: int) -> dict[str, Any]:
    """Values of the preset called `name` in a stage."""
    return {k: v[stage - 1] if isinstance(v, tuple) else v for k, v in _PRESETS[name].items()}


def read_config_file(path: Path) -> dict[str, Any]:
    """Values of a .yaml, .yml or .toml file; InputError if it is none. What they mean is not checked here."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error})") from None
    if path.suffix == ".toml":
        values = _parse_toml(text, path)
    elif path.suffix in (".yaml", ".yml"):
        values = _parse_yaml(text, path)
    else:
        raise InputError(f"{path}: a config file must end in .yaml, .yml or .toml")
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys and values (found {type(values).__name__})")
    return values


def _parse_toml(text: str, path: Path) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: not readable as TOML ({error})") from None


def _parse_yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingExtraError(
            f"{path}: reading YAML needs pyyaml, which is not installed", hint="pip install 'embernet[train]'"
        ) from None
    try:
        return yaml.load(text, Loader=_yaml_loader(yaml))  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None


def _yaml_loader(yaml: Any) -> Any:
    """The safe loader, for which 1e-4 is a number as it is for everybody else (YAML 1.1 wants 1.0e-4)."""
    import re

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), "-+0123456789"
    )
    return Loader


def _has_type(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_has_type(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(type(item) is int for item in value)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
