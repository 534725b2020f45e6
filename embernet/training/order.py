"""Which examples a step sees: a function of the seed and the step alone.

Nothing here knows of processes or micro-batches, so that a run gives the same batches when it is resumed, or when the
same global batch is spread over other machines.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Stage 2 of the published trainer draws a domain with these probabilities, from the first step to the last.
CURRICULUM = {
    "spatial_scene": 0.25,
    "general": 0.20,
    "vision_ocr": 0.15,
    "spatial_reasoning": 0.15,
    "code_math_chart": 0.08,
    "vision_diagram": 0.05,
    "code_math_formula": 0.05,
    "agentic_knowledge": 0.04,
    "agentic_reasoning": 0.03,
}


class ExampleOrder:
    """Examples 0 .. N-1, arranged anew in every epoch; an epoch is N draws, filled up to whole batches.

    groups (N,): the domain of every example, by number. weights: the probability of a domain by that number, in any
    scale; None: every example once per epoch. Within a domain all examples come before any comes again.
    """

    def __init__(
        self, groups: NDArray[np.int64], batch: int, seed: int, weights: Mapping[int, float] | None = None
    ) -> None:
        self.batch = batch
        self.steps_per_epoch = -(-len(groups) // batch)
        self._seed = seed
        self._size = len(groups)
        self._members: Sequence[NDArray[np.int64]] = [np.arange(self._size)]
        self._weights = np.ones(1)
        if weights is not None:
            present = np.unique(groups)
            self._members = [np.flatnonzero(groups == group) for group in present]
            self._weights = np.array([weights[int(group)] for group in present])
            self._weights /= self._weights.sum()

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """(steps_per_epoch, batch): the examples of every step of an epoch."""
        rng = np.random.default_rng([self._seed, epoch])
        group_of = rng.choice(len(self._members), size=self._size, p=self._weights)
        order = np.empty(self._size, np.int64)
        for group, members in enumerate(self._members):
            places = np.flatnonzero(group_of == group)
            rounds = -(-len(places) // len(members))
            drawn = [rng.permutation(members) for _ in range(rounds)]
            order[places] = np.concatenate([*drawn, members[:0]])[: len(places)]
        return np.resize(order, (self.steps_per_epoch, self.batch))


def domain_weights(domains: Sequence[str]) -> dict[int, float]:
    """The curriculum's weight of every domain, by its place in `domains`; one it does not name gets its average."""
    average = sum(CURRICULUM.values()) / len(CURRICULUM)
    return {place: CURRICULUM.get(domain, average) for place, domain in enumerate(domains)}
