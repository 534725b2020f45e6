"""The runtime on native operators: found, chosen, refused. (test_export.py: the published numbers on each of them.)"""

import json
import subprocess
import sys

import numpy as np
import pytest

from embernet.errors import InputError
from embernet.runtime import load, native_library
from embernet.runtime.native_library import FUNCTION_BODIES, find_library, isa_in_use, memory_reader, supported_isas
from embernet.runtime.packing import GROUP_BYTES
from tests.conftest import ENGINES


def test_an_installation_for_tests_has_the_library() -> None:
    assert find_library() is not None
    assert supported_isas()[-1] == "portable"


def test_every_engine_gives_the_same_tokens(tiny_bundle, io, monkeypatch):
    answers = []
    for isa in ENGINES:
        monkeypatch.setenv("EMBERNET_ISA", isa)
        model = load(tiny_bundle)
        answers.append(model.generate_ids([1, 7, 9, 30], io["pixel_values"], max_new_tokens=40))
    assert len(answers[0]) == 40
    assert all(answer == answers[0] for answer in answers)


def test_unknown_kernels_are_refused(monkeypatch, tiny_bundle):
    monkeypatch.setenv("EMBERNET_ISA", "pdp11")
    with pytest.raises(InputError, match="EMBERNET_ISA: no such kernels here"):
        load(tiny_bundle)


def test_without_library_the_function_bodies_answer(monkeypatch, tiny_bundle):
    monkeypatch.setattr(native_library, "find_library", lambda: None)
    assert isa_in_use() == FUNCTION_BODIES
    assert len(load(tiny_bundle).generate_ids([1, 7], max_new_tokens=2)) == 2


def test_info_shows_the_choice():
    command = [sys.executable, "-m", "embernet", "info", "--cpu", "--json"]
    values = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert values["isa"] == values["supported_isas"][0]


def test_the_native_reader_reads_everything():
    words = np.random.default_rng(0).integers(0, 2**63, 8 * 1001, np.uint64)
    read = memory_reader()
    assert read is not None
    assert read(words.ctypes.data, words.nbytes) == np.bitwise_xor.reduce(words)
    assert read(words.ctypes.data, GROUP_BYTES + 63) == np.bitwise_xor.reduce(words[:8])
    assert read(words.ctypes.data, 0) == 0
