"""Answers of a checkpoint, computed by torch in batches."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from embernet.evaluation.answering import Reply
from embernet.evaluation.attention import attention_on_image
from embernet.evaluation.samples import Sample
from embernet.runtime.bundle import ImageFormat
from embernet.runtime.image import preprocess
from embernet.training.batches import ConversationEncoder
from embernet.training.evaluation import generate_batch
from embernet.training.start import start_from


class CheckpointAnswerer:
    """Answers on the GPU if there is one. InputError if the checkpoint cannot be used or has no tokenizer."""

    def __init__(self, path: Path, tokenizer: str | None, batch_size: int) -> None:
        start = start_from(path, tokenizer)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = start.build().eval().to(self._device)
        self._config = start.config
        self.experts = self._config.expert_domains
        self.facts = {
            "kind": "checkpoint",
            "path": str(path),
            "name": path.name,
            "family": self._config.family,
            "sha256": None,
            "precision": None,
        }
        self._batch_size = batch_size
        self._tokenizer = Tokenizer.from_str(start.tokenizer_json)
        self._encoder = ConversationEncoder(self._tokenizer, self._config)
        half = (0.5, 0.5, 0.5)  # as the exporter tells the runtime
        self._format = ImageFormat(self._config.image_size, self._config.resample, mean=half, std=half)

    def answer(self, samples: Sequence[Sample]) -> list[list[Reply]]:
        images = self._encode_images(samples)
        replies = [[Reply("")] * len(sample.probes) for sample in samples]
        longest = self._config.max_position_embeddings - self._config.num_image_tokens - 1
        # Prompts of one length share a batch, so that nothing is padded and each row is computed as if it were alone.
        by_length: dict[int, list[tuple[int, int, list[int]]]] = defaultdict(list)
        for row, sample in enumerate(samples):
            for place, probe in enumerate(sample.probes):
                ids = self._encoder.prompt(probe.prompt)
                if len(ids) > longest:
                    problem = f"the question does not fit the context (found {len(ids)} tokens, expected {longest})"
                    replies[row][place] = Reply("", problem=problem)
                else:
                    by_length[len(ids)].append((row, place, ids))
        for group in by_length.values():
            for start in range(0, len(group), self._batch_size):
                batch = group[start : start + self._batch_size]
                answers = self._generate(images[[row for row, _, _ in batch]], [ids for _, _, ids in batch])
                for (row, place, _), reply in zip(batch, answers, strict=True):
                    replies[row][place] = reply
        return replies

    @torch.no_grad()
    def attention(self, sample: Sample, reply: Reply) -> NDArray[np.float32]:
        """See `attention.attention_on_image`."""
        prompt = self._encoder.prompt(sample.probes[0].prompt)
        pixel_values = torch.from_numpy(preprocess(sample.image, self._format)).to(self._device)
        ids = torch.tensor([[*prompt, *reply.ids[:-1]]], device=self._device)
        return attention_on_image(self._model, ids, pixel_values)[len(prompt) - 1 :].cpu().numpy()

    @torch.no_grad()
    def _encode_images(self, samples: Sequence[Sample]) -> Tensor:
        """-> image tokens (B, I, H)."""
        pixel_values = [torch.from_numpy(preprocess(sample.image, self._format)) for sample in samples]
        batches = torch.split(torch.cat(pixel_values).to(self._device), self._batch_size)
        return torch.cat([self._model.encode_image(batch) for batch in batches])

    def _generate(self, images: Tensor, prompts: list[list[int]]) -> list[Reply]:
        experts: list[Tensor] = []
        answers = generate_batch(self._model, images, torch.tensor(prompts, device=self._device), experts.append)
        choices = torch.stack(experts).cpu().numpy()  # tokens, layers, batch, k
        return [
            Reply(
                text=self._tokenizer.decode(ids, skip_special_tokens=True),
                ids=tuple(ids),
                tokens=tuple(self._pieces(ids)),
                choices=choices[: len(ids), :, row],
            )
            for row, ids in enumerate(answers)
        ]

    def _pieces(self, ids: list[int]) -> Iterator[str]:
        stream = DecodeStream(skip_special_tokens=True)
        for token in ids:
            yield stream.step(self._tokenizer, token) or ""
