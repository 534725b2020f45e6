"""The torch layers against the published implementation's numbers."""

import numpy as np
import pytest
import torch

from embernet.layers.bitlinear import BitLinear, RMSNorm
from embernet.layers.quantizers import quantize_activations, quantize_weights
from embernet.quantization import get_quantizer
from tests import tolerances

SIGN_MEAN = get_quantizer("sign_mean", 8)


@pytest.mark.parametrize("eps", ["1e-5", "1e-6"])
def test_rms_norm_matches_the_published_one(ops, eps):
    norm = RMSNorm(256, float(eps))
    norm.weight.data = torch.from_numpy(ops["rmsnorm_weight"])
    y = norm(torch.from_numpy(ops["rmsnorm_x"]))
    np.testing.assert_allclose(y.detach(), ops[f"rmsnorm_eps{eps}_y"], atol=tolerances.FLOAT32)


def test_activation_quantiser_matches_the_published_one(ops):
    codes, step = quantize_activations(torch.from_numpy(ops["aq_x"]), SIGN_MEAN.activation)
    np.testing.assert_array_equal(codes, ops["aq_codes_int8"])
    np.testing.assert_allclose(1 / step, ops["aq_scale"], rtol=1e-6)
    np.testing.assert_allclose(codes * step, ops["aq_y"], rtol=1e-6)


@pytest.mark.parametrize("case", range(5))
def test_weight_quantiser_matches_the_published_one(ops, case):
    codes, step = quantize_weights(torch.from_numpy(ops[f"wq{case}_w"]), "sign_mean")
    np.testing.assert_allclose(codes * step, ops[f"wq{case}_y"], rtol=1e-6, atol=1e-12)
    assert set(codes.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_weight_codes_of_real_layers_match_the_published_ones(io, tiny_checkpoint):
    names = [key.removeprefix("wq_int8/") for key in io if key.startswith("wq_int8/")]
    assert len(names) == 3
    for name in names:
        codes, step = quantize_weights(torch.from_numpy(tiny_checkpoint.tensors[f"{name}.weight"]), "sign_mean")
        np.testing.assert_array_equal(codes, io[f"wq_int8/{name}"])
        np.testing.assert_allclose(step, io[f"wq_scale/{name}"][0], rtol=1e-6)


def test_bitlinear_matches_the_published_one(ops):
    layer = BitLinear(256, 48, SIGN_MEAN, bias=True)
    layer.load_state_dict(
        {
            "weight": torch.from_numpy(ops["bitlinear_weight"]),
            "bias": torch.from_numpy(ops["bitlinear_bias"]),
            "norm.weight": torch.from_numpy(ops["bitlinear_norm_weight"]),
        }
    )
    y = layer(torch.from_numpy(ops["bitlinear_x"]))
    np.testing.assert_allclose(y.detach(), ops["bitlinear_y"], atol=tolerances.FLOAT32)


@pytest.mark.parametrize("weights", ["absmean", "sign_mean"])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_of_zeros_stays_zero(weights, bits):
    quantizer = get_quantizer(weights, bits)
    codes, step = quantize_activations(torch.zeros(2, 16), quantizer.activation)
    assert not codes.any()
    assert torch.isfinite(step).all()
    codes, step = quantize_weights(torch.zeros(4, 16), weights)
    assert not codes.any()
    assert step > 0


def test_gradients_pass_straight_through_the_quantisers():
    # The gradient of a BitLinear must be that of the float layer whose weights and inputs are the quantised values.
    torch.manual_seed(0)
    layer = BitLinear(32, 8, get_quantizer("absmean", 8))
    x = torch.randn(5, 32, requires_grad=True)
    upstream = torch.randn(5, 8)
    layer(x).backward(upstream)

    x_float = x.detach().requires_grad_()
    normed = layer.norm(x_float)
    x_codes, x_step = quantize_activations(normed.detach(), layer.quantizer.activation)
    w_codes, w_step = quantize_weights(layer.weight.detach(), "absmean")
    normed.backward(upstream @ (w_codes * w_step))
    torch.testing.assert_close(x.grad, x_float.grad)
    torch.testing.assert_close(layer.weight.grad, upstream.T @ (x_codes * x_step))


def test_no_gradient_reaches_a_value_that_was_cut():
    activation = get_quantizer("sign_mean", 8).activation
    x = torch.tensor([[60.0, 1.0]], requires_grad=True)
    codes, step = quantize_activations(x, activation)
    (codes * step).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0]]
