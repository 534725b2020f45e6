"""What a training step minimises, as sums that may be cut anywhere.

    loss = CE / learnt tokens  +  w_b * balance / rows  +  w_s * supervision / supervised rows

Every term is a sum over tokens or rows, divided by their number in the whole batch: of all micro-batches in all
processes. So the gradient does not depend on how the batch is cut, which a mean per micro-batch would not give.

CE: cross-entropy of the learnt tokens, ends of answers included. balance: the published router loss of each row on
its own. supervision: cross-entropy of the last router to the expert of the row's domain, over the row's positions.
"""

import dataclasses
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from embernet.models.embernet.model import (
    IGNORED_LABEL,
    EmberNet,
    expert_supervision_loss,
    router_balance_loss,
)
from embernet.training.batches import PackedText
from embernet.training.forward import packed_forward

NO_EXPERT = -1


@dataclass(frozen=True)
class Batch:
    """B rows: pixel_values (B, 3, S, S), has_image (B,) bool, experts (B,) int64 or NO_EXPERT, text."""

    pixel_values: Tensor
    has_image: Tensor
    experts: Tensor
    text: PackedText

    def __len__(self) -> int:
        return len(self.has_image)

    @property
    def counts(self) -> Tensor:
        """(3,) float64: learnt tokens, rows, supervised rows."""
        learnt = (self.text.targets != IGNORED_LABEL).sum()
        return torch.stack([learnt, torch.tensor(len(self)), (self.experts != NO_EXPERT).sum()]).double()

    @property
    def num_tokens(self) -> int:
        """Text tokens that are no padding."""
        return int((self.text.conversations != 0).sum())

    def to(self, device: torch.device) -> "Batch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def parts(self, rows: int) -> Iterator["Batch"]:
        """The batch in pieces of at most `rows` rows."""
        for start in range(0, len(self), rows):
            yield self._map(operator.itemgetter(slice(start, start + rows)))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        text = PackedText(*(function(getattr(self.text, f.name)) for f in dataclasses.fields(self.text)))
        return Batch(function(self.pixel_values), function(self.has_image), function(self.experts), text)


class Losses(NamedTuple):
    """Sums over a batch: cross_entropy, balance and supervision (), float32, with gradients.

    usage (E,): how often each expert was among the chosen. entropy (): of the routers, summed over rows.
    """

    cross_entropy: Tensor
    balance: Tensor
    supervision: Tensor
    usage: Tensor
    entropy: Tensor


class Objective(nn.Module):
    """The model together with its losses, in one forward pass, as wrappers for several processes want it."""

    def __init__(self, model: EmberNet, recompute: bool = False) -> None:
        super().__init__()
        self.model = model
        self.recompute = recompute

    def forward(self, batch: Batch) -> Losses:
        image_tokens = self.model.encode_image(batch.pixel_values)
        output = packed_forward(self.model, image_tokens, batch.text, batch.has_image, self.recompute)
        learnt = (batch.text.targets != IGNORED_LABEL).sum()
        by_row = [output.router_logits[:, output.rows == row] for row in range(len(batch))]
        supervised = [
            expert_supervision_loss(logits[:, None], expert[None])
            for logits, expert in zip(by_row, batch.experts, strict=True)
            if expert != NO_EXPERT
        ]
        with torch.no_grad():
            probabilities = output.router_logits.softmax(dim=-1)
            entropy = -(probabilities * (probabilities + 1e-8).log()).sum(dim=-1).mean() * len(batch)
            chosen = probabilities.topk(self.model.config.num_experts_per_tok, dim=-1).indices
            usage = torch.bincount(chosen.flatten(), minlength=self.model.config.num_experts)
        return Losses(
            cross_entropy=output.loss.float() * learnt,
            balance=torch.stack([router_balance_loss(logits) for logits in by_row]).sum(),
            supervision=torch.stack(supervised).sum() if supervised else output.router_logits.new_zeros(()),
            usage=usage,
            entropy=entropy,
        )
