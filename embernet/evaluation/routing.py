"""Which experts answered questions of which domain: shares, mutual information, dead experts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RoutingTable:
    """Counts the experts that the tokens of answers were computed by, domain by domain and layer by layer."""

    def __init__(self, experts: Sequence[str]) -> None:
        self.experts = tuple(experts)
        self._counts: dict[str, NDArray[np.int64]] = {}

    def add(self, domain: str, choices: NDArray[np.int64]) -> None:
        """choices (tokens, L, K): numbers of the experts that computed the tokens of an answer."""
        if not choices.size:
            return
        experts = np.arange(len(self.experts))
        counts = (choices[..., None] == experts).sum(axis=(0, 2))
        self._counts[domain] = self._counts.get(domain, np.zeros_like(counts)) + counts

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. counts[layer][domain][expert]; the other lists are by layer. All empty if there were no answers.

        shares: of the experts in all choices of a domain. mutual_information_bits: what the expert of a choice says
        about the domain of its question, every domain counted alike; at most domain_entropy_bits. dead_experts: never
        chosen.
        """
        domains = sorted(self._counts)
        counts = np.stack([self._counts[domain] for domain in domains], axis=1) if domains else np.zeros((0, 0, 0))
        shares = counts / counts.sum(axis=-1, keepdims=True)
        dead = [[self.experts[e] for e in np.flatnonzero(layer.sum(axis=0) == 0)] for layer in counts]
        return {
            "experts": list(self.experts),
            "domains": domains,
            "counts": counts.tolist(),
            "shares": shares.tolist(),
            "mutual_information_bits": [mutual_information(layer) for layer in shares],
            "domain_entropy_bits": float(np.log2(max(1, len(domains)))),
            "dead_experts": dead,
        }


def mutual_information(shares: NDArray[np.float64]) -> float:
    """Bits an expert says about the domain, all domains alike likely; shares (domains, experts) sum to 1 by row."""
    joint = shares / len(shares)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    chosen = joint > 0
    return max(0.0, float((joint[chosen] * np.log2(joint[chosen] / independent[chosen])).sum()))


def routing_rows(routing: Mapping[str, Any], layer: int = -1) -> list[tuple[str, list[float]]]:
    """Each expert with its shares in the domains, of one layer of `RoutingTable.to_dict`."""
    shares = np.array(routing["shares"][layer])
    return list(zip(routing["experts"], shares.T.tolist(), strict=True))
