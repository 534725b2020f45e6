"""Optimisers, schedules, averages and freeze sets, against the published implementation where it has numbers."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from embernet.models.embernet.config import EmberNetConfig
from embernet.models.embernet.model import EmberNet
from embernet.quantization import get_quantizer
from embernet.training.config import TrainConfig
from embernet.training.ema import Ema
from embernet.training.freezing import is_trained
from embernet.training.optimizers import BitNetAdamW, ReferenceAdam, build_optimizer
from embernet.training.schedule import learning_rate_factor
from tests.tolerances import FLOAT32

FULL_SIZE = EmberNet.tensor_shapes(EmberNetConfig.preset("embernet"))


def test_the_reference_optimizer_follows_the_published_trajectory(ops):
    parameters = [nn.Parameter(torch.from_numpy(ops[f"opt_p{i}_init"].copy())) for i in (1, 2)]
    optimizer = ReferenceAdam(parameters, lr=1e-2, weight_decay=0.01, clip=1.0)
    for step in range(10):
        rate = 1e-2 * learning_rate_factor("two_phase", step + 1, total=10, warmup=3, phase1=7)
        assert rate == pytest.approx(ops["opt_lr"][step], rel=1e-12)
        optimizer.param_groups[0]["lr"] = rate
        for parameter, name in zip(parameters, ("opt_g1", "opt_g2"), strict=True):
            parameter.grad = torch.from_numpy(ops[name][step])
        optimizer.step()
        for parameter, name in zip(parameters, ("opt_p1_traj", "opt_p2_traj"), strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), ops[name][step], atol=FLOAT32, rtol=0)


def test_the_reference_optimizer_leaves_a_tensor_with_a_broken_gradient_alone():
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = ReferenceAdam(parameters, lr=0.1, weight_decay=0.0, clip=1.0)
    parameters[0].grad, parameters[1].grad = torch.tensor([1.0, float("nan")]), torch.ones(2)
    optimizer.step()
    assert parameters[0].tolist() == [1, 1]
    assert (parameters[1] < 1).all()


def test_schedules_reach_both_phases_and_the_end():
    def factors(schedule, **kwargs):
        return [learning_rate_factor(schedule, step, **kwargs) for step in range(1, kwargs["total"] + 1)]

    two_phase = factors("two_phase", total=10, warmup=2, phase1=6)
    assert two_phase == [0.5, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1]
    cosine = factors("cosine", total=10, warmup=2, phase1=6)
    assert cosine[1] == 1
    assert cosine[-1] == pytest.approx(0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(cosine[1:]))


def named_parameters():
    model = nn.ModuleDict({"latent": nn.Linear(4, 4, bias=False), "router": nn.Linear(4, 2)})
    model["latent"].register_module("norm", nn.LayerNorm(4, bias=False))
    return dict(model.named_parameters())


@pytest.mark.parametrize(
    ("quantizer", "values", "clamp"),
    [
        ("absmean", {}, 3.0),
        ("sign_mean", {}, 0.0),
        ("sign_mean", {"weight_clamp": 1.5}, 1.5),
        ("absmean", {"weight_clamp": 0.0}, 0.0),
        ("absmean", {"optimizer": "adamw"}, 0.0),
    ],
)
def test_latent_weights_are_clamped_and_vectors_do_not_decay(quantizer, values, clamp):
    named = named_parameters()
    config = TrainConfig(stage=1, lr=0.0, **values)
    optimizer = build_optimizer(named.items(), get_quantizer(quantizer, 8), config)
    with torch.no_grad():
        for parameter in named.values():
            parameter.fill_(100.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert named["latent.weight"].max() == (clamp or 100.0)
    assert named["router.weight"].min() == named["latent.norm.weight"].min() == 100.0
    decays = {
        name: group["weight_decay"] for group in optimizer.param_groups for name in named if holds(group, named[name])
    }
    assert decays == {"latent.weight": 0.01, "router.weight": 0.01, "router.bias": 0.0, "latent.norm.weight": 0.0}


def holds(group, parameter):
    return any(parameter is other for other in group["params"])


def test_bitnet_is_adamw_while_no_weight_reaches_the_limit():
    def run(optimizer_class, **groups):
        parameter = nn.Parameter(torch.linspace(-1, 1, 5))
        optimizer = optimizer_class([{"params": [parameter], **groups}], lr=0.1, weight_decay=0.1)
        for step in range(3):
            parameter.grad = torch.full((5,), float(step - 1))
            optimizer.step()
        return parameter

    assert torch.equal(run(BitNetAdamW, clamp=3.0), run(torch.optim.AdamW))


def test_an_average_follows_and_is_put_in_place_and_taken_out():
    parameter = nn.Parameter(torch.zeros(2))
    ema = Ema([parameter], decay=0.5)
    with torch.no_grad():
        parameter.fill_(1.0)
    ema.update(step=1)  # early decay: 2 / 11
    with ema.applied():
        assert parameter.tolist() == pytest.approx([9 / 11] * 2)
    assert parameter.tolist() == [1, 1]
    ema.update(step=1000)
    with ema.applied():
        assert parameter.tolist() == pytest.approx([10 / 11] * 2)


@pytest.mark.parametrize(
    ("stage", "freeze", "experts", "expected"),
    [
        (1, "promised", None, 14_864_640),
        (1, "reference", None, 14_864_640),  # published: 768 more, of image_newline, which no code reads
        (2, "reference", None, 723_342_464),  # the same
        (2, "promised", None, 16 * (6_152 + 9 * 4_722_176)),
        (2, "promised", (2, 3), 16 * 2 * 4_722_176),
        (1, "none", None, 833_717_120),  # all but SigLIP's pooling head and image_newline
    ],
)
def test_freeze_sets_of_the_full_size(stage, freeze, experts, expected):
    trained = [shape for name, shape in FULL_SIZE.items() if is_trained(name, stage, freeze, experts)]
    assert sum(int(np.prod(shape)) for shape in trained) == expected
