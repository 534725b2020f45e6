"""A small model, drawn examples and silent runs, for the tests of the trainer; importable by other processes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embernet.checkpoints import save_checkpoint
from embernet.data.example import Example
from embernet.data.tokenizer import build_tokenizer
from embernet.families import get_family
from embernet.initial import initial_tensors
from embernet.models.embernet.config import EmberNetConfig
from embernet.training.run import plan_run, train_stage
from embernet.training.trainer import TrainResult

COLORS = {"red": (200, 30, 30), "green": (30, 160, 50), "blue": (40, 60, 200), "white": (240, 240, 240)}
DOMAINS = ("vision_ocr", "spatial_scene")  # left and right half


class DrawnExamples:
    """Example i: half of an image in one color, and which; a function of i."""

    def __init__(self, count: int, domain: str = DOMAINS[0], name: str = "drawn") -> None:
        self.name = name
        self._count = count
        self._domain = domain

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        rng = np.random.default_rng([index, len(self._domain)])
        color = str(rng.choice(list(COLORS)))
        pixels = rng.integers(0, 40, (16, 16, 3)).astype(np.uint8)
        half = slice(8, 16) if self._domain == DOMAINS[1] else slice(0, 8)
        pixels[:, half] = COLORS[color]
        turns = (("what color is it?", f"it is {color}"),) * int(rng.integers(1, 3))
        return Example(f"{self.name}/{index}", Image.fromarray(pixels), turns, self._domain)


def small_config(**changes: Any) -> EmberNetConfig:
    values = {
        "image_size": 16,
        "patch_size": 4,
        "vision_hidden_size": 16,
        "vision_intermediate_size": 16,
        "vision_num_layers": 1,
        "vision_num_heads": 2,
        "num_image_tokens": 4,
        "resampler_num_heads": 2,
        "num_cross_attention_layers": 1,
        "image_embed_scale": 1.0,
        "vocab_size": 24,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_layers": 2,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "max_position_embeddings": 64,
        "num_experts": 4,
        "expert_domains": [*DOMAINS, "c", "d"],
        "image_token_ids": [3],
        "prompt_template": "{prompt} answer:",
        "turn_template": "{prompt} answer:",
        "max_new_tokens": 4,
    }
    return EmberNetConfig.from_dict(values | changes)


def write_small_checkpoint(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A new small model with its tokenizer. Its words are told apart as a trained model's: no stage trains them."""
    config = small_config(**changes)
    texts = [f"what color is it? it is {color} answer:" for color in COLORS]
    tensors = (
        (name, array * np.float32(25) if "embed_tokens" in name else array)
        for name, array in initial_tensors(get_family("embernet"), config, seed)
    )
    shapes = get_family("embernet").part("model").tensor_shapes(config)
    save_checkpoint(folder, config, shapes, tensors, build_tokenizer(texts).to_str())
    return folder


class Silent:
    """Reports nothing; remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.notes: list[str] = []

    def started(self, plan: Any, state: Any) -> None:
        self.plan = plan

    def stepped(self, plan: Any, state: Any, values: Mapping[str, float], is_logged: bool) -> None:
        self.steps.append(dict(values))

    def note(self, text: str) -> None:
        self.notes.append(text)


SMALL_RUN = {
    "device": "cpu",
    "num_workers": 0,
    "batch_size": 2,
    "grad_accum": 2,
    "epochs": 2,
    "warmup_steps": 2,
    "lr": 3e-3,
    "save_interval": 3,
    "eval_interval": 4,
}


def small_run(
    output: Path,
    model: Path | None = None,
    resume: Path | None = None,
    sources: Any = None,
    reporter: Any = None,
    held_out: DrawnExamples | None = None,
    **values: Any,
) -> TrainResult:
    """Train the small model on drawn examples: 6 steps per epoch unless `values` say otherwise."""
    given = {"output_dir": str(output), **({"model": str(model)} if model else {}), **values}
    run = plan_run(given, SMALL_RUN if resume is None else {}, "settings", resume=resume)
    sources = sources if sources is not None else [DrawnExamples(12, domain) for domain in DOMAINS]
    held_out = DrawnExamples(6, name="held out") if held_out is None else held_out
    validation = [held_out] if run.config.validation else []
    return train_stage(run, sources, validation, reporter or Silent())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
