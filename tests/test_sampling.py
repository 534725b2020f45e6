"""Choosing tokens: greedy, temperature, top-k, top-p, seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embernet.errors import InputError
from embernet.runtime.sampling import Sampler, Sampling, token_probabilities

LOGITS = np.array([1.0, 3.0, 2.0, -1.0], np.float32)


def test_temperature_zero_is_greedy():
    assert Sampler(Sampling())(LOGITS) == 1
    assert Sampler(Sampling(top_k=1, temperature=5.0))(LOGITS) == 1


def test_temperature_divides_logits():
    np.testing.assert_allclose(
        token_probabilities(LOGITS, Sampling(temperature=2.0)),
        np.exp(LOGITS / 2) / np.exp(LOGITS / 2).sum(),
    )


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_a_tiny_temperature_takes_the_best_token(temperature):
    assert token_probabilities(LOGITS * 1e5, Sampling(temperature, 3, 0.9)).tolist() == [0, 1, 0, 0]


def test_top_k_keeps_the_k_best():
    probabilities = token_probabilities(LOGITS, Sampling(1.0, top_k=2))
    assert np.flatnonzero(probabilities).tolist() == [1, 2]
    assert np.flatnonzero(token_probabilities(LOGITS, Sampling(1.0, top_k=100))).size == 4


def test_top_p_keeps_tokens_until_the_sum_first_exceeds_it():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    for top_p, kept in ((0.01, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.94, 3), (0.96, 4), (1.0, 4)):
        found = token_probabilities(np.log(probabilities).astype(np.float32), Sampling(1.0, top_p=top_p))
        assert np.flatnonzero(found).tolist() == list(range(kept)), top_p


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30),
    st.floats(0.01, 10),
    st.integers(0, 40),
    st.floats(0.01, 1),
)
def test_probabilities_are_probabilities_and_the_best_token_stays(logits, temperature, top_k, top_p):
    array = np.array(logits, np.float32)
    probabilities = token_probabilities(array, Sampling(temperature, top_k, top_p))
    assert abs(probabilities.sum() - 1) < 1e-9
    assert probabilities.argmax() == (array / temperature).argmax() or probabilities[array.argmax()] > 0


def test_the_same_seed_gives_the_same_tokens():
    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(1.0, seed=seed))
        return [sampler(np.zeros(1000, np.float32)) for _ in range(8)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_k": True},
        {"top_p": 0},
        {"top_p": 1.1},
        {"seed": -1},
        {"seed": 0.5},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Sampling(**options)
