"""`embernet bench`: what is measured and reported, never how long it took."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embernet.checkpoints import write_text
from embernet.device import bandwidth, board_watch
from embernet.device.bandwidth import read_bandwidth
from embernet.device.bench import STAGES, PeakMemory, Round, count_steps, run_bench, summarize
from embernet.device.bench_result import read_result
from embernet.device.comparison import METRICS, Difference, compare, compare_conditions
from embernet.device.cpu import cpu_name, is_emulated, last_level_cache_bytes, physical_cores
from embernet.device.memory import MemoryUse, memory_use
from embernet.device.ordinary_turn import DEFAULT_PREFILL
from embernet.device.workload import DEFAULT_GEN
from embernet.errors import EmbernetError, InputError
from embernet.runtime import load, native_library
from embernet.runtime.native_library import FUNCTION_BODIES, isa_in_use
from tests.conftest import one_sentence
from tests.test_cli import embernet
from tests.test_health import vcgencmd

TEXTS = {"schema", "test_time", "cpu_info", "kernel", "image_path", "read_bandwidth_source"}
OBJECTS = {"model", "versions", "samples", "samples_ns", "stage_memory", "course", "emulated", "hugepages", "spin"}
# What a result did not have before the board was looked at.
NEW = {
    *("valid", "invalid_reasons", "temperature_c", "frequency_mhz", "governor", "throttled"),
    *("swap_bytes", "zram_bytes", "swap_used_bytes", "swapped_out_bytes", "cold_start_ms", "warm_start_ms"),
    *("cold_start", "warm_start", "stage_memory", "course"),
}


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch):
    """The bandwidth of memory is not of interest here, and what other programs swap out makes no run invalid."""
    monkeypatch.setattr(board_watch, "swapped_out_bytes", lambda _root: 0)
    monkeypatch.setattr(bandwidth, "available_bytes", lambda: 1 << 21)
    monkeypatch.setattr(bandwidth, "PASSES", 1)


@pytest.fixture(scope="module")
def result(tiny_bundle, tmp_path_factory) -> dict:
    """Of a machine that does not tell how it is."""
    return run_bench(str(tiny_bundle), repetitions=3, n_gen=4, threads=1, root=tmp_path_factory.mktemp("root"))


# --- what is measured -----------------------------------------------------------------------------------------------


def test_every_number_of_the_result_is_documented(result):
    page = (Path(__file__).parent.parent / "docs" / "benchmarking.md").read_text()
    for key in result:
        assert f"`{key}`" in page, key


def test_the_result_is_json_with_numbers_where_numbers_belong(result):
    assert next(iter(result)) == "schema"
    assert result["schema"] == "embernet.bench/1"
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    for key in result.keys() - TEXTS - OBJECTS - NEW:
        assert type(result[key]) in (int, float), key
        assert result[key] > 0, key
    assert result["model"]["name"] == "tiny"
    assert result["model_n_params"] == 361_192
    assert result["n_threads"] == 1
    assert result["kernel"] == isa_in_use()
    assert result["image_path"] is None
    assert "onnxruntime" in result["versions"]


def test_rounds_and_tokens_are_as_many_as_asked_for(result):
    samples = result["samples"]
    assert {key: len(values) for key, values in samples.items()} == dict.fromkeys(samples, 3)
    assert [len(tokens) for tokens in samples["decode_ns"]] == [4, 4, 4]
    assert (result["n_gen"], result["repetitions"]) == (4, 3)


def test_the_figures_follow_from_the_samples(result):
    samples = result["samples"]
    assert result["vision_ms"] == statistics.median(samples["vision_ns"]) / 1e6
    assert result["vision_p90_ms"] == pytest.approx(np.percentile(samples["vision_ns"], 90) / 1e6)
    first = [
        sum(stages) for stages in zip(*(samples[f"{s}_ns"] for s in ("preprocess", "vision", "prefill")), strict=True)
    ]
    assert result["time_to_first_token_ms"] == statistics.median(first) / 1e6
    tokens = [token for tokens in samples["decode_ns"] for token in tokens]
    assert result["decode_tokens_per_second"] == pytest.approx(1e9 / statistics.median(tokens))
    assert result["samples_ns"] == [sum(tokens) for tokens in samples["decode_ns"]]
    positions = result["n_image"] + result["n_prompt"]
    assert result["prefill_tokens_per_second"] == pytest.approx(positions / result["prefill_ms"] * 1e3)
    effective = result["decode_weight_bytes"] * 1e3 / result["token_ms"]
    assert result["weight_bandwidth_bytes_per_second"] == pytest.approx(effective)
    assert result["weight_bandwidth_share"] == pytest.approx(effective / result["read_bandwidth_bytes_per_second"])
    ceiling = result["read_bandwidth_bytes_per_second"] / result["decode_weight_bytes"]
    assert result["ceiling_ts"] == pytest.approx(ceiling)


def test_a_summary_of_known_rounds():
    ms = 1_000_000
    rounds = [Round(1 * ms, 10 * ms, 20 * ms, (2 * ms, 2 * ms)), Round(3 * ms, 14 * ms, 30 * ms, (4 * ms, 4 * ms))]
    figures = summarize(rounds, n_prefill=50)
    assert figures["preprocess_ms"] == 2
    assert figures["vision_p90_ms"] == pytest.approx(13.6)
    assert figures["prefill_tokens_per_second"] == 2000
    assert figures["time_to_first_token_ms"] == 39
    assert figures["token_ms"] == 3
    assert figures["avg_ts"] == 375
    assert figures["stddev_ts"] == pytest.approx(statistics.stdev([500, 250]))
    assert summarize(rounds[:1], 50)["stddev_ts"] is None


def test_the_usual_sizes_fit_every_context(tiny_bundle, tmp_path, monkeypatch):
    usual = run_bench(str(tiny_bundle), repetitions=1)
    assert usual["n_image"] + usual["n_prompt"] == DEFAULT_PREFILL
    assert usual["n_gen"] == DEFAULT_GEN
    short = tmp_path / "short.ember"
    shutil.copytree(tiny_bundle, short)
    manifest = json.loads((short / "manifest.json").read_text())
    manifest["tokens"]["context_length"] = 20  # of which the image takes 16
    (short / "manifest.json").write_text(json.dumps(manifest))
    least = run_bench(str(short), repetitions=1)
    assert (least["n_prompt"], least["n_gen"]) == (1, 3)
    with pytest.raises(InputError, match="do not fit the context .found 16 image, 2 prompt and 3 new tokens"):
        run_bench(str(short), n_prompt=2, n_gen=3)


def test_end_tokens_end_nothing(tiny_bundle, monkeypatch):
    eos = load(tiny_bundle).manifest.eos_token_id
    monkeypatch.setattr("embernet.device.workload.Sampler", lambda sampling: lambda logits: eos)
    assert len(run_bench(str(tiny_bundle), repetitions=1, n_gen=5)["samples"]["decode_ns"][0]) == 5


def test_progress_counts_every_stage(tiny_bundle):
    steps = []
    run_bench(str(tiny_bundle), repetitions=2, n_gen=1, progress=steps.append)
    assert sum(steps) == 3 * len(STAGES) == count_steps(2, cold_start=False)


def test_every_engine_can_be_measured(tiny_bundle, engine):
    assert run_bench(str(tiny_bundle), repetitions=1, n_gen=2)["kernel"] == engine


def test_an_image_of_the_users(tiny_bundle, tmp_path):
    path = str(tmp_path / "photo.png")
    Image.new("RGB", (40, 30)).save(path)
    assert run_bench(str(tiny_bundle), repetitions=1, n_gen=1, image=path)["image_path"] == path


def test_an_image_whose_name_is_no_text_is_measured_and_written(cli, tiny_bundle, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Image.new("RGB", (40, 30)).save(path)
    result, report = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.json"), tmp_path / "report.html"
    assert cli("bench", "-m", tiny_bundle, *QUICK, "--image", path, "-o", result)[0] == 0
    assert read_result(Path(result))["image_path"] == f"{tmp_path}/caf\\udce9.png"
    code, out, _ = cli("bench", "--compare", result, result, "--report", report)
    assert code == 0
    assert f"against {tmp_path}/\\udce9.json" in out
    assert f"Compared with {tmp_path}/\\udce9.json" in report.read_text(encoding="utf-8")


# --- bandwidth, memory, processor -----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_bandwidth_is_measured_on_weights_that_no_cache_holds(tmp_path, monkeypatch, threads):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(bytes(1 << 16))
    monkeypatch.setattr(bandwidth, "last_level_cache_bytes", lambda: 1 << 14)
    measured = read_bandwidth(weights, threads)
    assert (measured.source, measured.size_bytes) == ("weights", 1 << 16)
    assert measured.bytes_per_second > 0
    monkeypatch.setattr(bandwidth, "last_level_cache_bytes", lambda: (1 << 14) + 1)
    measured = read_bandwidth(weights, threads)
    assert (measured.source, measured.size_bytes) == ("buffer", 1 << 20)  # half of what is available


def test_no_more_weights_are_read_than_stay_in_memory(tmp_path, monkeypatch):
    """Else the disk is measured: pages that are read in turn push each other out."""
    weights = tmp_path / "weights.bin"
    weights.write_bytes(bytes(1 << 16))
    monkeypatch.setattr(bandwidth, "last_level_cache_bytes", lambda: 1 << 12)
    monkeypatch.setattr(bandwidth, "available_bytes", lambda: 1 << 16)
    measured = read_bandwidth(weights, 1)
    assert (measured.source, measured.size_bytes) == ("weights", 1 << 15)


def test_without_memory_the_bandwidth_is_not_known(tmp_path, monkeypatch):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"small")
    monkeypatch.setattr(bandwidth, "available_bytes", lambda: 0)
    assert read_bandwidth(weights, 2) is None


@pytest.mark.parametrize("library", [None, Path("libc.so.6")], ids=["without", "of an older version"])
def test_without_the_native_library_the_bandwidth_is_not_known(tiny_bundle, monkeypatch, library):
    monkeypatch.setenv("EMBERNET_ISA", FUNCTION_BODIES)
    monkeypatch.setattr(native_library, "find_library", lambda: library)
    monkeypatch.setattr(native_library, "supported_isas", list)
    values = run_bench(str(tiny_bundle), repetitions=1, n_gen=1)
    keys = [key for key in values if key.startswith("read_bandwidth")]
    assert [values[key] for key in (*keys, "weight_bandwidth_share", "ceiling_ts")] == [None] * 5
    assert values["weight_bandwidth_bytes_per_second"] > 0


def test_the_buffer_of_the_bandwidth_is_no_part_of_the_memory(tiny_bundle, monkeypatch):
    seen = []
    monkeypatch.setattr("embernet.device.bench.read_bandwidth", lambda *_: seen.append("bandwidth"))
    monkeypatch.setattr(PeakMemory, "sample", lambda self, stage: seen.append("memory"))
    run_bench(str(tiny_bundle), repetitions=2, n_gen=1)
    assert Counter(seen) == {"memory": 1 + 3 * len(STAGES), "bandwidth": 1}
    assert seen[-1] == "bandwidth"


def test_memory_is_the_most_that_was_seen(monkeypatch):
    uses = iter([MemoryUse(5, 4, 3, 10), MemoryUse(9, 8, 1, 12), MemoryUse(7, 6, 2, 12), None])
    monkeypatch.setattr("embernet.device.bench.memory_use", lambda: next(uses))
    memory = PeakMemory()
    unknown = dict.fromkeys(("resident_bytes", "proportional_bytes", "anonymous_bytes"))
    peaks = dict.fromkeys(("peak_rss_bytes", "peak_pss_bytes", "anonymous_bytes"))
    stages = dict.fromkeys(("load", *STAGES), unknown)
    assert memory.to_dict() == {**peaks, "stage_memory": stages}
    for stage in ("load", "image", "image", "decode"):
        memory.sample(stage)
    stages["load"] = {"resident_bytes": 5, "proportional_bytes": 4, "anonymous_bytes": 3}
    stages["image"] = {"resident_bytes": 9, "proportional_bytes": 8, "anonymous_bytes": 2}
    peaks = {"peak_rss_bytes": 12, "peak_pss_bytes": 8, "anonymous_bytes": 3}
    assert memory.to_dict() == {**peaks, "stage_memory": stages}


def test_memory_of_this_process_is_plausible():
    use = memory_use()
    assert use.anonymous_bytes <= use.resident_bytes <= use.peak_resident_bytes
    assert use.proportional_bytes <= use.resident_bytes


def machine(root: Path, **files: str) -> Path:
    """A folder that holds files of /proc and /sys; `__` stands for `/`."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_pc(tmp_path):
    root = machine(
        tmp_path,
        proc__cpuinfo="processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\n",
        sys__devices__system__cpu__cpu0__cache__index0__size="32K\n",
        sys__devices__system__cpu__cpu0__cache__index3__size="32768K\n",
        sys__devices__system__cpu__cpu0__topology__thread_siblings_list="0-1\n",
        sys__devices__system__cpu__cpu1__topology__thread_siblings_list="0-1\n",
        sys__devices__system__cpu__cpu2__topology__thread_siblings_list="2-3\n",
    )
    assert cpu_name(root) == "AMD EPYC"
    assert last_level_cache_bytes(root) == 32 << 20
    assert physical_cores(root) == 2
    assert not is_emulated(root, "x86_64")
    assert is_emulated(root, "aarch64")  # QEMU's user mode shows the host's /proc


