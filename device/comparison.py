"""Comparing two results of `embernet bench`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embernet.device.bench import SCHEMA
from embernet.errors import InputError
from embernet.json_file import read_json_object

# What is compared, and whether more of it is better.
METRICS = {
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
# What should be the same in both: key -> what it is called, and the types it may have.
_CONDITIONS: dict[str, tuple[str, tuple[type, ...]]] = {
    "n_threads": ("threads", (int,)),
    "kernel": ("kernels", (str,)),
    "hugepages": ("huge pages", (bool,)),
    "spin": ("spinning threads", (bool,)),
    "cpu_info": ("processor", (str, type(None))),
    "emulated": ("emulated", (bool,)),
    "n_image": ("image tokens", (int,)),
    "n_prompt": ("prompt tokens", (int,)),
    "n_gen": ("new tokens", (int,)),
}
# Two runs of the same thing differ by about this much.
SAME_WITHIN = 0.02
_MOST = 1e18
_JSON_TYPES = {int: "a whole number", str: "a text", bool: "true or false", type(None): "null"}


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


def read_result(path: Path) -> dict[str, Any]:
    """Read what `embernet bench --json` wrote; InputError if it is anything else."""
    values = read_json_object(path)
    if values.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: not a benchmark result (found schema {values.get('schema')!r:.80}, expected {SCHEMA})"
        )
    for key in METRICS:
        if not _is_amount(values.get(key, "nothing")):
            raise _wrong(path, key, values, "a number or null")
    for key, (_, types) in _CONDITIONS.items():
        value = values.get(key, ...)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise _wrong(path, key, values, " or ".join(_JSON_TYPES[kind] for kind in types))
    model = values.get("model")
    if not isinstance(model, dict) or not all(isinstance(model.get(key), str) for key in ("name", "sha256")):
        raise _wrong(path, "model", values, "an object with name and sha256")
    return values


def compare(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Difference]:
    """All metrics of two results."""
    return [Difference(metric, now[metric], before[metric]) for metric in METRICS]


def compare_conditions(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """What makes two results hard to compare, one sentence each."""
    warnings = []
    if now["model"]["sha256"] != before["model"]["sha256"]:
        warnings.append(f"the models differ ({now['model']['name']!r:.80}, before {before['model']['name']!r:.80})")
    for key, (label, _) in _CONDITIONS.items():
        if now[key] != before[key]:
            warnings.append(f"not the same {label} ({now[key]!r:.80}, before {before[key]!r:.80})")
    return warnings


def _is_amount(value: object) -> bool:
    """Whether this is null or a number that can be an amount of something."""
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST


def _wrong(path: Path, key: str, values: Mapping[str, Any], expected: str) -> InputError:
    return InputError(f"{path}: {key} is missing or wrong (found {values.get(key)!r:.80}, expected {expected})")
