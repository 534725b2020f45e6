"""How long the first turn of a conversation is, for whatever measures or estimates one."""

from embernet.errors import InputError

# The image and the question of an ordinary first turn, together.
DEFAULT_PREFILL = 84


def prompt_tokens(name: str, n_image: int, n_prompt: int | None, n_gen: int, context: int) -> int:
    """Text tokens of the prompt; None = what is usual and fits.

    InputError, which begins with the model's name, if image, prompt and answer do not fit the context.
    """
    room = context - n_image
    if n_prompt is None:
        n_prompt = max(1, min(DEFAULT_PREFILL - n_image, room - n_gen))
    if n_prompt + n_gen > room:
        raise InputError(
            f"{name}: the tokens do not fit the context (found {n_image} image, {n_prompt} prompt and "
            f"{n_gen} new tokens, expected at most {context} together)"
        )
    return n_prompt
