"""What an answer without a look at the image would score: the bar that a model has to clear."""

from collections.abc import Iterator

from embernet.data.scores import Score, best_guesses, items_of, tally
from embernet.data.synth import describe
from embernet.data.synth.drawing import Text


def priors(domain: str, count: int, guessed_from: int) -> dict[str, Score]:
    """How often the most common training answer to the very same prompt is right, by kind ("bars", "bars: value").

    It is asked about `count` validation drawings; the answers are counted in `guessed_from` training drawings.
    """
    guesses = best_guesses(_texts("train", domain, guessed_from))
    return tally(((item, False) for item in items_of(_texts("validation", domain, count))), guesses)


def _texts(split: str, domain: str, count: int) -> Iterator[Text]:
    return (describe(split, index, domain=domain) for index in range(count))
