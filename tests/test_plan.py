"""Plans: sizes and work from a manifest alone, against what was counted and measured."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from embernet.device import instructions
from embernet.device.boards import BOARDS, PI_ZERO_2_W, detect_board, find_board, host_board
from embernet.device.estimate import estimate_range
from embernet.device.instructions import count_instructions
from embernet.device.plan import make_plan
from embernet.errors import InputError
from embernet.families import get_family
from embernet.models.embernet.config import EmberNetConfig
from embernet.runtime.bundle import Bundle, open_bundle
from tests.conftest import one_sentence

KEPT = json.loads((Path(__file__).parent.parent / "benchmarks" / "a53_instructions.json").read_text())["models"]
# Of what the models were counted with: how far a stage may be from its count. docs/board.md states the same.
TOLERANCES = {"spark": 0.25, "full": 0.02}
MEMINFO = "MemTotal: {} kB\nMemAvailable: {} kB\n"


@pytest.fixture(scope="module")
def full_size(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with the manifest of the full-size model; its weights are a hole of the right size."""
    path = tmp_path_factory.mktemp("full") / "full.ember"
    shutil.copytree(tiny_bundle, path)
    manifest = json.loads((path / "manifest.json").read_text())
    config = EmberNetConfig()
    manifest |= {"name": "full", "config": config.to_dict(), "experts": list(config.expert_domains)}
    manifest["tokens"] |= {"vocab_size": config.vocab_size, "context_length": config.max_position_embeddings}
    manifest["image"]["size"] = config.image_size
    manifest["files"]["weights.bin"]["bytes"] = 303_012_864
    os.truncate(path / "weights.bin", 303_012_864)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return open_bundle(path)


