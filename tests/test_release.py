"""What stays in memory: on a small board, only what the next step needs."""

import dataclasses
import gc
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from embernet.checkpoints import open_checkpoint
from embernet.errors import InputError
from embernet.export.bundle import ExportOptions, export_bundle
from embernet.families import get_family
from embernet.initial import write_initial_checkpoint
from embernet.models.embernet.config import EmberNetConfig
from embernet.runtime import load
from embernet.runtime.native_library import supported_isas
from embernet.runtime.release import mapped_ranges

KB = 1024
SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()

pytestmark = [
    pytest.mark.skipif(not supported_isas(), reason="without native operators weights are unpacked"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc"),
]


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """spark, but with experts of 384 KiB and a wide vision tower."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 256, "intermediate_size": 2048, "num_layers": 2, "vision_hidden_size": 512}
    config = dataclasses.replace(EmberNetConfig.preset("spark"), **sizes)
    write_initial_checkpoint(folder / "wide", get_family("embernet"), config, seed=0)
    export_bundle(open_checkpoint(folder / "wide"), folder / "wide.ember", ExportOptions())
    return folder / "wide.ember"


@dataclasses.dataclass(frozen=True)
class Mapping:
    """A part of weights.bin that is mapped: bytes [begin, end) of the file, and those in memory and touched lately."""

    begin: int
    end: int
    resident: int
    touched: int


def mappings(bundle: Path) -> list[Mapping]:
    """All mappings of a bundle's weights.bin in this process."""
    found, fields = [], {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if name.endswith(":"):
            fields[name] = values[0]
        else:
            addresses, offset = name.split("-"), int(values[1], 16)
            fields = {"is_ours": line.endswith(str(bundle / "weights.bin"))}
            size = int(addresses[1], 16) - int(addresses[0], 16)
        if name == "Referenced:" and fields["is_ours"]:
            found.append(Mapping(offset, offset + size, int(fields["Rss:"]) * KB, int(fields["Referenced:"]) * KB))
    return found


def tensors(bundle: Path, graph: str) -> dict[str, tuple[int, int, onnx.TensorProto]]:
    """Offset and length in weights.bin of every tensor of a graph that is stored there."""
    found = {}
    for tensor in onnx.load(bundle / graph, load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            found[tensor.name] = (int(place["offset"]), int(place["length"]), tensor)
    return found


def test_experts_that_are_not_chosen_are_never_touched(wide_bundle):
    with open(wide_bundle / "weights.bin", "rb") as file:  # what has just been written counts as touched for a while
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    model = load(wide_bundle)
    model.forward([5, 6])
    Path("/proc/self/clear_refs").write_text("1")  # from now on, the processor notes which pages it touches
    assert sum(mapping.touched for mapping in mappings(wide_bundle)) == 0
    choices = model.forward([5, 6]).experts
    packed = [place for name, place in tensors(wide_bundle, "decoder.onnx").items() if name.endswith(".moe.experts")]
    assert len(packed) == len(choices) == 2
    for (offset, _, tensor), chosen in zip(packed, choices, strict=True):
        count, size = tensor.dims
        used = len(np.unique(chosen)) + 1  # and the shared one
        assert used < count
        (mapping,) = (m for m in mappings(wide_bundle) if m.begin <= offset < m.end)
        # What is fetched ahead may reach into the page behind an expert.
        assert used * size <= mapping.touched <= used * (size + 8 * KB)


def test_the_vision_tower_leaves_the_memory_once_the_image_is_encoded(wide_bundle):
    model = load(wide_bundle)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 120, 120)).astype(np.float32)
    first = model.forward([5, 6], pixels)
    vision = tensors(wide_bundle, "vision.onnx")
    assert sum(length for _, length, _ in vision.values()) > 5e6
    for offset, length, _ in vision.values():
        for mapping in mappings(wide_bundle):
            if mapping.begin <= offset and offset + length <= mapping.end:
                assert mapping.resident == 0
    # What was let go comes back when it is needed.
    np.testing.assert_array_equal(model.forward([5, 6], pixels).logits, first.logits)


@pytest.mark.skipif("[never]" in SWITCH, reason="this system gives no huge pages")
def test_weights_in_huge_pages_are_a_copy_that_computes_the_same(wide_bundle):
    pixels = np.random.default_rng(0).standard_normal((1, 3, 120, 120)).astype(np.float32)
    expected = load(wide_bundle).forward([5, 6], pixels).logits
    gc.collect()
    model = load(wide_bundle, hugepages=True)
    assert mappings(wide_bundle) == []
    for _ in range(2):  # the vision tower is used, and used again
        np.testing.assert_array_equal(model.forward([5, 6], pixels).logits, expected)


def test_without_huge_pages_the_option_is_refused(wide_bundle, monkeypatch, tmp_path):
    (tmp_path / "enabled").write_text("always madvise [never]\n")
    for switch in ("enabled", "missing"):
        monkeypatch.setattr("embernet.runtime.hugepages._SWITCH", tmp_path / switch)
        with pytest.raises(InputError, match="huge pages: not available here"):
            load(wide_bundle, hugepages=True)


def test_files_that_are_not_mapped_have_no_ranges(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"x" * 4096)
    assert mapped_ranges(tmp_path / "weights.bin") == set()
