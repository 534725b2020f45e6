"""Comparing two results of `embernet bench`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What is compared, and whether more of it is better.
METRICS = {
    "cold_start_ms": False,
    "warm_start_ms": False,
    "load_ms": False,
    "preprocess_ms": False,
    "vision_ms": False,
    "prefill_tokens_per_second": True,
    "time_to_first_token_ms": False,
    "decode_tokens_per_second": True,
    "weight_bandwidth_bytes_per_second": True,
    "peak_rss_bytes": False,
    "peak_pss_bytes": False,
    "anonymous_bytes": False,
}
# What should be the same in both, and what it is called.
_CONDITIONS = {
    "n_threads": "threads",
    "kernel": "kernels",
    "hugepages": "huge pages",
    "spin": "spinning threads",
    "cpu_info": "processor",
    "governor": "governor",
    "emulated": "emulated",
    "image_path": "image",
    "n_image": "image tokens",
    "n_prompt": "prompt tokens",
    "n_gen": "new tokens",
}
# Older results do not have it.
_MAY_LACK = ("governor",)
# Two runs of the same thing differ by about this much.
SAME_WITHIN = 0.02


@dataclass(frozen=True)
class Difference:
    """One metric, now and before. ratio = now / before; None where one of them is not known."""

    metric: str
    now: float | None
    before: float | None

    @property
    def ratio(self) -> float | None:
        return self.now / self.before if self.now is not None and self.before else None

    @property
    def verdict(self) -> str:
        """ "better", "worse", "same" or "unknown"."""
        if self.ratio is None:
            return "unknown"
        if abs(self.ratio - 1) <= SAME_WITHIN:
            return "same"
        return "better" if (self.ratio > 1) == METRICS[self.metric] else "worse"


def compare(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Difference]:
    """All metrics of two results."""
    return [Difference(metric, now[metric], before[metric]) for metric in METRICS]


def compare_conditions(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """What makes two results hard to compare, one sentence each."""
    warnings = []
    for result, label in ((now, "this run"), (before, "the run before")):
        if result["valid"] is False:
            warnings.append(f"{label} is not valid ({'; '.join(result['invalid_reasons'] or ())})")
    if now["model"]["sha256"] != before["model"]["sha256"]:
        warnings.append(f"the models differ ({now['model']['name']!r:.80}, before {before['model']['name']!r:.80})")
    for key, label in _CONDITIONS.items():
        known = key not in _MAY_LACK or None not in (now[key], before[key])
        if known and now[key] != before[key]:
            warnings.append(f"not the same {label} ({now[key]!r:.80}, before {before[key]!r:.80})")
    return warnings