@pytest.mark.parametrize("name", ["spark", "full"])
def test_work_gives_the_counted_instructions_and_bytes_back(name: str, full_size: Bundle):
    bundle = full_size if name == "full" else open_bundle("spark")
    shape, kept = get_family("embernet").part("shape")(bundle), KEPT[name]
    works = {
        "vision": shape.image_work(),
        "prefill": shape.prefill_work(kept["positions"]),
        "decode": shape.token_work(kept["positions"] + len(kept["ids"]) // 2),
    }
    for stage, work in works.items():
        millions = count_instructions(work, "neon") / 1e6
        assert millions == pytest.approx(kept["millions"][stage], rel=TOLERANCES[name]), stage
        assert work.weight_bytes / 1e6 == pytest.approx(kept["megabytes"][stage], rel=0.04), stage
    assert count_instructions(works["vision"], "neon_dot") < count_instructions(works["vision"], "neon")


def test_a_plan_agrees_with_the_estimate_from_counts(full_size: Bundle):
    """docs/performance-a53.md has that one."""
    plan = make_plan(full_size, BOARDS["pi-zero-2-w"])
    assert (plan["n_image"], plan["n_prompt"], plan["n_gen"]) == (64, 20, 20)
    names = {"preprocess": "preprocess", "image": "vision", "prefill": "prefill", "token": "decode"}
    for name, stage in names.items():
        part, kept = plan["time"][name], KEPT["full"]
        threads = 1 if name == "preprocess" else 4
        counted = estimate_range(kept["millions"][stage], kept["megabytes"][stage], threads, PI_ZERO_2_W)
        for key, expected in (("fast_ms", counted.fast), ("central_ms", counted.central), ("slow_ms", counted.slow)):
            assert part[key] == pytest.approx(expected.ms, rel=0.02), (name, key)
        assert part["n_threads"] == threads
    assert {name: plan["time"][name]["limit"] for name in names} == dict.fromkeys(names, "arithmetic") | {
        "token": "memory bandwidth"
    }
    total = sum(plan["time"][name]["central_ms"] for name in ("preprocess", "image", "prefill"))
    assert plan["time"]["total"]["central_ms"] == pytest.approx(total + 19 * plan["time"]["token"]["central_ms"])


def test_small_operators_are_not_divided_among_threads():
    times = make_plan(open_bundle("spark"), BOARDS["pi-zero-2-w"], n_prompt=6)["time"]
    assert [times[name]["n_threads"] for name in ("image", "prefill", "token")] == [1, 1, 1]


def test_memory_agrees_with_what_was_measured(full_size: Bundle):
    """docs/numerics.md has 44 MB of anonymous memory after an answer, docs/performance-a53.md the weights."""
    memory = make_plan(full_size, BOARDS["pi-zero-2-w"])["memory"]
    assert memory["anonymous_bytes"] == pytest.approx(44e6, rel=0.25)
    weights = memory["decoder_weight_bytes"] + memory["embedding_weight_bytes"]
    assert weights == pytest.approx(205.468e6, rel=0.001)
    assert memory["vision_weight_bytes"] == pytest.approx(97.432e6, rel=0.01)
    assert memory["cache_bytes"] == 16 * 2 * 4096 * 6 * 64 * 4
    # The vision tower's pages are let go before the prefill: no stage has both.
    assert memory["peaks"]["image"] < memory["peaks"]["prefill"] < memory["peaks"]["image"] + weights
    assert memory["peaks"]["answer"] == max(memory["peaks"].values())


def test_the_largest_context_fits_and_one_more_does_not(full_size: Bundle):
    board = BOARDS["pi-zero-2-w"]
    memory = make_plan(full_size, board)["memory"]
    assert memory["verdict"] == "fits with a smaller context"
    most = memory["largest_context"]
    assert make_plan(full_size, board, context=most)["memory"]["verdict"] == "fits"
    larger = make_plan(full_size, board, context=most + 1)["memory"]
    assert (larger["verdict"], larger["largest_context"]) == ("fits with a smaller context", most)


def test_a_board_that_is_too_small(full_size: Bundle):
    def plan(available: int | None) -> dict:
        return make_plan(full_size, replace(BOARDS["pi-zero-2-w"], available_bytes=available))["memory"]

    assert plan(10**9)["verdict"] == "fits"
    assert (plan(200 * 10**6)["verdict"], plan(200 * 10**6)["runs_from_disk"]) == ("does not fit", True)
    assert (plan(40 * 10**6)["verdict"], plan(40 * 10**6)["runs_from_disk"]) == ("does not fit", False)
    assert (plan(None)["verdict"], plan(None)["largest_context"]) == ("unknown", None)


def test_tokens_that_are_more_than_the_context(full_size: Bundle):
    with pytest.raises(InputError, match="64 image, 20 prompt and 20 new tokens, expected at most 100 together"):
        make_plan(full_size, BOARDS["pi-5"], n_prompt=20, context=100)
    assert make_plan(full_size, BOARDS["pi-5"], context=100)["n_prompt"] == 16
    for context in (0, 4097):
        with pytest.raises(InputError, match=f"from 1 to 4096 positions .found {context}"):
            make_plan(full_size, BOARDS["pi-5"], context=context)


# --- boards ---------------------------------------------------------------------------------------------------------


def machine(root: Path, model: str | None) -> Path:
    (root / "proc/device-tree").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(MEMINFO.format(430000, 300000))
    if model is not None:
        (root / "proc/device-tree/model").write_text(model + "\0")
    return root


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Raspberry Pi Zero 2 W Rev 1.0", "pi-zero-2-w"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "pi-3"),
        ("Raspberry Pi Compute Module 3 Plus Rev 1.0", "pi-3"),
        ("Raspberry Pi 4 Model B Rev 1.4", "pi-4"),
        ("Raspberry Pi 400 Rev 1.0", "pi-4"),
        ("Raspberry Pi Compute Module 4 Rev 1.1", "pi-4"),
        ("Raspberry Pi 5 Model B Rev 1.0", "pi-5"),
        ("Raspberry Pi Zero W Rev 1.1", None),
        ("Raspberry Pi 2 Model B Rev 1.1", None),
        ("Radxa ROCK 4", None),
        (None, None),
    ],
)
def test_boards_are_known_by_their_own_description(tmp_path: Path, model: str | None, name: str | None):
    found = detect_board(machine(tmp_path, model))
    assert (found and found.name) == name


def test_the_host_has_the_memory_it_says_and_the_speed_of_a_known_board(tmp_path: Path):
    board = host_board(machine(tmp_path, "Raspberry Pi 3 Model A Plus Rev 1.0"))
    assert (board.name, board.speed) == ("pi-3", BOARDS["pi-3"].speed)
    assert (board.memory_bytes, board.available_bytes) == (430000 << 10, 300000 << 10)
    other = find_board("host", machine(tmp_path, "Radxa ROCK 4"))
    assert (other.name, other.title, other.speed, other.available_bytes) == ("host", "Radxa ROCK 4", None, 300000 << 10)
    assert make_plan(open_bundle("spark"), other)["time"] is None