def test_a_raspberry_pi(tmp_path):
    root = machine(
        tmp_path,
        proc__cpuinfo="processor\t: 0\nCPU implementer\t: 0x41\n\nModel\t\t: Raspberry Pi Zero 2 W Rev 1.0\n",
    )
    assert cpu_name(root) == "Raspberry Pi Zero 2 W Rev 1.0"
    assert last_level_cache_bytes(root) is None
    assert not is_emulated(root, "aarch64")


@pytest.mark.parametrize(
    "files",
    [
        {"proc__cpuinfo": "vendor_id : AuthenticAMD\nmodel name : QEMU TCG CPU version 2.5+\n"},
        {"proc__device-tree__model": "linux,dummy-virt\0"},
    ],
)
def test_what_calls_itself_qemu_is_emulated(tmp_path, files):
    assert is_emulated(machine(tmp_path, **files), "x86_64")


def test_a_machine_that_tells_nothing(tmp_path):
    assert cpu_name(tmp_path) is None
    assert physical_cores(tmp_path) == os.cpu_count()
    assert not is_emulated(tmp_path)


# --- comparing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "now", "before", "ratio", "verdict"),
    [
        ("decode_tokens_per_second", 110, 100, 1.1, "better"),
        ("decode_tokens_per_second", 90, 100, 0.9, "worse"),
        ("vision_ms", 90, 100, 0.9, "better"),
        ("peak_rss_bytes", 110, 100, 1.1, "worse"),
        ("vision_ms", 101, 100, 1.01, "same"),
        ("vision_ms", None, 100, None, "unknown"),
        ("vision_ms", 100, None, None, "unknown"),
        ("vision_ms", 100, 0, None, "unknown"),
    ],
)
def test_better_and_worse(metric, now, before, ratio, verdict):
    difference = Difference(metric, now, before)
    assert difference.ratio == ratio
    assert difference.verdict == verdict


