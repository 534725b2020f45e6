"""The packed weight layouts of a bundle: `R16K16` for ternary weights, `R16K4` for int8 weights.

Both are made of tiles of 16 rows, stored one after another; a tile is a run of 64-byte groups along the inputs.
One 64-byte group is one AVX-512 register, two AVX2 registers or four NEON registers, and no instruction set has to
shuffle it, so one file serves all of them and is used where it is mapped.

    R16K16   a group holds 16 rows x 16 inputs, 2 bits each. Byte r*4+b, bits 2p..2p+1: code of row r, input 4p+b,
             where code = weight + 1.
    R16K4    a group holds 16 rows x 4 inputs, int8 each. Byte r*4+b: row r, input b.

Rows and inputs are padded with zero weights to whole groups.
"""

import numpy as np
from numpy.typing import NDArray

ROWS = 16
TERNARY_INPUTS = 16
INT8_INPUTS = 4
GROUP_BYTES = 64
PAGE = 4096


def _groups(size: int, group: int) -> int:
    return -(-size // group)


def ternary_shape(out_features: int, in_features: int) -> tuple[int, int, int]:
    """Shape of a packed (out_features, in_features) ternary matrix: (row tiles, input groups, 64)."""
    return _groups(out_features, ROWS), _groups(in_features, TERNARY_INPUTS), GROUP_BYTES


def int8_shape(out_features: int, in_features: int) -> tuple[int, int, int]:
    """Shape of a packed (out_features, in_features) int8 matrix: (row tiles, input groups, 64)."""
    return _groups(out_features, ROWS), _groups(in_features, INT8_INPUTS), GROUP_BYTES


def expert_bytes(hidden_size: int, intermediate_size: int) -> int:
    """Bytes from one packed expert to the next: gate/up tiles, down tiles, padding to a page."""
    gate_up = 2 * int(np.prod(ternary_shape(intermediate_size, hidden_size)))
    down = int(np.prod(ternary_shape(hidden_size, intermediate_size)))
    return _groups(gate_up + down, PAGE) * PAGE


def _padded(matrix: NDArray[np.int8], shape: tuple[int, int, int], inputs: int) -> NDArray[np.int8]:
    rows, columns = shape[0] * ROWS, shape[1] * inputs
    return np.pad(matrix, ((0, rows - matrix.shape[0]), (0, columns - matrix.shape[1])))


def pack_ternary(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """codes (N, K) in {-1, 0, +1} -> R16K16, shape `ternary_shape(N, K)`."""
    if codes.size and (codes.min() < -1 or codes.max() > 1):
        raise ValueError("ternary codes must be -1, 0 or +1")
    shape = ternary_shape(*codes.shape)
    fields = (_padded(codes, shape, TERNARY_INPUTS) + 1).astype(np.uint8)
    fields = fields.reshape(shape[0], ROWS, shape[1], 4, 4).transpose(0, 2, 1, 4, 3)  # tile, group, row, b, p
    packed = fields[..., 0] | fields[..., 1] << 2 | fields[..., 2] << 4 | fields[..., 3] << 6
    return np.asarray(packed.reshape(shape), np.uint8)


def unpack_ternary(packed: NDArray[np.uint8], out_features: int, in_features: int) -> NDArray[np.int8]:
    """R16K16 -> codes (out_features, in_features)."""
    tiles, groups, _ = packed.shape
    fields = (packed[..., None] >> np.array([0, 2, 4, 6], np.uint8)) & 3  # tile, group, r*4+b, p
    fields = fields.reshape(tiles, groups, ROWS, 4, 4).transpose(0, 2, 1, 4, 3)
    codes = fields.reshape(tiles * ROWS, groups * TERNARY_INPUTS).astype(np.int8) - np.int8(1)
    return codes[:out_features, :in_features]


def pack_int8(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """weights (N, K) -> R16K4, shape `int8_shape(N, K)`."""
    shape = int8_shape(*weights.shape)
    padded = _padded(weights, shape, INT8_INPUTS).reshape(shape[0], ROWS, shape[1], INT8_INPUTS)
    return np.ascontiguousarray(padded.transpose(0, 2, 1, 3)).reshape(shape)


def unpack_int8(packed: NDArray[np.int8], out_features: int, in_features: int) -> NDArray[np.int8]:
    """R16K4 -> weights (out_features, in_features)."""
    tiles, groups, _ = packed.shape
    weights = packed.reshape(tiles, groups, ROWS, INT8_INPUTS).transpose(0, 2, 1, 3)
    return weights.reshape(tiles * ROWS, groups * INT8_INPUTS)[:out_features, :in_features]


def pack_expert(gate: NDArray[np.int8], up: NDArray[np.int8], down: NDArray[np.int8]) -> NDArray[np.uint8]:
    """gate, up (F, H) and down (H, F) codes -> (expert_bytes(H, F),): gate and up tiles alternate, then down."""
    gate_up = np.stack([pack_ternary(gate), pack_ternary(up)], axis=1)
    packed = np.concatenate([gate_up.reshape(-1), pack_ternary(down).reshape(-1)])
    return np.pad(packed, (0, expert_bytes(down.shape[0], down.shape[1]) - packed.size))


def unpack_expert(
    packed: NDArray[np.uint8], hidden_size: int, intermediate_size: int
) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.int8]]:
    """Inverse of `pack_expert`: gate, up, down codes."""
    tiles, groups, _ = ternary_shape(intermediate_size, hidden_size)
    gate_up, down = np.split(packed, [2 * tiles * groups * GROUP_BYTES])
    gate_up = gate_up.reshape(tiles, 2, groups, GROUP_BYTES)
    down_shape = ternary_shape(hidden_size, intermediate_size)
    down = down[: int(np.prod(down_shape))].reshape(down_shape)
    return (
        unpack_ternary(gate_up[:, 0], intermediate_size, hidden_size),
        unpack_ternary(gate_up[:, 1], intermediate_size, hidden_size),
        unpack_ternary(down, hidden_size, intermediate_size),
    )
