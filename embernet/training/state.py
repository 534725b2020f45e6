"""What a run remembers besides its tensors: where it is, and what its figures are made of."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WINDOW = 50


@dataclass
class RunState:
    """All of it is plain JSON, in which floats keep every bit."""

    global_step: int = 0
    """Optimiser steps done, also those whose update was skipped."""
    max_rows: int = 2**16
    """Most rows computed at once; halved when memory runs out."""
    window: list[float] = field(default_factory=list)
    """The last losses."""
    loss_sum: float = 0.0
    num_losses: int = 0
    epoch_loss_sum: float = 0.0
    """Of the epoch that is under way."""
    num_epoch_losses: int = 0
    tokens: int = 0
    """Text and image tokens trained on."""
    skipped_steps: int = 0
    """Steps without an update: a gradient that was not finite, or a batch that no cutting made fit."""
    nonfinite_in_a_row: int = 0
    train_seconds: float = 0.0
    best_loss: float | None = None
    patience_loss: float | None = None
    """The loss that an evaluation must undercut by the delta."""
    evaluations_without_progress: int = 0

    def add_loss(self, loss: float) -> None:
        self.window = [*self.window[1 - WINDOW :], loss]
        self.loss_sum += loss
        self.num_losses += 1
        self.epoch_loss_sum += loss
        self.num_epoch_losses += 1

    def begin_epoch(self) -> None:
        self.epoch_loss_sum, self.num_epoch_losses = 0.0, 0

    @property
    def window_average(self) -> float:
        return sum(self.window) / len(self.window)

    @property
    def average(self) -> float:
        return self.loss_sum / max(1, self.num_losses)

    def add_evaluation(self, loss: float, delta: float) -> bool:
        """Note a result; returns whether it is the best so far."""
        if self.patience_loss is None or loss < self.patience_loss - delta:
            self.patience_loss = loss
            self.evaluations_without_progress = 0
        else:
            self.evaluations_without_progress += 1
        is_best = self.best_loss is None or loss < self.best_loss
        if is_best:
            self.best_loss = loss
        return is_best

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunState":
        return cls(**values)