def test_other_conditions_are_said(result):
    assert compare_conditions(result, result) == []
    other = result | {"n_threads": 7, "kernel": "neon", "model": result["model"] | {"sha256": "0", "name": "big"}}
    assert compare_conditions(result, other) == [
        "the models differ ('tiny', before 'big')",
        "not the same threads (1, before 7)",
        f"not the same kernels ({result['kernel']!r}, before 'neon')",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "embernet.bench/2"}, "not a benchmark result .found schema 'embernet.bench/2'"),
        ({"decode_tokens_per_second": "fast"}, "decode_tokens_per_second is missing or wrong .found 'fast'"),
        ({"decode_tokens_per_second": float("nan")}, "decode_tokens_per_second is missing or wrong"),
        ({"load_ms": True}, "load_ms is missing or wrong"),
        ({"load_ms": -1}, "load_ms is missing or wrong"),
        ({"peak_rss_bytes": 10**400}, "peak_rss_bytes is missing or wrong"),
        ({"n_threads": True}, "n_threads is missing or wrong .found True, expected a whole number"),
        ({"cpu_info": 3}, "cpu_info is missing or wrong .found 3, expected a text or null"),
        ({"kernel": None}, "kernel is missing or wrong"),
        ({"model": "tiny"}, "model is missing or wrong"),
        ({"model": {"name": "\x1b[2J", "sha256": "0"}}, "model is missing or wrong"),
        ({"valid": "yes"}, "valid is missing or wrong .found 'yes', expected true or false or null"),
        ({"temperature_c": {"start": 40, "end": "hot", "max": 50}}, "temperature_c is missing or wrong"),
        ({"throttled": {"now": [1], "occurred": [], "occurred_before": []}}, "throttled is missing or wrong"),
        ({"course": {"at_s": [1]}}, "course is missing or wrong .*, expected an object of decode_start_s"),
        ({"samples": {"decode_ns": [[float("inf")]]}}, "samples is missing or wrong"),
        ({"cold_start": {}}, "cold_start is missing or wrong"),
        ({"of_a_stranger": float("nan")}, "not JSON as the standard has it"),
        ({"of_a_stranger": "\ud800"}, "not JSON as the standard has it"),
    ],
)
def test_a_broken_result_is_refused(result, tmp_path, change, message):
    path = tmp_path / "before.json"
    path.write_text(json.dumps(result))
    assert read_result(path) == result
    path.write_text(json.dumps(result | change))
    with pytest.raises(InputError, match=message):
        read_result(path)


