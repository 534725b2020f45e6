"""The generation loop: token ids in, token ids out. It never sees text."""

from collections.abc import Iterator

from embernet.runtime.pipelines.base import Context, Step
from embernet.runtime.sampling import Sampler


def generate(
    context: Context, first: Step, sampler: Sampler, eos_token_id: int, max_new_tokens: int
) -> Iterator[tuple[int, Step]]:
    """Yield each new token with the step whose logits it was drawn from; `first` is the prefill's.

    Ends after the end token, after max_new_tokens, or when the context is full. The last token is not fed back.
    """
    step = first
    for count in range(1, max_new_tokens + 1):
        token = sampler(step.logits[-1])
        yield token, step
        if token == eos_token_id or count == max_new_tokens or context.length == context.capacity:
            return
        step = context.feed([token])
