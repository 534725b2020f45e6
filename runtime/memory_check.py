"""Refusing what cannot fit, before it is begun: where memory is short, Linux kills a process without a word.

Only memory that no file backs is counted, as the system can drop pages of weights and read them again. Where /proc does
not tell how much there is, nothing is refused. The needs are estimates: docs/board.md says how good they are.
"""

from embernet.errors import OutOfMemoryError
from embernet.runtime.available_memory import available_bytes
from embernet.runtime.pipelines.shape import MemoryNeed, Shape

SHORT_PROMPT = 20  # text tokens
# What Linux counts besides: page tables, the heap's gaps, the few pages of files that are in use at any moment.
_RESERVE_BYTES = 6_000_000
# A sequence that takes less than this is begun without a look at /proc.
_SMALL_BYTES = 4 * 2**20


def check_before_loading(name: str, shape: Shape, context: int | None, copied_bytes: int = 0) -> tuple[str, ...]:
    """OutOfMemoryError unless the model, one image and a sequence of `context` positions fit.

    context: None = only a short question about the image; a longer sequence is checked when it begins. copied_bytes:
    weights that will be copied instead of mapped. Returns warnings: weights that fit, but not beside everything else.
    """
    available = available_bytes()
    if available is None:
        return ()
    need, shortest = shape.memory(), shape.num_image_tokens + SHORT_PROMPT
    positions = shortest if context is None else context
    needed = copied_bytes + _RESERVE_BYTES + need.anonymous(positions, min(positions, shortest))
    if needed > available:
        room = available - copied_bytes - _RESERVE_BYTES - need.sessions
        most = min(need.positions_within(room, shortest), positions) if room >= need.image else 0
        raise OutOfMemoryError(
            f"{name}: does not fit in memory with {positions} positions "
            f"(found {_mb(available)} available, expected {_mb(needed)})",
            hint=f"--context {most}" if context is not None and most >= shortest else "end other programs",
        )
    mapped = 0 if copied_bytes else max(need.vision_weights, need.decoder_weights)
    if needed + mapped > available:
        return (
            f"{name}: its weights do not all fit in memory beside the rest, so the disk decides how fast it is "
            f"(found {_mb(available)} available, expected {_mb(needed + mapped)})",
        )
    return ()


def check_sequence(name: str, need: MemoryNeed, length: int, capacity: int, prompt: int) -> None:
    """OutOfMemoryError unless a sequence that has `length` positions can read `prompt` more and fill its capacity."""
    needed = need.sequence(capacity - length, prompt)
    available = None if needed < _SMALL_BYTES else available_bytes()
    if available is None or needed <= available:
        return
    most = length + need.positions_within(available, prompt)
    raise OutOfMemoryError(
        f"{name}: a sequence of {capacity} positions does not fit in memory "
        f"(found {_mb(available)} available, expected {_mb(needed)})",
        hint=f"--context {most}" if most > length + prompt else "a shorter question",
    )


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
