"""How many instructions the work of a stage takes.

Each number is how many one unit of `Work` takes on average, fitted to the counts per operator of spark and of the
full-size model (`python -m embernet.device.emulation --operators`). docs/board.md says how well they give the counts of
whole stages back.
"""

from embernet.runtime.pipelines.shape import Work

# By kernels, then by field of `Work`.
_PER_UNIT = {
    "neon": {
        "int8": 0.182,
        "ternary": 0.208,
        "single": 0.27,
        "floats": 0.48,
        "inputs": 6.0,
        "outputs": 13.0,
        "values": 8.5,
        "operators": 25_000.0,
    },
    "neon_dot": {
        "int8": 0.112,
        "ternary": 0.11,
        "single": 0.205,
        "floats": 0.48,
        "inputs": 5.9,
        "outputs": 4.9,
        "values": 8.5,
        "operators": 25_000.0,
    },
}
# Preparing an image of the size that the model wants: in all, and per value of its pixels.
_PREPROCESS = (1_350_000, 88.7)


def count_instructions(work: Work, isa: str) -> float:
    """Instructions of all threads together."""
    return sum(count * getattr(work, name) for name, count in _PER_UNIT[isa].items())


def count_preprocess(image_size: int) -> float:
    """Instructions from a decoded image of about the model's size to pixel_values (3, image_size, image_size)."""
    base, per_value = _PREPROCESS
    return base + per_value * 3 * image_size**2