@pytest.mark.parametrize(
    "key", [*sorted(METRICS.keys() - NEW), "n_threads", "kernel", "cpu_info", "emulated", "n_gen", "model", "schema"]
)
def test_a_result_that_lacks_something_is_refused(result, tmp_path, key):
    path = tmp_path / "before.json"
    path.write_text(json.dumps({k: v for k, v in result.items() if k != key}))
    with pytest.raises(InputError, match=key):
        read_result(path)


def test_a_result_of_an_older_version_compares_and_what_it_lacks_is_unknown(result, tmp_path):
    path = tmp_path / "before.json"
    path.write_text(json.dumps({key: value for key, value in result.items() if key not in NEW}))
    before = read_result(path)
    assert {before[key] for key in NEW} == {None}
    assert compare_conditions(result | {"governor": "ondemand"}, before) == []
    differences = {difference.metric: difference for difference in compare(result, before)}
    assert differences["cold_start_ms"].verdict == "unknown"
    assert differences["vision_ms"].verdict == "same"


def test_a_run_that_is_not_valid_is_said(result):
    spoilt = result | {"valid": False, "invalid_reasons": ["the board slowed itself down: throttled"]}
    assert compare_conditions(result, spoilt) == [
        "the run before is not valid (the board slowed itself down: throttled)"
    ]
    assert compare_conditions(spoilt, result) == ["this run is not valid (the board slowed itself down: throttled)"]


