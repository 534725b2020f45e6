"""Drawings rendered ahead of training, at the model's resolution."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from embernet.data.synth import Drawing, Question, draw
from embernet.models.embernet.config import EmberNetConfig
from embernet.training.parallel import leave_interrupts_to_main
from embernet.training.patches import ATTRIBUTES, patch_labels


@dataclass(frozen=True)
class Text:
    """What may be asked about one drawing (see `synth.Drawing`)."""

    kind: str
    caption: str
    questions: tuple[Question, ...]
    domain: str

    @classmethod
    def of(cls, drawing: Drawing) -> "Text":
        return cls(drawing.kind, drawing.caption, drawing.questions, drawing.domain)


@dataclass(frozen=True)
class Pool:
    """N drawings: images (N, S, S, 3) uint8, patch_labels (N, 3, patches) int8, texts."""

    images: NDArray[np.uint8]
    patch_labels: NDArray[np.int8]
    texts: Sequence[Text]

    def __len__(self) -> int:
        return len(self.texts)

    def pixel_values(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """(B, 3, S, S) float32 in [-1, 1], as the runtime prepares images."""
        pixels = torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2).float()
        return (pixels / 255 - 0.5) / 0.5


def render_pool(
    folder: Path,
    split: str,
    count: int,
    config: EmberNetConfig,
    seed: int = 0,
    kind: str | None = None,
    processes: int = 1,
    progress: Callable[[int], object] = lambda _: None,
) -> Pool:
    """Render drawings 0..count-1 of a split into files in `folder` and open them. progress: drawings done so far."""
    side = config.image_size
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, side, side, 3))
    labels = np.lib.format.open_memmap(
        folder / "labels.npy", "w+", np.int8, (count, len(ATTRIBUTES), config.num_patches)
    )
    texts = []
    render = partial(_render, split=split, seed=seed, kind=kind, config=config)
    with ExitStack() as stack:
        drawings: Iterator[tuple[NDArray[np.uint8], NDArray[np.int8], Text]] = map(render, range(count))
        if processes > 1:
            context = multiprocessing.get_context("spawn")
            workers = stack.enter_context(context.Pool(processes, leave_interrupts_to_main))
            drawings = workers.imap(render, range(count), chunksize=64)
        for i, (image, label, text) in enumerate(drawings):
            images[i], labels[i] = image, label
            texts.append(text)
            progress(i + 1)
    images.flush()
    labels.flush()
    return open_pool(folder, texts)


def open_pool(folder: Path, texts: Sequence[Text]) -> Pool:
    """Open a pool that `render_pool` wrote; processes that open the same one share the memory of its images."""
    return Pool(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy", mmap_mode="r"), texts)


def _render(
    index: int, split: str, seed: int, kind: str | None, config: EmberNetConfig
) -> tuple[NDArray[np.uint8], NDArray[np.int8], Text]:
    drawing = draw(split, index, seed, kind)
    size = (config.image_size, config.image_size)
    image = np.asarray(drawing.image.resize(size, Image.Resampling.BICUBIC))
    labels = patch_labels(drawing.marks, config.image_size // config.patch_size)
    return image, labels, Text.of(drawing)
