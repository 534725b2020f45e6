"""Will a bundle fit a board, and how fast would it be: an estimate from the bundle's manifest and the board's profile.

Nothing is loaded and nothing is run. docs/board.md says what is assumed and how good it is.
"""

from collections.abc import Mapping
from typing import Any

from embernet.device.boards import Board, Speed
from embernet.device.estimate import Range, estimate_range
from embernet.device.instructions import count_instructions, count_preprocess
from embernet.device.ordinary_turn import prompt_tokens
from embernet.errors import InputError
from embernet.families import bundle_family
from embernet.runtime.bundle import Bundle
from embernet.runtime.pipelines.shape import MemoryNeed, Shape, Work

SCHEMA = "embernet.plan/1"
DEFAULT_GEN = 20
# Python, NumPy and ONNX Runtime, measured on x86-64: their own memory, and what they map of code.
PROCESS_BYTES = 32_000_000
CODE_BYTES = 33_000_000
# Below this, operators end before a second thread has woken up.
_DIVISIBLE_INSTRUCTIONS = 1_000_000
_ARITHMETIC, _MEMORY = "arithmetic", "memory bandwidth"

FITS, FITS_WITH_CONTEXT, DOES_NOT_FIT, UNKNOWN = "fits", "fits with a smaller context", "does not fit", "unknown"


def make_plan(
    bundle: Bundle,
    board: Board,
    n_prompt: int | None = None,
    n_gen: int = DEFAULT_GEN,
    context: int | None = None,
) -> dict[str, Any]:
    """One caption on a board, JSON-ready, as docs/board.md describes it; bytes, milliseconds.

    n_prompt: text tokens of the prompt, None = 84 positions with the image's. context: most positions of a sequence,
    None = all the model knows. InputError if the caption is longer than the context.
    """
    shape: Shape = bundle_family(bundle).part("shape")(bundle)
    longest, n_image = bundle.manifest.context_length, shape.num_image_tokens
    if context is not None and not 1 <= context <= longest:
        raise InputError(f"the context must be from 1 to {longest} positions (found {context})")
    most = context or longest
    n_prompt = prompt_tokens(bundle.manifest.name, n_image, n_prompt, n_gen, most)
    prefill = n_image + n_prompt
    works = {
        "image": shape.image_work(),
        "prefill": shape.prefill_work(prefill),
        "token": shape.token_work(prefill + n_gen // 2),
    }
    return {
        "estimated": True,
        "model": {
            "name": bundle.manifest.name,
            "family": bundle.manifest.family,
            "sha256": bundle.sha256(),
        },
        "board": _describe(board),
        "n_image": n_image,
        "n_prompt": n_prompt,
        "n_gen": n_gen,
        "time": None if board.speed is None else _times(works, bundle.manifest.image.size, n_gen, board, board.speed),
        "memory": _memory(shape.memory(), prefill, prefill + n_gen, most, board.available_bytes),
    }


def _describe(board: Board) -> dict[str, Any]:
    return {
        "name": board.name,
        "title": board.title,
        "cpu": board.cpu,
        "cores": board.cores,
        "clock_ghz": board.speed and board.speed.clock_ghz,
        "kernel": board.speed and board.speed.isa,
        "memory_bytes": board.memory_bytes,
        "available_bytes": board.available_bytes,
        "note": board.note,
    }


# --- time -----------------------------------------------------------------------------------------------------------


def _times(works: Mapping[str, Work], image_size: int, n_gen: int, board: Board, speed: Speed) -> dict[str, Any]:
    """Milliseconds of each part, and of the whole caption: its first token comes from the prefill."""
    instructions = count_preprocess(image_size)
    parts = {"preprocess": _part(instructions, 0, 1, speed)}
    for name, work in works.items():
        instructions = count_instructions(work, speed.isa)
        divisible = instructions >= _DIVISIBLE_INSTRUCTIONS * work.operators
        parts[name] = _part(instructions, work.weight_bytes, board.cores if divisible else 1, speed)
    times = dict.fromkeys(parts, 1) | {"token": n_gen - 1}
    figures = ("fast_ms", "central_ms", "slow_ms")
    total = {figure: sum(times[name] * part[figure] for name, part in parts.items()) for figure in figures}
    return {**parts, "total": total}


def _part(instructions: float, weight_bytes: int, threads: int, speed: Speed) -> dict[str, Any]:
    time: Range = estimate_range(instructions / 1e6, weight_bytes / 1e6, threads, speed)
    likely = time.central
    return {
        "fast_ms": time.fast.ms,
        "central_ms": likely.ms,
        "slow_ms": time.slow.ms,
        "limit": _ARITHMETIC if likely.compute_ms >= likely.memory_ms else _MEMORY,
        "n_threads": threads,
        "instructions": round(instructions),
        "weight_bytes": weight_bytes,
    }


# --- memory ---------------------------------------------------------------------------------------------------------


def _memory(need: MemoryNeed, prefill: int, caption: int, context: int, available: int | None) -> dict[str, Any]:
    """Bytes by component and at the peak of each stage, and what follows.

    caption: positions of a whole caption. The vision tower's pages are let go before the prefill.
    """
    base = PROCESS_BYTES + CODE_BYTES + need.sessions

    def answer(positions: int) -> int:
        return base + need.decoder_weights + need.cache_position * positions

    peaks = {
        "load": base,
        "image": base + need.image + need.vision_weights,
        "prefill": base + need.decoder_weights + need.sequence(prefill, prefill),
        "answer": answer(context),
    }
    smallest = max(peaks["image"], peaks["prefill"], answer(caption))
    verdict, most = UNKNOWN, None
    if available is not None and smallest > available:
        verdict = DOES_NOT_FIT
    elif available is not None:
        most = min(context, (available - answer(0)) // max(1, need.cache_position))
        verdict = FITS if most == context else FITS_WITH_CONTEXT
    # Weights are mapped: where only they lack room, they come from the disk again and again.
    anonymous = PROCESS_BYTES + need.anonymous(caption, prefill)
    return {
        "process_bytes": PROCESS_BYTES,
        "code_bytes": CODE_BYTES,
        "sessions_bytes": need.sessions,
        "vision_weight_bytes": need.vision_weights,
        "decoder_weight_bytes": need.decoder_weights - need.table_weights,
        "embedding_weight_bytes": need.table_weights,
        "image_working_bytes": need.image,
        "prefill_working_bytes": need.prefill(prefill),
        "context": context,
        "cache_bytes": need.cache_position * context,
        "cache_position_bytes": need.cache_position,
        "peaks": peaks,
        "anonymous_bytes": anonymous,
        "available_bytes": available,
        "verdict": verdict,
        "largest_context": most,
        "runs_from_disk": verdict == DOES_NOT_FIT and available is not None and anonymous <= available,
    }
