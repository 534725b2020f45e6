"""Drawings rendered ahead of training, at the model's resolution, and kept for the next training."""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from embernet.checkpoints import part_folder, write_text
from embernet.data.synth.drawing import Attributes, Drawing, Question, Text
from embernet.models.embernet.config import EmberNetConfig
from embernet.training.parallel import leave_interrupts_to_main
from embernet.training.patches import patch_labels

SHARD = 500  # drawings that are rendered by one process and kept in one folder
_IMAGES, _LABELS, _TEXTS = "images.npy", "labels.npy", "texts.json"


class Series(Protocol):
    """Drawings that a number tells apart; it must be picklable."""

    @property
    def attributes(self) -> Attributes:
        """What marks can be."""

    @property
    def identity(self) -> str:
        """Another one whenever a drawing may be another."""

    def drawing(self, index: int) -> Drawing: ...


@dataclass(frozen=True)
class Pool:
    """N drawings in shards: images (n, S, S, 3) uint8, patch_labels (n, 4, patches) int16, and all the texts."""

    images: Sequence[NDArray[np.uint8]]
    patch_labels: Sequence[NDArray[np.int16]]
    texts: Sequence[Text]

    def __len__(self) -> int:
        return len(self.texts)

    def pixel_values(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """(B, 3, S, S) float32 in [-1, 1], as the runtime prepares images."""
        images = np.stack([self.images[i // SHARD][i % SHARD] for i in indices])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        return (pixels / 255 - 0.5) / 0.5

    def labels(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """What is on the patches, (B, 4, patches) int64."""
        return torch.from_numpy(np.stack([self.patch_labels[i // SHARD][i % SHARD] for i in indices])).long()


def render_pool(
    folder: Path,
    series: Series,
    count: int,
    config: EmberNetConfig,
    processes: int = 1,
    progress: Callable[[int], object] = lambda _: None,
) -> Pool:
    """Drawings 0..count-1 of a series. progress: drawings done so far.

    They are rendered into shards in `folder`, each written whole or not at all, and those that are there already are
    used: of a run that was broken off, or of one that wanted fewer drawings.
    """
    missing = [shard for shard in _shards(folder, series, count, config) if not shard.path.exists()]
    done = count - sum(shard.count for shard in missing)
    with ExitStack() as stack:
        render = partial(_render_shard, series=series, config=config)
        rendered: Iterator[int] = map(render, missing)
        if processes > 1 and len(missing) > 1:
            context = multiprocessing.get_context("spawn")
            workers = stack.enter_context(context.Pool(processes, leave_interrupts_to_main))
            rendered = workers.imap_unordered(render, missing)
        for number in rendered:
            done += number
            progress(done)
    return open_pool(folder, series, count, config)


def open_pool(folder: Path, series: Series, count: int, config: EmberNetConfig) -> Pool:
    """Open what `render_pool` rendered; processes that open the same pool share the memory of its images."""
    shards = _shards(folder, series, count, config)
    texts: list[Text] = []
    for shard in shards:
        for values in json.loads((shard.path / _TEXTS).read_text(encoding="utf-8")):
            questions = tuple(Question(**question) for question in values.pop("questions"))
            texts.append(Text(**values, questions=questions))
    images, labels = ([np.load(s.path / name, mmap_mode="r") for s in shards] for name in (_IMAGES, _LABELS))
    return Pool(images, labels, texts)


@dataclass(frozen=True)
class _Shard:
    path: Path
    start: int
    count: int


def _shards(folder: Path, series: Series, count: int, config: EmberNetConfig) -> list[_Shard]:
    """The folders of a pool, which no other series, no other resolution and no other number of drawings share."""
    key = f"{series.identity} {config.image_size} {config.patch_size}"
    folder /= hashlib.sha256(key.encode()).hexdigest()[:16]
    sizes = [(start, min(SHARD, count - start)) for start in range(0, count, SHARD)]
    return [_Shard(folder / f"{start:08}-{size}", start, size) for start, size in sizes]


def _render_shard(shard: _Shard, series: Series, config: EmberNetConfig) -> int:
    """Render and write a shard; how many drawings it has."""
    size = (config.image_size, config.image_size)
    images, labels, texts = [], [], []
    for index in range(shard.start, shard.start + shard.count):
        drawing = series.drawing(index)
        images.append(np.asarray(drawing.image.resize(size, Image.Resampling.BICUBIC)))
        labels.append(patch_labels(drawing.marks, config.image_size // config.patch_size, series.attributes))
        texts.append(
            {
                "kind": drawing.kind,
                "caption": drawing.caption,
                "questions": [asdict(question) for question in drawing.questions],
                "domain": drawing.domain,
            }
        )
    with part_folder(shard.path) as (part, target):
        for name, arrays in ((_IMAGES, images), (_LABELS, labels)):
            with open(part / name, "xb") as file:
                np.save(file, np.stack(arrays))
                file.flush()
                os.fsync(file.fileno())
        write_text(part / _TEXTS, json.dumps(texts))
        if target.exists():  # another process was as fast
            shutil.rmtree(part)
        else:
            part.replace(target)
    return shard.count
