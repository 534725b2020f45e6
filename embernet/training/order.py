"""Which examples a step sees: a function of the seed and the step alone.

Nothing here knows of processes or micro-batches, so that a run gives the same batches when it is resumed, or when the
same global batch is spread over other machines.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from embernet.data.domains import DOMAINS


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


def domain_shares(domains: Sequence[str], curriculum: bool) -> dict[int, float]:
    """The published share in stage 2 of every domain, by its place in `domains`; an unknown one gets the average."""
    shares = {name: domain.curriculum_share if curriculum else domain.plain_share for name, domain in DOMAINS.items()}
    return {place: shares.get(domain, 1 / len(shares)) for place, domain in enumerate(domains)}
