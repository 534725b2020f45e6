"""Which quantiser a model was trained with. It is a property of the model, never assumed.

Published EmberNet checkpoints were trained with `sign_mean`, which yields binary weights; new models use `absmean`,
the quantiser of BitNet b1.58 (arXiv:2402.17764). `embernet.runtime.reference` defines both in NumPy,
`embernet.layers.quantizers` repeats them in torch with straight-through gradients.
"""

from dataclasses import dataclass

from embernet.errors import InputError
from embernet.runtime.reference import Activation

# The published code changed these limits (clip, floor) together with the weight quantiser.
_ACTIVATION_LIMITS = {"sign_mean": (50.0, 1e-4), "absmean": (128.0, 1e-5)}
WEIGHT_QUANTIZERS = tuple(_ACTIVATION_LIMITS)
ACTIVATION_BITS = (8, 4)


@dataclass(frozen=True)
class Quantizer:
    """weights: "absmean" or "sign_mean"; activation: the numbers of the activation quantiser."""

    weights: str
    activation: Activation


def get_quantizer(weights: str, activation_bits: int) -> Quantizer:
    """Return the quantiser called `weights` with 8- or 4-bit activations; InputError for anything else."""
    if weights not in WEIGHT_QUANTIZERS:
        raise InputError(f"unknown weight quantizer {weights!r} (known: {', '.join(WEIGHT_QUANTIZERS)})")
    if activation_bits not in ACTIVATION_BITS:
        raise InputError(f"activation_bits must be 8 or 4 (found {activation_bits!r})")
    clip, floor = _ACTIVATION_LIMITS[weights]
    return Quantizer(weights, Activation(activation_bits, clip, floor))
