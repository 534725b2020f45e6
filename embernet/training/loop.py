"""The training loop: gradient steps on a schedule that depends on the step alone, never on time."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from embernet.training.parallel import average_gradients


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


def run_phase(
    phase: Phase,
    optimizers: Sequence[torch.optim.Optimizer],
    losses_of_step: Callable[[int], dict[str, Tensor]],
    report: Report,
) -> None:
    """Minimise the sum of the losses; gradients are averaged over the processes of `parallel.run_parallel`."""
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    schedulers = [LambdaLR(optimizer, phase.factor) for optimizer in optimizers]
    for step in range(phase.steps):
        losses = losses_of_step(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, phase.clip_norm, error_if_nonfinite=True)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
        report(Progress(phase.name, step + 1, phase.steps, {name: loss.item() for name, loss in losses.items()}))