def test_the_host_has_no_more_memory_than_a_limit_leaves(tmp_path: Path):
    root = machine(tmp_path, "Raspberry Pi 3 Model A Plus Rev 1.0")
    limits = {"memory.max": "64000000", "memory.current": "14000000"}
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text("0::/\n")
    (root / "sys/fs/cgroup").mkdir(parents=True)
    for name, text in limits.items():
        (root / "sys/fs/cgroup" / name).write_text(text)
    assert host_board(root).available_bytes == 50_000_000
    (root / "proc/device-tree/model").unlink()
    assert host_board(root).available_bytes == 50_000_000


def test_profiles_are_in_order():
    for board in BOARDS.values():
        fast, central, slow = board.speed.fast, board.speed.central, board.speed.slow
        assert fast.cpi < central.cpi < slow.cpi
        assert fast.efficiency > central.efficiency > slow.efficiency
        assert fast.gigabytes_per_second > central.gigabytes_per_second > slow.gigabytes_per_second
        assert board.available_bytes < board.memory_bytes


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_fits_a_terminal(cli, full_size: Bundle):
    for board in BOARDS:
        code, out, err = cli("plan", full_size.path, "--board", board)
        assert (code, err) == (0, "")
        assert "ESTIMATED, nothing was run" in out.splitlines()[0]
        assert max(map(len, out.splitlines())) <= 80
    code, out, _ = cli("plan", full_size.path, "--board", "pi-zero-2-w")
    most = make_plan(full_size, BOARDS["pi-zero-2-w"])["memory"]["largest_context"]
    assert out.splitlines()[-1] == f"fits with --context {most}"
    assert cli("plan", full_size.path, "--board", "pi-zero-2-w", "--context", most)[1].splitlines()[-1] == "fits"


def test_the_command_without_a_board_is_about_this_machine(cli):
    code, out, _ = cli("plan", "spark", "-p", 9, "-n", 7, "--json")
    plan = json.loads(out)
    assert code == 0
    assert next(iter(plan)) == "schema"
    assert (plan["schema"], plan["estimated"]) == ("embernet.plan/1", True)
    assert (plan["n_image"], plan["n_prompt"], plan["n_gen"]) == (25, 9, 7)
    assert plan["board"]["name"] == host_board().name
    assert plan["memory"]["verdict"] == "fits"


def test_the_command_ends_with_5_if_it_does_not_fit(cli, full_size: Bundle, monkeypatch: pytest.MonkeyPatch):
    small = replace(BOARDS["pi-3"], available_bytes=100 * 10**6)
    monkeypatch.setattr("embernet.device.boards.BOARDS", {"pi-3": small})
    code, out, _ = cli("plan", full_size.path, "--board", "pi-3")
    assert code == 5
    assert out.splitlines()[-1] == "does not fit: it would run, reading weights from the disk again and again"


def test_a_bundle_of_a_family_to_come_is_one_that_cannot_be_read(cli, tiny_bundle: Path, tmp_path: Path):
    path = shutil.copytree(tiny_bundle, tmp_path / "new.ember")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"family": "embernet-2"}))
    code, out, err = cli("plan", path)
    assert (code, out) == (4, "")
    one_sentence(err, f"{path}: unknown model family 'embernet-2' (known: embernet)")


def test_unknown_boards_are_named(cli):
    code, _, err = cli("plan", "spark", "--board", "pi-9")
    assert code == 3
    one_sentence(err, "pi-9: no such board (known: pi-zero-2-w, pi-3, pi-4, pi-5, host)")


def test_planning_imports_no_engine():
    code = (
        "import sys; from embernet.device.boards import BOARDS; from embernet.device.plan import make_plan; "
        "from embernet.runtime.bundle import open_bundle; make_plan(open_bundle('spark'), BOARDS['pi-5']); "
        "assert not {'onnxruntime', 'PIL', 'tokenizers', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_states_the_profiles_and_the_instructions():
    page = (Path(__file__).parent.parent / "docs" / "board.md").read_text(encoding="utf-8")
    for board in BOARDS.values():
        speed, steps = board.speed, (board.speed.fast, board.speed.central, board.speed.slow)
        assumed = [
            " / ".join(str(getattr(step, name)) for step in steps)
            for name in ("cpi", "efficiency", "gigabytes_per_second")
        ]
        memory = f"{board.available_bytes / 1e6:.0f} of {board.memory_bytes / 1e6:.0f}"
        cpu = f"{board.cores} x {board.cpu}, {speed.clock_ghz} GHz"
        assert f"| {' | '.join([board.name, cpu, memory, speed.isa, *assumed])} |" in page
    for name, count in instructions._PER_UNIT["neon"].items():
        assert f"| {count} | {instructions._PER_UNIT['neon_dot'][name]} |" in page
