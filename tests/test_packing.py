"""The packed layouts: what docs/bundle-format.md says of them, and that nothing is lost."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embernet.runtime import packing

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=50)
TERNARY = hnp.arrays(np.int8, SHAPES, elements=st.integers(-1, 1))
INT8 = hnp.arrays(np.int8, SHAPES, elements=st.integers(-128, 127))


@given(TERNARY)
def test_ternary_weights_survive_packing(codes):
    packed = packing.pack_ternary(codes)
    assert packed.shape == packing.ternary_shape(*codes.shape)
    np.testing.assert_array_equal(packing.unpack_ternary(packed, *codes.shape), codes)


@given(TERNARY)
def test_padding_is_zero_weights(codes):
    packed = packing.pack_ternary(codes)
    rows, columns = packed.shape[0] * 16, packed.shape[1] * 16
    everything = packing.unpack_ternary(packed, rows, columns)
    assert np.abs(everything).sum() == np.abs(codes).sum()


@given(INT8)
def test_int8_weights_survive_packing(weights):
    packed = packing.pack_int8(weights)
    assert packed.shape == packing.int8_shape(*weights.shape)
    np.testing.assert_array_equal(packing.unpack_int8(packed, *weights.shape), weights)


def test_ternary_byte_and_bits_are_where_the_format_says():
    # Row 18 = tile 1, r 2; input 25 = group 1, and 25 - 16 = 9 = 4p+b with p 2, b 1: byte 2*4+1, bits 4..5.
    codes = np.zeros((32, 32), np.int8)
    codes[18, 25] = 1
    packed = packing.pack_ternary(codes)
    assert packed[1, 1, 9] == 0b01_10_01_01
    packed[1, 1, 9] = 0b01_01_01_01
    assert (packed == 0b01_01_01_01).all()


def test_int8_byte_is_where_the_format_says():
    weights = np.zeros((32, 8), np.int8)
    weights[18, 5] = -7  # tile 1, r 2, group 1, b 1
    packed = packing.pack_int8(weights)
    assert packed[1, 1, 9] == -7
    assert np.count_nonzero(packed) == 1


@given(st.integers(1, 40), st.integers(1, 40))
def test_experts_survive_packing_and_fill_pages(hidden_size, intermediate_size):
    rng = np.random.default_rng(hidden_size * 100 + intermediate_size)
    shapes = [(intermediate_size, hidden_size)] * 2 + [(hidden_size, intermediate_size)]
    matrices = [rng.integers(-1, 2, shape).astype(np.int8) for shape in shapes]
    packed = packing.pack_expert(*matrices)
    assert packed.size == packing.expert_bytes(hidden_size, intermediate_size)
    assert packed.size % packing.PAGE == 0
    for found, expected in zip(packing.unpack_expert(packed, hidden_size, intermediate_size), matrices, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_gate_and_up_tiles_alternate():
    gate, up, down = np.full((32, 16), 1), np.full((32, 16), -1), np.zeros((16, 32))
    packed = packing.pack_expert(*(m.astype(np.int8) for m in (gate, up, down)))
    tiles = packed[: 4 * 64].reshape(4, 64)
    assert [set(tile.tolist()) for tile in tiles] == [{0b10101010}, {0}, {0b10101010}, {0}]
    assert (packed[4 * 64 : 6 * 64] == 0b01010101).all()


def test_a_full_size_expert_needs_no_padding():
    assert packing.expert_bytes(768, 2048) == 3 * 768 * 2048 // 4


def test_codes_that_are_not_ternary_are_refused():
    with pytest.raises(ValueError, match="-1, 0 or"):
        packing.pack_ternary(np.full((2, 2), 2, np.int8))
