"""Reads every example of a data directory: are all there, and can every image be decoded?"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embernet.data.loading import SkipLog, Skipped, load_example
from embernet.data.prepared import PreparedDataset
from embernet.data.sources import open_all
from embernet.errors import EmbernetError


@dataclass
class DatasetReport:
    """What is in one dataset. expected: samples by its metadata, None if that is silent; sizes: (width, height)."""

    key: str
    path: Path
    samples: int = 0
    expected: int | None = None
    images: int = 0
    texts: int = 0
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    skipped: SkipLog = field(default_factory=SkipLog)
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and not len(self.skipped) and self.expected in (None, self.samples)

    def to_dict(self) -> dict[str, Any]:
        return {
            "dataset_key": self.key,
            "path": str(self.path),
            "ok": self.ok,
            "samples": self.samples,
            "expected_samples": self.expected,
            "images": self.images,
            "texts": self.texts,
            "smallest_image": self.smallest,
            "largest_image": self.largest,
            "broken": [vars(skipped) for skipped in self.skipped.listed()],
            "error": self.error,
        }


def verify_dataset(
    dataset: PreparedDataset, folder: Path, advance: Callable[[int], None] = lambda _: None
) -> DatasetReport:
    """Read all splits of one dataset. folder: its data directory; advance: is called with the samples read."""
    total = dataset.metadata.get("total_samples")
    report = DatasetReport(dataset.key, dataset.path, expected=total if isinstance(total, int) else None)
    try:
        splits = open_all(dataset, folder)
    except EmbernetError as error:
        report.error = str(error)
        return report
    for split, source in splits.items():
        for index in range(len(source)):
            loaded = load_example(source, index)
            report.samples += 1
            advance(1)
            if isinstance(loaded, Skipped):
                report.skipped.add(Skipped(f"{dataset.key}/{split}", index, loaded.reason))
            elif loaded.image is None:
                report.texts += 1
            else:
                report.images += 1
                size = loaded.image.size
                report.smallest = min(report.smallest or size, size, key=_pixels)
                report.largest = max(report.largest or size, size, key=_pixels)
    return report


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]
