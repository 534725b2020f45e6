"""The JSON result of `embernet bench`, read back and checked: it may come from another machine and from a stranger.

docs/benchmarking.md says what the keys mean.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embernet.errors import InputError
from embernet.json_file import read_json_object

SCHEMA = "embernet.bench/1"
_MOST = 1e18


@dataclass(frozen=True)
class _Kind:
    """What a value may be: in words, and as a test."""

    words: str
    test: Callable[[Any], bool]

    def or_null(self) -> "_Kind":
        return _Kind(f"{self.words} or null", lambda value: value is None or self.test(value))


def _is_number(value: object, low: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= _MOST


def _list_of(kind: _Kind) -> _Kind:
    return _Kind(f"a list, each {kind.words}", lambda value: isinstance(value, list) and all(map(kind.test, value)))


def _object_of(**kinds: _Kind) -> _Kind:
    words = ", ".join(f"{key} ({kind.words})" for key, kind in kinds.items())
    return _Kind(
        f"an object of {words}",
        lambda value: isinstance(value, dict) and all(k in value and kind.test(value[k]) for k, kind in kinds.items()),
    )


_WHOLE = _Kind("a whole number", lambda value: isinstance(value, int) and _is_number(value, 0))
_AMOUNT = _Kind("a number", lambda value: _is_number(value, 0))
_DEGREES = _Kind("a number", lambda value: _is_number(value, -_MOST))
# A terminal is not to be told what to do by a name.
_TEXT = _Kind("a text", lambda value: isinstance(value, str) and (not value or value.isprintable()))
_BOOL = _Kind("true or false", lambda value: isinstance(value, bool))
_TEXTS = _Kind(
    "an object of texts", lambda value: isinstance(value, dict) and all(map(_TEXT.test, [*value, *value.values()]))
)

_KNOWN_AMOUNT = _AMOUNT.or_null()
_STAGE_MEMORY = _object_of(
    resident_bytes=_KNOWN_AMOUNT, proportional_bytes=_KNOWN_AMOUNT, anonymous_bytes=_KNOWN_AMOUNT
)
_START = _object_of(
    interpreter_ms=_AMOUNT,
    import_ms=_AMOUNT,
    load_ms=_AMOUNT,
    image_ms=_AMOUNT,
    prefill_ms=_AMOUNT,
    total_ms=_AMOUNT,
    peak_rss_bytes=_KNOWN_AMOUNT,
    proportional_bytes=_KNOWN_AMOUNT,
    anonymous_bytes=_KNOWN_AMOUNT,
)
# Without these there is nothing to compare.
_REQUIRED = {
    "model": _object_of(name=_TEXT, sha256=_TEXT),
    "n_threads": _WHOLE,
    "kernel": _TEXT,
    "hugepages": _BOOL,
    "spin": _BOOL,
    "cpu_info": _TEXT.or_null(),
    "emulated": _BOOL,
    "n_image": _WHOLE,
    "n_prompt": _WHOLE,
    "n_gen": _WHOLE,
    "load_ms": _KNOWN_AMOUNT,
    "preprocess_ms": _KNOWN_AMOUNT,
    "vision_ms": _KNOWN_AMOUNT,
    "prefill_tokens_per_second": _KNOWN_AMOUNT,
    "time_to_first_token_ms": _KNOWN_AMOUNT,
    "decode_tokens_per_second": _KNOWN_AMOUNT,
    "weight_bandwidth_bytes_per_second": _KNOWN_AMOUNT,
    "peak_rss_bytes": _KNOWN_AMOUNT,
    "peak_pss_bytes": _KNOWN_AMOUNT,
    "anonymous_bytes": _KNOWN_AMOUNT,
}
# These may be null, and are where an older version did not write them.
_OPTIONAL = {
    "test_time": _TEXT,
    "model_size": _AMOUNT,
    "model_n_params": _WHOLE,
    "versions": _TEXTS,
    "image_path": _Kind("a text", lambda value: isinstance(value, str)),
    "repetitions": _WHOLE,
    "valid": _BOOL,
    "invalid_reasons": _list_of(_TEXT),
    "temperature_c": _object_of(start=_DEGREES.or_null(), end=_DEGREES.or_null(), max=_DEGREES.or_null()),
    "frequency_mhz": _object_of(start=_KNOWN_AMOUNT, end=_KNOWN_AMOUNT, min=_KNOWN_AMOUNT),
    "governor": _TEXT,
    "throttled": _object_of(
        now=_list_of(_TEXT).or_null(), occurred=_list_of(_TEXT).or_null(), occurred_before=_list_of(_TEXT).or_null()
    ),
    "swap_bytes": _AMOUNT,
    "zram_bytes": _AMOUNT,
    "swap_used_bytes": _object_of(start=_KNOWN_AMOUNT, end=_KNOWN_AMOUNT),
    "swapped_out_bytes": _AMOUNT,
    "cold_start": _START,
    "warm_start": _START,
    "stage_memory": _object_of(load=_STAGE_MEMORY, image=_STAGE_MEMORY, prefill=_STAGE_MEMORY, decode=_STAGE_MEMORY),
    "course": _object_of(
        decode_start_s=_list_of(_AMOUNT),
        at_s=_list_of(_AMOUNT),
        temperature_c=_list_of(_DEGREES.or_null()),
        frequency_mhz=_list_of(_KNOWN_AMOUNT),
    ),
    "samples": _object_of(decode_ns=_list_of(_list_of(_AMOUNT))),
    **dict.fromkeys(
        (
            "cold_start_ms",
            "warm_start_ms",
            "preprocess_p90_ms",
            "vision_p90_ms",
            "prefill_ms",
            "prefill_p90_ms",
            "token_ms",
            "token_p90_ms",
            "time_to_first_token_p90_ms",
            "decode_weight_bytes",
            "weight_bandwidth_share",
            "read_bandwidth_bytes_per_second",
            "read_bandwidth_size_bytes",
        ),
        _AMOUNT,
    ),
    "read_bandwidth_source": _TEXT,
}


def read_result(path: Path) -> dict[str, Any]:
    """Read what `embernet bench --json` wrote, unknown keys too; InputError if it is anything else."""
    values = read_json_object(path)
    if values.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: not a benchmark result (found schema {values.get('schema')!r:.80}, expected {SCHEMA})"
        )
    for key, kind in _REQUIRED.items():
        if key not in values or not kind.test(values[key]):
            raise _wrong(path, key, values, kind)
    for key, kind in _OPTIONAL.items():
        if not kind.or_null().test(values.setdefault(key, None)):
            raise _wrong(path, key, values, kind.or_null())
    try:
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise InputError(f"{path}: not JSON as the standard has it ({error})") from None
    return values


def _wrong(path: Path, key: str, values: Mapping[str, Any], kind: _Kind) -> InputError:
    return InputError(f"{path}: {key} is missing or wrong (found {values.get(key)!r:.80}, expected {kind.words})")
