"""Exact match of answers, kind by kind, beside what a blind guess would score."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from embernet.data.synth.drawing import DESCRIBE, Text


@dataclass(frozen=True)
class Score:
    """Out of `count` answers, how many were right, and how many of the best guesses without seeing the image."""

    correct: int
    guessed: int
    count: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def prior(self) -> float:
        return self.guessed / self.count

    def to_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return {"accuracy": self.accuracy, "accuracy_without_image": self.prior, "count": self.count}


def total(scores: Iterable[Score]) -> Score:
    """The score of all answers together."""
    scores = [*scores]
    return Score(sum(s.correct for s in scores), sum(s.guessed for s in scores), sum(s.count for s in scores))


@dataclass(frozen=True)
class Item:
    """One prompt about image number `image`."""

    image: int
    kind: str
    prompt: str
    answer: str


def items_of(texts: Iterable[Text]) -> list[Item]:
    """The caption of every drawing, of the drawing's kind, and its questions, of kind "scene: color" and the like."""
    items = []
    for image, text in enumerate(texts):
        items.append(Item(image, text.kind, DESCRIBE[0], text.caption))
        items += [Item(image, f"{text.kind}: {q.kind}", q.prompt, q.answer) for q in text.questions]
    return items


def best_guesses(texts: Iterable[Text]) -> dict[str, str]:
    """`most_common_answers` about drawings."""
    return most_common_answers(items_of(texts))


def most_common_answers(items: Iterable[Item]) -> dict[str, str]:
    """The most common answer to every prompt, and to every kind of question, for prompts that are new."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        answers[item.prompt][item.answer] += 1
        answers[item.kind][item.answer] += 1
    return {prompt: counter.most_common(1)[0][0] for prompt, counter in answers.items()}


def tally(results: Iterable[tuple[Item, bool]], guesses: Mapping[str, str]) -> dict[str, Score]:
    """Scores by kind, of items and whether each was answered right; guesses: `best_guesses`."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for item, is_right in results:
        count = counts[item.kind]
        count[0] += is_right
        count[1] += guesses.get(item.prompt, guesses.get(item.kind)) == item.answer
        count[2] += 1
    return {kind: Score(*count) for kind, count in sorted(counts.items())}