def test_another_image_is_said(result):
    """A photograph takes far longer to prepare than an image of the model's size that was made in memory."""
    assert compare_conditions(result | {"image_path": "photo.jpg"}, result) == [
        "not the same image ('photo.jpg', before None)"
    ]


def test_another_governor_is_said(result):
    assert compare_conditions(result | {"governor": "powersave"}, result | {"governor": "ondemand"}) == [
        "not the same governor ('powersave', before 'ondemand')"
    ]


# --- the command ----------------------------------------------------------------------------------------------------

QUICK = ("-r", 1, "-n", 2, "-p", 3)


def test_a_table_for_people(cli, tiny_bundle):
    code, out, err = cli("bench", "-m", tiny_bundle, *QUICK)
    assert (code, err) == (0, "")
    for word in ("median", "load", "preprocess", "image", "prefill", "first token", "weight bandwidth", "anonymous"):
        assert word in out, word
    assert "16 image + 3 prompt + 2 new tokens" in out
    assert "EMULATED" not in out


def test_emulated_times_do_not_look_measured(cli, tiny_bundle, monkeypatch):
    monkeypatch.setattr("embernet.device.bench.is_emulated", lambda: True)
    _, out, _ = cli("bench", "-m", tiny_bundle, *QUICK)
    assert "EMULATED" in out


