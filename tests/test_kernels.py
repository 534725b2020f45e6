"""The native kernels against their definition, for every instruction set that this machine runs or emulates."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embernet.runtime import reference
from embernet.runtime.packing import pack_int8, pack_ternary
from tests.native_builds import Isa, KernelDriver, can_emulate, can_emulate_vnni, is_x86, isas

# Fast enough under an emulator, and the same cases for everybody.
EXAMPLES = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PORTABLE = Isa("portable")


@pytest.fixture(scope="module", params=isas(), ids=str)
def kernels(request: pytest.FixtureRequest) -> Iterator[KernelDriver]:
    driver = KernelDriver(request.param)
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def portable() -> Iterator[KernelDriver]:
    driver = KernelDriver(PORTABLE)
    yield driver
    driver.close()


@pytest.mark.skipif(not is_x86() or not can_emulate(), reason="needs aarch64-linux-gnu-g++ and qemu-aarch64-static")
def test_the_kernels_of_a_raspberry_pi_are_tested() -> None:
    assert Isa("neon", "aarch64", "cortex-a53") in isas()


@pytest.mark.skipif(not can_emulate_vnni(), reason="needs libsimde-dev")
def test_the_kernels_of_newer_cpus_are_tested() -> None:
    assert {Isa("avx512_vnni", "simde"), Isa("avx_vnni", "simde")} <= set(isas())


def product(codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return codes.astype(np.int64) @ weights.astype(np.int64).T


@given(data=st.data())
@EXAMPLES
def test_ternary_products_are_exact(kernels: KernelDriver, data: st.DataObject) -> None:
    inputs, count = data.draw(st.integers(1, 2200)), data.draw(st.integers(1, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    weights = rng.integers(-1, 2, (16, inputs), np.int8)
    codes = rng.integers(-127, 128, (count, inputs), np.int8)
    assert (kernels.ternary(pack_ternary(weights)[0], codes) == product(codes, weights)).all()


@given(data=st.data())
@EXAMPLES
def test_products_of_single_rows_are_exact(kernels: KernelDriver, data: st.DataObject) -> None:
    inputs, tiles = data.draw(st.integers(1, 2200)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes = rng.integers(-127, 128, (2, inputs), np.int8)
    for low, pack in ((-1, pack_ternary), (-128, pack_int8)):
        weights = rng.integers(low, -low, (16 * tiles, inputs), np.int8, endpoint=low == -1)
        expected = [product(codes[t % 2], weights[16 * t : 16 * t + 16]) for t in range(tiles)]
        assert (kernels.row(pack(weights), codes) == expected).all()


@pytest.mark.parametrize("inputs", [16, 512, 768, 2048, 4096, 5120, 131072])
@pytest.mark.parametrize("weight", [-1, 1])
@pytest.mark.parametrize("code", [-127, 127])
def test_no_ternary_sum_overflows(kernels: KernelDriver, inputs: int, weight: int, code: int) -> None:
    weights = np.full((16, inputs), weight, np.int8)
    for count in (1, 2, 7):
        codes = np.full((count, inputs), code, np.int8)
        assert (kernels.ternary(pack_ternary(weights)[0], codes) == inputs * weight * code).all()


def int8_codes(data: st.DataObject, rng: np.random.Generator, count: int, inputs: int) -> np.ndarray:
    """Rows (count, inputs) with nothing, little or much that a kernel must set aside before it adds in int16."""
    spread = data.draw(st.lists(st.sampled_from([0, 10, 24, 36, 40, 48, 70, 1000]), min_size=count, max_size=count))
    rows = rng.standard_normal((count, inputs)) * np.array(spread)[:, None]
    rows[rng.random(rows.shape) < data.draw(st.sampled_from([0, 0.001, 0.02, 0.2]))] = 1000
    if data.draw(st.booleans()):
        rows *= rng.choice([-1, 1], inputs)
    return np.clip(np.rint(rows), -127, 127).astype(np.int8)


@given(data=st.data())
@EXAMPLES
def test_int8_products_are_exact(kernels: KernelDriver, data: st.DataObject) -> None:
    inputs, count = data.draw(st.integers(1, 1200)), data.draw(st.integers(1, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes = int8_codes(data, rng, count, inputs)
    weights = rng.integers(-128, 128, (16, inputs), np.int8)
    if data.draw(st.booleans()):  # the largest sums there are
        weights = np.where(codes[rng.integers(0, count, 16)] < 0, -128, 127).astype(np.int8)
    tile, expected = pack_int8(weights)[0], product(codes, weights)
    assert (kernels.int8(tile, codes) == expected).all()
    assert (kernels.int8(tile, codes, take_outliers=False) == expected).all()


@pytest.mark.parametrize("inputs", [4, 60, 768, 3072])
@pytest.mark.parametrize("weight", [-128, 127])
@pytest.mark.parametrize("signs", [(1,), (1, 1, -1, -1), (1, -1)])
def test_no_int8_sum_overflows(kernels: KernelDriver, inputs: int, weight: int, signs: tuple[int, ...]) -> None:
    weights = np.full((16, inputs), weight, np.int8)
    sizes = np.repeat(np.array([1, 32, 33, 43, 63, 64, 65, 127], np.int8), 4)  # kernels take some rows at once
    codes = sizes[:, None] * np.resize(np.array(signs, np.int8), inputs)
    one_spike = codes.copy()
    one_spike[:, inputs // 2] = 127
    for rows in (codes, one_spike, codes[:1], codes[5:7]):
        assert (kernels.int8(pack_int8(weights)[0], rows) == product(rows, weights)).all()


@pytest.mark.parametrize("weight", [-128, -127, 127])
@pytest.mark.parametrize("code", [-127, -32, 32, 127])
def test_no_long_int8_sum_overflows(kernels: KernelDriver, weight: int, code: int) -> None:
    inputs = 131072
    weights = np.full((16, inputs), weight, np.int8)
    for count in (1, 7):
        codes = np.full((count, inputs), code, np.int8)
        assert (kernels.int8(pack_int8(weights)[0], codes) == inputs * weight * code).all()


@given(data=st.data())
@EXAMPLES
def test_rows_are_quantised_as_defined(kernels: KernelDriver, data: st.DataObject) -> None:
    size, bits = data.draw(st.integers(1, 900)), data.draw(st.sampled_from([4, 8]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x = (rng.standard_normal(size) * 10.0 ** rng.integers(-6, 4)).astype(np.float32)
    norm_weight = rng.uniform(-2, 2, size).astype(np.float32) if data.draw(st.booleans()) else None
    y = x if norm_weight is None else reference.rms_norm(x, norm_weight, reference.Norm())
    expected_codes, expected_step = reference.quantize_rows(y, reference.Activation(bits=bits))
    codes, step, total = kernels.quantize(x, norm_weight, bits)
    assert (codes == expected_codes).all()
    assert step == expected_step[0]
    assert total == codes.sum(dtype=np.int32)


@pytest.mark.parametrize("value", [0.0, np.inf, -np.inf, np.nan, 3e38])
def test_extreme_rows_do_not_disturb(kernels: KernelDriver, value: float) -> None:
    x = np.full(40, value, np.float32)
    codes, step, _ = kernels.quantize(x, np.ones(40, np.float32), 8)
    assert np.abs(codes.astype(int)).max() <= 128
    assert np.isfinite(step)


def test_the_gate_is_the_same_everywhere_and_right(kernels: KernelDriver, portable: KernelDriver) -> None:
    rng = np.random.default_rng(0)
    gate, up = (rng.standard_normal((2, 5000)) * 12).astype(np.float32)
    hidden = kernels.gate(gate, up)
    clipped = np.clip(gate.astype(np.float64), -20, 20)
    expected = np.clip(clipped / (1 + np.exp(-clipped)) * up, -1000, 1000)
    np.testing.assert_allclose(hidden, expected, rtol=1e-6, atol=1e-12)
    assert (hidden == portable.gate(gate, up)).all()


@pytest.mark.parametrize("size", [1, 8, 13, 768, 3000])
def test_gelu_and_layer_norm_are_the_same_everywhere_and_right(
    kernels: KernelDriver, portable: KernelDriver, size: int
) -> None:
    rng = np.random.default_rng(size)
    x, weight, bias = (rng.standard_normal((3, size)) * [[6], [1], [1]]).astype(np.float32)
    y = kernels.gelu(x)
    wide = x.astype(np.float64)
    expected = 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-7)
    assert (y == portable.gelu(x)).all()
    y = kernels.layer_norm(x, weight, bias)
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-6) * weight + bias
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert (y == portable.layer_norm(x, weight, bias)).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-40])
def test_gelu_of_extremes(kernels: KernelDriver, portable: KernelDriver, value: float) -> None:
    x = np.array([value, 1, -1], np.float32)
    y = kernels.gelu(x)
    np.testing.assert_array_equal(y, portable.gelu(x))
    np.testing.assert_allclose(y[1:], [0.841192, -0.158808], rtol=1e-5)
    if not np.isnan(value):
        np.testing.assert_allclose(y[0], max(value, 0), rtol=1e-5, atol=1e-30)


@given(data=st.data())
@EXAMPLES
def test_attention_is_the_same_everywhere_and_right(
    kernels: KernelDriver, portable: KernelDriver, data: st.DataObject
) -> None:
    rows, size, count = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    queries = (rng.standard_normal((rows, size)) * rng.choice([0.1, 1, 10])).astype(np.float32)
    keys, values = rng.standard_normal((2, count, size)).astype(np.float32)
    visible = np.sort(rng.integers(1, count + 1, rows)).tolist()
    out = kernels.attend(queries, keys, values, visible)
    for m, seen in enumerate(visible):
        scores = keys[:seen].astype(np.float64) @ queries[m]
        shares = np.exp(scores - scores.max())
        # A score is a sum of `size` rounded products; exp turns its error into a relative one of the shares.
        error = 1e-6 * (1 + size * np.abs(queries[m]).max())
        expected = shares @ values[:seen].astype(np.float64) / shares.sum()
        np.testing.assert_allclose(out[m], expected, rtol=error, atol=error)
    assert (out == portable.attend(queries, keys, values, visible)).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_extreme_attention_does_not_disturb(kernels: KernelDriver, value: float) -> None:
    rng = np.random.default_rng(0)
    queries, keys, values = rng.standard_normal((3, 20, 24)).astype(np.float32)
    expected = kernels.attend(queries, keys, values, [20] * 20)
    queries[3] = value
    out = kernels.attend(queries, keys, values, [20] * 20)
    assert (np.delete(out, 3, axis=0) == np.delete(expected, 3, axis=0)).all()
