"""The evaluation itself: one or two models are asked the same questions, and what comes of it is a report."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from embernet.data.loading import SkipLog, Skipped
from embernet.errors import InputError
from embernet.evaluation.answering import Answerer, Reply
from embernet.evaluation.routing import RoutingTable
from embernet.evaluation.samples import Probe, Sample, SampleSource
from embernet.evaluation.statistics import CONFIDENCE, mcnemar_p, wilson_interval
from embernet.evaluation.vqa import MIN_ANNOTATORS, vqa_accuracy
from embernet.json_file import read_json_object

SCHEMA = "embernet.eval/1"


@dataclass(frozen=True)
class Outcome:
    """What became of one question. guessed: whether a blind guess is right; vqa: None with too few annotators."""

    domain: str
    kind: str | None
    guessed: bool | None
    right: bool
    vqa: float | None


class _Results:
    """All outcomes of one model, in the order of the questions."""

    def __init__(self, answerer: Answerer) -> None:
        self.answerer = answerer
        self.outcomes: list[Outcome] = []
        self.routing = RoutingTable(answerer.experts)
        self.unanswered: list[dict[str, str]] = []

    def add(self, sample: Sample, probe: Probe, reply: Reply, guesses: Mapping[str, str]) -> None:
        text, answers = reply.text.strip(), [answer.strip() for answer in probe.answers]
        guess = guesses.get(probe.prompt, guesses.get(probe.kind or sample.domain))
        if reply.problem is not None:
            self.unanswered.append({"id": sample.id, "prompt": probe.prompt, "reason": reply.problem})
        self.routing.add(sample.domain, reply.choices)
        self.outcomes.append(
            Outcome(
                domain=sample.domain,
                kind=probe.kind,
                guessed=(guess or "").strip() in answers if guesses else None,
                right=text in answers,
                vqa=vqa_accuracy(text, answers) if len(answers) >= MIN_ANNOTATORS else None,
            )
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.answerer.facts,
            "total": score(self.outcomes),
            "domains": {domain: score(part) for domain, part in _by_domain(self.outcomes)},
            "kinds": {kind: score(part) for kind, part in _by_kind(self.outcomes)},
            "routing": self.routing.to_dict(),
            "unanswered": self.unanswered,
        }


def evaluate(
    answerer: Answerer,
    sources: Sequence[SampleSource],
    *,
    against: Answerer | None = None,
    batch_size: int = 1,
    progress: Callable[[int], object] = lambda _samples: None,
) -> dict[str, Any]:
    """Ask a model, and another one if `against` is given, all questions; the report as JSON values.

    progress is called with the number of samples done since the last call. Skipped samples are listed; a question that
    a model cannot take counts as answered wrongly and is listed too. InputError if no sample can be used.
    """
    results = [_Results(each) for each in (answerer, against) if each is not None]
    skips = SkipLog()
    num_samples = 0
    for source in sources:
        guesses = source.guesses()
        for batch in _batches(source, batch_size):
            samples = [sample for sample in batch if isinstance(sample, Sample)]
            for skipped in batch:
                if isinstance(skipped, Skipped):
                    skips.add(skipped)
            for result in results:
                for sample, replies in zip(samples, result.answerer.answer(samples) if samples else [], strict=True):
                    for probe, reply in zip(sample.probes, replies, strict=True):
                        result.add(sample, probe, reply, guesses)
            num_samples += len(samples)
            progress(len(batch))
    if not num_samples:
        reason = skips.listed()[0].reason if len(skips) else "there are none"
        raise InputError(f"none of the examples can be used ({reason})")
    report = {
        "confidence": CONFIDENCE,
        "num_samples": num_samples,
        "skipped": [vars(skipped) for skipped in skips.listed()],
        **results[0].to_dict(),
        "against": None,
    }
    if against is not None:
        first, second = (result.outcomes for result in results)
        pairs = [*zip(first, second, strict=True)]
        report["against"] = results[1].to_dict() | {
            "comparison": {
                "test": "McNemar, exact",
                "total": compare(pairs),
                "domains": {
                    domain: compare([pair for pair in pairs if pair[0].domain == domain])
                    for domain, _ in _by_domain(first)
                },
            }
        }
    return report


def read_report(path: Path) -> dict[str, Any]:
    """A report that `embernet eval -o` wrote; InputError if the file is no such report."""
    values = read_json_object(path)
    if values.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a report of `embernet eval` (schema {values.get('schema')!r:.80})")
    return values


def score(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Shares of right answers with their intervals; null where nothing is known."""
    count, correct = len(outcomes), sum(o.right for o in outcomes)
    guessed = [o.guessed for o in outcomes if o.guessed is not None]
    vqa = [o.vqa for o in outcomes if o.vqa is not None]
    return {
        "count": count,
        "correct": correct,
        "accuracy": correct / count,
        "accuracy_interval": list(wilson_interval(correct, count)),
        "accuracy_without_image": sum(guessed) / count if len(guessed) == count else None,
        "vqa_count": len(vqa),
        "vqa_accuracy": sum(vqa) / len(vqa) if vqa else None,
        "vqa_interval": list(wilson_interval(sum(vqa), len(vqa))) if vqa else None,
    }


def compare(pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, Any]:
    """How the first model differs from the second on the same questions."""
    only_first = sum(first.right and not second.right for first, second in pairs)
    only_second = sum(second.right and not first.right for first, second in pairs)
    return {
        "count": len(pairs),
        "both_right": sum(first.right and second.right for first, second in pairs),
        "only_first_right": only_first,
        "only_second_right": only_second,
        "difference": (only_first - only_second) / len(pairs),
        "p": mcnemar_p(only_first, only_second),
    }


def _by_domain(outcomes: Iterable[Outcome]) -> list[tuple[str, list[Outcome]]]:
    return _groups((outcome.domain, outcome) for outcome in outcomes)


def _by_kind(outcomes: Iterable[Outcome]) -> list[tuple[str, list[Outcome]]]:
    return _groups((outcome.kind, outcome) for outcome in outcomes if outcome.kind is not None)


def _groups(named: Iterable[tuple[str, Outcome]]) -> list[tuple[str, list[Outcome]]]:
    groups: dict[str, list[Outcome]] = {}
    for name, outcome in named:
        groups.setdefault(name, []).append(outcome)
    return sorted(groups.items())


def _batches(source: SampleSource, size: int) -> Iterator[list[Sample | Skipped]]:
    samples = (source[index] for index in range(len(source)))
    while batch := [*islice(samples, size)]:
        yield batch