def test_a_throttled_run_is_shown_written_and_ends_with_1(cli, tiny_bundle, tmp_path, monkeypatch):
    vcgencmd(tmp_path, "echo throttled=0x40004", monkeypatch)
    path = tmp_path / "result.json"
    code, out, err = cli("bench", "-m", tiny_bundle, *QUICK, "-o", path)
    assert code == 1
    assert "NOT VALID: the board slowed itself down: throttled\n" in out
    assert "further token" in out
    assert "throttled during the run" in out
    one_sentence(err, "tiny: the run is not valid (the board slowed itself down: throttled)")
    values = json.loads(path.read_text())
    assert values["valid"] is False
    assert values["throttled"] == {"now": ["throttled"], "occurred": ["throttled"], "occurred_before": ["throttled"]}
    code, out, err = cli("bench", "-m", tiny_bundle, *QUICK, "--json")
    assert (code, json.loads(out)["valid"], json.loads(err)["code"]) == (1, False, 1)


def test_saved_results_are_shown_and_compared_without_measuring(cli, tiny_bundle, tmp_path, monkeypatch):
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    measured = cli("bench", "-m", tiny_bundle, *QUICK, "-o", before)
    cli("bench", "-m", tiny_bundle, *QUICK, "-o", now)
    now.write_text(json.dumps(json.loads(now.read_text()) | {"valid": False, "invalid_reasons": ["too hot"]}))
    monkeypatch.setattr("embernet.device.bench.run_bench", lambda *_, **__: pytest.fail("measured"))
    assert cli("bench", "--from", before) == measured
    code, out, err = cli("bench", "--from", now)
    assert (code, err) == (0, "")
    assert "NOT VALID: too hot\n" in out
    code, out, err = cli("bench", "--compare", before, now)
    assert code == 0
    assert "NOT VALID: too hot\n" in out
    assert f"against {before}\n" in out
    assert err == "embernet: this run is not valid (too hot)\n"
    values = json.loads(cli("bench", "--compare", before, now, "--json")[1])
    assert values["against"]["path"] == str(before)
    assert values["against"]["warnings"] == ["this run is not valid (too hot)"]
    assert {key: value for key, value in values.items() if key != "against"} == json.loads(now.read_text())


def test_json_and_nothing_else_on_stdout(cli, tiny_bundle):
    code, out, err = cli("bench", "-m", tiny_bundle, *QUICK, "--json")
    assert (code, err) == (0, "")
    values = json.loads(out, parse_constant=pytest.fail)
    assert out.startswith('{\n  "schema": "embernet.bench/1"')
    assert (values["n_prompt"], values["n_gen"], values["repetitions"]) == (3, 2, 1)
    assert "against" not in values


def test_an_earlier_result_is_compared(cli, tiny_bundle, tmp_path):
    before = tmp_path / "before.json"
    assert cli("bench", "-m", tiny_bundle, *QUICK, "-t", 1, "-o", before)[0] == 0
    code, out, err = cli("bench", "-m", tiny_bundle, *QUICK, "-t", 2, "--against", before)
    assert code == 0
    assert f"against {before}" in out
    assert any(word in out for word in ("better", "worse", "same"))
    assert err == "embernet: not the same threads (2, before 1)\n"
    code, out, _ = cli("bench", "-m", tiny_bundle, *QUICK, "-t", 2, "--against", before, "--json", "-o", before)
    comparison = json.loads(out)["against"]
    assert comparison["warnings"] == ["not the same threads (2, before 1)"]
    assert comparison["ratios"].keys() == METRICS.keys()
    # The file is a result by itself: what it was compared with is not part of it.
    assert json.loads(before.read_text()) == {k: v for k, v in json.loads(out).items() if k != "against"}
    assert list(tmp_path.iterdir()) == [before]


