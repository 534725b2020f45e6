"""The training loop: gradient steps on a schedule that depends on the step alone, never on time.

A run of several phases is saved now and then, and goes on from there when it was broken off: what it computes is what
it would have computed without the break.
"""

import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from embernet.checkpoints import part_folder
from embernet.errors import InputError
from embernet.training.parallel import average_gradients, is_main_process

SAVE_INTERVAL = 100  # steps, so that a break costs minutes at most


@dataclass(frozen=True)
class Progress:
    """How far a phase has come; values: what to show beside it, such as the losses of this step."""

    phase: str
    done: int
    total: int
    values: Mapping[str, float]


Report: TypeAlias = Callable[[Progress], object]


def ignore_progress(progress: Progress) -> None:
    """The report of a caller who does not want one."""


@dataclass(frozen=True)
class Phase:
    """Warm-up over `warmup_steps`, then half a cosine down to `final` of the learning rates."""

    name: str
    steps: int
    warmup_steps: int
    final: float = 0.02
    clip_norm: float = 1.0

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied with at a step."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return min(1.0, (step + 1) / self.warmup_steps) * (self.final + (1 - self.final) * cosine)


@dataclass(frozen=True)
class Task:
    """A phase and what it does.

    losses_of_step: what is minimised, the sum of it, at a step. optimizers: what it is minimised with, at the
    learning rates of a factor of 1. prepare: called before the first step.
    """

    phase: Phase
    losses_of_step: Callable[[int], dict[str, Tensor]]
    optimizers: Callable[[], Sequence[torch.optim.Optimizer]]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class SavedRun:
    """The file of a run; settings: all that its result depends on, so that no other run is gone on with."""

    path: Path
    settings: str

    def load(self) -> dict[str, Any] | None:
        """What was saved last, None if nothing was; InputError for a file of another run."""
        try:
            values = torch.load(self.path, weights_only=True)
        except FileNotFoundError:
            return None
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise InputError(f"{self.path}: not the file of a run", hint="remove it to begin anew") from error
        if not isinstance(values, dict) or values.get("settings") != self.settings:
            raise InputError(f"{self.path}: belongs to a run with other settings", hint="remove it to begin anew")
        return values

    def save(self, **values: Any) -> None:
        """Replace what was saved, whole or not at all."""
        with part_folder(self.path) as (part, target):
            with open(part / target.name, "xb") as file:
                torch.save({"settings": self.settings, **values}, file)
                file.flush()
                os.fsync(file.fileno())
            (part / target.name).replace(target)
            part.rmdir()


def run_tasks(module: nn.Module, tasks: Sequence[Task], saved: SavedRun, report: Report) -> None:
    """Train `module` in one phase after another, from the beginning or from where the run was saved.

    Called in each process of `parallel.run_parallel`, whose gradients are averaged; the first process saves.
    """
    values = saved.load()
    number, step = (0, 0) if values is None else (values["task"], values["step"])
    if values is not None:
        module.load_state_dict(values["module"])
    for index in range(number, len(tasks)):
        task = tasks[index]
        optimizers = task.optimizers()
        if step == 0:
            task.prepare()
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        if values is not None and step:
            for optimizer, state in zip(optimizers, values["optimizers"], strict=True):
                optimizer.load_state_dict(state)
        for done in range(step + 1, task.phase.steps + 1):
            losses = _step(task, done - 1, optimizers, rates)
            if is_main_process() and (done % SAVE_INTERVAL == 0 or done == task.phase.steps):
                states = [optimizer.state_dict() for optimizer in optimizers]
                saved.save(task=index, step=done, module=module.state_dict(), optimizers=states)
            report(Progress(task.phase.name, done, task.phase.steps, losses))
        step = 0


def _step(
    task: Task, step: int, optimizers: Sequence[torch.optim.Optimizer], rates: Sequence[Sequence[float]]
) -> dict[str, float]:
    """One gradient step; the losses before it. rates: of the optimisers' groups, for a factor of 1."""
    for optimizer, group_rates in zip(optimizers, rates, strict=True):
        for group, rate in zip(optimizer.param_groups, group_rates, strict=True):
            group["lr"] = rate * task.phase.factor(step)
        optimizer.zero_grad()
    losses = task.losses_of_step(step)
    torch.stack([*losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    average_gradients(parameters)
    nn.utils.clip_grad_norm_(parameters, task.phase.clip_norm, error_if_nonfinite=True)
    for optimizer in optimizers:
        optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}
