"""Models that answer greedily: bundles through the runtime, checkpoints through torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embernet.errors import InputError
from embernet.evaluation.samples import Sample
from embernet.runtime.answer import EncodedImage
from embernet.runtime.bundle import MANIFEST_FILE, find_bundle
from embernet.runtime.model import load


def _nothing() -> NDArray[np.int64]:
    return np.zeros((0, 0, 0), np.int64)


@dataclass(frozen=True)
class Reply:
    """ids: of the tokens, the end too; tokens: the pieces of text they add; choices (tokens, L, K): their experts.

    problem: why there is no answer, if so.
    """

    text: str
    ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    choices: NDArray[np.int64] = field(default_factory=_nothing)
    problem: str | None = None


class Answerer(Protocol):
    """facts: what a report says about the model, JSON-ready. experts: their names."""

    facts: dict[str, Any]
    experts: tuple[str, ...]

    def answer(self, samples: Sequence[Sample]) -> list[list[Reply]]:
        """A reply to every probe of every sample."""
        ...

    def attention(self, sample: Sample, reply: Reply) -> NDArray[np.float32] | None:
        """Where a reply's tokens looked, (tokens, side, side): cells of the image; None where that cannot be had.

        sample: with the one probe that was replied to.
        """
        ...


class BundleAnswerer:
    """Answers one question after the other. BundleError if the bundle cannot be used or has no tokenizer."""

    def __init__(self, path: Path) -> None:
        self._model = load(path)
        self._codec = self._model.codec
        bundle, manifest = self._model.bundle, self._model.manifest
        self.experts = manifest.experts
        self.facts = {
            "kind": "bundle",
            "path": str(bundle.path),
            "name": manifest.name,
            "family": manifest.family,
            "sha256": bundle.sha256(),
            "precision": dict(manifest.precision),
        }

    def answer(self, samples: Sequence[Sample]) -> list[list[Reply]]:
        return [self._answer(sample) for sample in samples]

    def _answer(self, sample: Sample) -> list[Reply]:
        image = self._model.encode(sample.image)
        return [self._reply(image, probe.prompt) for probe in sample.probes]

    def attention(self, sample: Sample, reply: Reply) -> NDArray[np.float32] | None:  # noqa: ARG002
        """The graphs do not give it."""
        return None

    def _reply(self, image: EncodedImage, prompt: str) -> Reply:
        try:
            answer = self._model.ask(image, prompt, temperature=0.0)
        except InputError as error:
            return Reply("", problem=str(error))
        stream = self._codec.stream()
        tokens = tuple(stream.feed(token) for token in answer.token_ids)
        return Reply(answer.text, answer.token_ids, tokens, np.array(answer.routing.choices, np.int64))


def open_answerer(model: str, tokenizer: str | None = None, batch_size: int = 1) -> Answerer:
    """A checkpoint (file or directory), or a bundle (directory or name); errors of either.

    tokenizer: of a checkpoint, None = its own; batch_size: of a checkpoint.
    """
    path = Path(model)
    if (path / MANIFEST_FILE).is_file() or not path.exists():
        return BundleAnswerer(find_bundle(model))
    from embernet.evaluation.checkpoint import CheckpointAnswerer

    return CheckpointAnswerer(path, tokenizer, batch_size)