def test_unknown_values_are_printed_and_compared(cli, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("embernet.device.bench.memory_use", lambda: None)
    monkeypatch.setattr("embernet.device.bench.read_bandwidth", lambda *_: None)
    monkeypatch.setattr("embernet.device.bench.cpu_name", lambda: None)
    path = tmp_path / "result.json"
    assert cli("bench", "-m", tiny_bundle, *QUICK, "-o", path)[0] == 0
    assert json.loads(path.read_text())["peak_pss_bytes"] is None
    code, out, _ = cli("bench", "-m", tiny_bundle, *QUICK, "--against", path)
    assert code == 0
    assert "peak proportional  unknown" in out


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (["--against", "nothing.json"], 3, "nothing.json: no such file"),
        (["--against", "{folder}/broken.json"], 3, "{folder}/broken.json: not readable as JSON"),
        (["--against", "{folder}/other.json"], 3, "{folder}/other.json: not a benchmark result"),
        (["-o", "{folder}"], 3, "{folder}: exists already and is not a file"),
        (["--report", "{folder}"], 3, "{folder}: exists already and is not a file"),
        (["-o", "/dev/null"], 3, "/dev/null: exists already and is not a file"),
        (["--image", "nothing.png"], 3, "nothing.png: no such file"),
        (["-n", "1000"], 3, "tiny: the tokens do not fit the context"),
        (["-p", "1000"], 3, "tiny: the tokens do not fit the context"),
        (["-m", "nothing.ember"], 4, "nothing.ember: no such bundle"),
    ],
)
def test_errors_are_one_sentence(cli, tiny_bundle, tmp_path, arguments, code, start):
    (tmp_path / "broken.json").write_text('{"schema": ')
    (tmp_path / "other.json").write_text('{"schema": "embernet.info/1"}')
    given = [argument.format(folder=tmp_path) for argument in arguments]
    found, out, err = cli("bench", "-m", tiny_bundle, "-r", 1, *given)
    assert (found, out) == (code, "")
    one_sentence(err, start.format(folder=tmp_path))


@pytest.mark.parametrize("path", ["nothing.json", "{folder}/other.json"])
@pytest.mark.parametrize("option", [["--from"], ["--compare", "{folder}/other.json"]])
def test_saved_results_that_cannot_be_used(cli, tmp_path, option, path):
    (tmp_path / "other.json").write_text('{"schema": "embernet.info/1"}')
    code, out, err = cli("bench", *(word.format(folder=tmp_path) for word in (*option, path)))
    assert (code, out) == (3, "")
    one_sentence(err, "nothing.json" if option == ["--from"] and path == "nothing.json" else str(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        *(["-r", "0"], ["-n", "0"], ["-p", "0"], ["-t", "0"], ["spark"], ["--compare", "a.json"]),
        ["--from", "a.json", "--compare", "a.json", "b.json"],
        ["--from", "a.json", "--against", "b.json"],
        ["--from", "a.json", "-m", "spark"],
        ["--compare", "a.json", "b.json", "--cold-start"],
    ],
)
def test_wrong_usage(cli, arguments):
    assert cli("bench", *arguments)[0] == 2


def test_a_result_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EmbernetError, match="the disk is full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_result_is_written_even_if_it_cannot_be_printed_and_the_other_way_round(cli, tiny_bundle, tmp_path):
    path = tmp_path / "result.json"
    command = [sys.executable, "-m", "embernet", "bench", "-m", tiny_bundle, *map(str, QUICK), "-o", path]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, stdout=full, stderr=subprocess.DEVNULL, check=False).returncode == 1
    assert read_result(path)["n_gen"] == 2
    code, out, err = cli("bench", "-m", tiny_bundle, *QUICK, "-o", path / "result.json")
    assert (code, "further token" in out) == (3, True)
    one_sentence(err, f"{path}/result.json: {path} is not a folder")


def test_progress_is_shown_late_and_only_on_a_terminal(capsys, monkeypatch):
    from embernet.cli import bench

    clock = iter([0.0, 1.0, 3.0, 4.0])
    monkeypatch.setattr(bench, "monotonic", lambda: next(clock))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with bench._late_progress(4, quiet=False) as advance:
        advance(1)
        assert capsys.readouterr().err == ""
        advance(1)
        assert capsys.readouterr().err == "\rmeasuring  50%"
    assert capsys.readouterr().err.strip(" \r") == ""
    with bench._late_progress(1, quiet=True) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


def test_ctrl_c_ends_with_130_and_writes_nothing(tmp_path):
    process = embernet("bench", "-r", 1_000_000, "-o", tmp_path / "result.json")
    assert b"using the built-in model" in process.stderr.readline()
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert not list(tmp_path.iterdir())
