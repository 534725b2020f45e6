"""What a benchmark has a model do: look at one image, read it and a prompt, answer with so many tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embernet.device.ordinary_turn import prompt_tokens
from embernet.runtime.generation import generate
from embernet.runtime.image import ImageSource
from embernet.runtime.model import Model
from embernet.runtime.pipelines.base import Context, Step
from embernet.runtime.sampling import Sampler, Sampling

DEFAULT_GEN = 32
_NO_END_TOKEN = -1


@dataclass(frozen=True)
class Workload:
    """One round. n_gen: tokens after the first."""

    image: ImageSource
    prompt: list[int]
    n_gen: int


def choose_workload(model: Model, n_prompt: int | None, n_gen: int | None, image: str | None) -> Workload:
    """What was asked for; None = what is usual and fits. InputError if the tokens do not fit the context."""
    n_image, room = model.num_image_tokens, model.context_length - model.num_image_tokens
    if n_gen is None:
        n_gen = max(1, min(DEFAULT_GEN, room - (n_prompt or 1)))
    n_prompt = prompt_tokens(model.manifest.name, n_image, n_prompt, n_gen, model.context_length)
    rng = np.random.default_rng(0)
    prompt = [model.manifest.bos_token_id, *rng.integers(0, model.manifest.vocab_size, n_prompt - 1).tolist()]
    size = model.manifest.image.size
    made: NDArray[np.uint8] = rng.integers(0, 256, (size, size, 3), np.uint8)
    return Workload(made if image is None else image, prompt, n_gen)


def first_token(context: Context, work: Workload, features: NDArray[np.float32]) -> Iterator[tuple[int, Step]]:
    """Read image features (1, I, H) and prompt, choose the first token; what is returned gives the others.

    End tokens end nothing.
    """
    first = context.feed(work.prompt, features)
    tokens = generate(context, first, Sampler(Sampling()), _NO_END_TOKEN, work.n_gen + 1)
    next(tokens)
    return tokens
