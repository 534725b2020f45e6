"""What is learnt least is shown most: which drawings, and which questions about them, a step is made of.

A caption is soon said almost without a loss while a yes or no about the same drawing is still a guess. Shown as often
as everything else, what needs many examples gets few of them.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from embernet.data.scores import Item, items_of
from embernet.data.synth.drawing import Text

_RATE = 0.02  # how fast the running means of the losses move
_FLOOR = 0.02  # nats: what is learnt is still shown
_START = 1.0  # nats, of what was not shown yet


class Curriculum(nn.Module):
    """Running means of the loss of an answer, by kind: buffers, so that a saved run has them too.

    A kind is that of a drawing (its caption) or of a question about it, "scene" or "scene: color". Chances go with the
    square root of the loss.
    """

    nats: Tensor

    def __init__(self, texts: Sequence[Text]) -> None:
        super().__init__()
        asked: dict[str, set[str]] = defaultdict(set)
        drawings: dict[str, list[int]] = defaultdict(list)
        for index, text in enumerate(texts):
            drawings[text.kind].append(index)
        for item in items_of(texts):
            asked[texts[item.image].kind].add(item.kind)
        self.drawings = {kind: np.array(indices) for kind, indices in sorted(drawings.items())}
        self.places = {kind: place for place, kind in enumerate(sorted(set().union(*asked.values())))}
        self.asked = [[self.places[kind] for kind in sorted(asked[drawing])] for drawing in self.drawings]
        self.register_buffer("nats", torch.full((len(self.places),), _START))

    def choose_drawings(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Indices of `count` drawings, in order."""
        weights = self._weights()
        frequencies = np.array([len(indices) for indices in self.drawings.values()])
        chances = frequencies * [weights[places].mean() for places in self.asked]
        kinds = rng.choice(len(chances), count, p=chances / chances.sum())
        indices = [*self.drawings.values()]
        return np.sort([int(rng.choice(indices[kind])) for kind in kinds])

    def shuffled(self, items: Sequence[Item], rng: np.random.Generator) -> list[Item]:
        """In a random order in which what is learnt least tends to come first."""
        weights = self._weights()[[self.places[item.kind] for item in items]]
        return [items[i] for i in np.argsort(rng.exponential(size=len(items)) / weights)]

    def update(self, items: Sequence[Item], lengths: Sequence[int], losses: Tensor) -> None:
        """Take the losses of a step, of all processes together.

        losses (N,): of all tokens of the answers, one answer after another; lengths: their tokens.
        """
        places = torch.tensor([self.places[item.kind] for item in items])
        sums = torch.zeros(2, len(self.places))
        sums[0].index_add_(0, places, torch.stack([part.sum() for part in torch.split(losses.detach(), [*lengths])]))
        sums[1].index_add_(0, places, torch.ones(len(places)))
        dist.all_reduce(sums)
        total, count = sums
        kept = (1 - _RATE) ** count
        self.nats.mul_(kept).add_((1 - kept) * total / count.clamp(min=1))

    def _weights(self) -> NDArray[np.float32]:
        return np.sqrt(self.nats.numpy() + _FLOOR)
