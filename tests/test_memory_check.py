"""What does not fit in memory is refused in one sentence, before it is begun."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from embernet.device.plan import PROCESS_BYTES
from embernet.errors import OutOfMemoryError
from embernet.families import get_family
from embernet.runtime import load, memory_check
from embernet.runtime.available_memory import available_bytes, meminfo
from embernet.runtime.bundle import open_bundle
from embernet.runtime.memory_check import _RESERVE_BYTES, check_before_loading, check_sequence
from embernet.runtime.pipelines.shape import MemoryNeed
from tests.conftest import EXAMPLES, one_sentence

MB = 10**6
NEED = MemoryNeed(
    vision_weights=50 * MB,
    decoder_weights=100 * MB,
    table_weights=10 * MB,
    sessions=5 * MB,
    image=10 * MB,
    position=100_000,
    cache_position=50_000,
)


# --- what is there --------------------------------------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return write(tmp_path, {"proc/meminfo": "MemTotal: 421000 kB\nMemAvailable: 300000 kB\nHugePages_Total: 0\n"})


def test_a_machine_without_limits(machine: Path, tmp_path: Path):
    assert available_bytes(machine) == 300000 << 10
    assert meminfo(machine) == {"MemTotal": 421000 << 10, "MemAvailable": 300000 << 10}
    assert available_bytes(tmp_path / "nothing") is None


def test_a_limit_of_version_2_counts_with_those_around_it(machine: Path):
    group = "sys/fs/cgroup/system.slice/ember.service"
    write(
        machine,
        {
            "proc/self/cgroup": "0::/system.slice/ember.service\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.current": "1000\n",
        },
    )
    assert available_bytes(machine) == 300000 << 10
    write(
        machine,
        {
            "sys/fs/cgroup/system.slice/memory.max": "100000000\n",
            "sys/fs/cgroup/system.slice/memory.current": "60000000\n",
            # Pages of files make room.
            "sys/fs/cgroup/system.slice/memory.stat": "anon 40000000\ninactive_file 15000000\nactive_file 5000000\n",
        },
    )
    assert available_bytes(machine) == 60 * MB
    write(machine, {f"{group}/memory.max": "50000000\n", f"{group}/memory.current": "48000000\n"})
    assert available_bytes(machine) == 2 * MB
    write(machine, {f"{group}/memory.current": "51000000\n"})
    assert available_bytes(machine) == 0


def test_a_limit_of_version_1(machine: Path):
    group = "sys/fs/cgroup/memory/box"
    write(
        machine,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/box\n1:name=systemd:/\n",
            f"{group}/memory.limit_in_bytes": "9223372036854771712\n",
            f"{group}/memory.usage_in_bytes": "1000\n",
            "sys/fs/cgroup/memory/other/memory.limit_in_bytes": "1\n",
            "sys/fs/cgroup/memory/other/memory.usage_in_bytes": "1\n",
        },
    )
    assert available_bytes(machine) == 300000 << 10
    write(
        machine,
        {
            f"{group}/memory.limit_in_bytes": "64000000\n",
            f"{group}/memory.usage_in_bytes": "50000000\n",
            f"{group}/memory.stat": "inactive_file 7\ntotal_inactive_file 10000000\ntotal_active_file 1000000\n",
        },
    )
    assert available_bytes(machine) == 25 * MB


def test_a_container_sees_its_own_group_as_the_root(machine: Path):
    """Its path in /proc/self/cgroup is that of the host, where there is nothing."""
    write(
        machine,
        {
            "proc/self/cgroup": "4:memory:/docker/0123\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "64000000\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "50000000\n",
        },
    )
    assert available_bytes(machine) == 14 * MB


# --- the check ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StandInShape:
    num_image_tokens: int = 80

    def memory(self) -> MemoryNeed:
        return NEED


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch):
    """Set how much memory there is."""

    def set_to(count: int | None, reserve: int = 0) -> None:
        monkeypatch.setattr(memory_check, "available_bytes", lambda: None if count is None else count + reserve)

    return set_to


def check(context: int | None, copied: int = 0) -> tuple[str, ...]:
    return check_before_loading("m", StandInShape(), context, copied)


def test_a_short_question_about_one_image_must_fit(available):
    # Sessions, 100 positions of keys and values, and a prompt of as many: more than the image needs.
    available(20 * MB, _RESERVE_BYTES)
    assert len(check(None)) == 1
    available(20 * MB - 1, _RESERVE_BYTES)
    with pytest.raises(OutOfMemoryError, match="100 positions .found 26 MB available, expected 26 MB") as caught:
        check(None)
    assert caught.value.hint == "end other programs"
    assert caught.value.exit_code == 5


def test_a_context_that_was_asked_for_must_fit_whole(available):
    available(40 * MB, _RESERVE_BYTES)
    with pytest.raises(OutOfMemoryError, match="m: does not fit in memory with 1000 positions") as caught:
        check(1000)
    assert caught.value.hint == "--context 500"
    check(500)
    with pytest.raises(OutOfMemoryError) as caught:
        check(501)
    assert caught.value.hint == "--context 500"
    available(10 * MB, _RESERVE_BYTES)  # less than an image needs: no context helps
    with pytest.raises(OutOfMemoryError) as caught:
        check(1000)
    assert caught.value.hint == "end other programs"


def test_weights_that_do_not_fit_beside_the_rest_are_a_warning(available):
    available(119 * MB, _RESERVE_BYTES)
    (warning,) = check(None)
    assert warning.endswith("(found 125 MB available, expected 126 MB)")
    available(120 * MB, _RESERVE_BYTES)
    assert check(None) == ()


def test_copied_weights_must_fit(available):
    available(170 * MB, _RESERVE_BYTES)
    assert check(None, copied=150 * MB) == ()
    available(170 * MB - 1, _RESERVE_BYTES)
    with pytest.raises(OutOfMemoryError):
        check(None, copied=150 * MB)


def test_where_nothing_is_known_nothing_is_refused(available):
    available(None)
    assert check(10**6) == ()
    check_sequence("m", NEED, 0, 10**6, 100)


def test_a_sequence_must_have_room_for_what_it_has_not_got_yet(available):
    available(30 * MB)
    check_sequence("m", NEED, length=0, capacity=400, prompt=100)
    with pytest.raises(OutOfMemoryError, match="a sequence of 401 positions .* .found 30 MB") as caught:
        check_sequence("m", NEED, length=0, capacity=401, prompt=100)
    assert caught.value.hint == "--context 400"
    check_sequence("m", NEED, length=200, capacity=600, prompt=100)
    with pytest.raises(OutOfMemoryError) as caught:
        check_sequence("m", NEED, length=0, capacity=300, prompt=290)
    assert caught.value.hint == "a shorter question"
    available(0)
    check_sequence("m", NEED, length=0, capacity=20, prompt=20)  # too little to look for


# --- where it is used -----------------------------------------------------------------------------------------------


def test_loading_is_refused_in_one_sentence(available, cli, tiny_bundle: Path):
    available(3 * MB)
    code, out, err = cli("caption", EXAMPLES / "scene.png", "-m", tiny_bundle, "-q")
    assert (code, out) == (5, "")
    one_sentence(err, "tiny: does not fit in memory with 36 positions (found 3 MB available, expected ")


def test_a_long_prompt_is_read_in_pieces(available):
    available(256 * MB // 10 + 1000 * MB // 20)
    check_sequence("m", NEED, length=0, capacity=1000, prompt=1000)
    with pytest.raises(OutOfMemoryError):
        check_sequence("m", NEED, length=0, capacity=1001, prompt=1000)


def test_a_long_image_is_read_whole(tiny_bundle: Path):
    bundle = open_bundle(tiny_bundle)
    config = dict(bundle.manifest.config) | {"num_image_tokens": 1000}
    shape = get_family("embernet").part("shape")(replace(bundle, manifest=replace(bundle.manifest, config=config)))
    need = shape.memory()
    assert need.prefill(900) == 900 * need.position
    assert need.prefill(2000) == 1001 * need.position
    assert shape.prefill_work(1001).weight_bytes == shape.prefill_work(1).weight_bytes
    assert shape.prefill_work(1002).weight_bytes == 2 * shape.prefill_work(1).weight_bytes


def test_the_hint_works(available, tiny_bundle: Path):
    shape = get_family("embernet").part("shape")(open_bundle(tiny_bundle))
    available(shape.memory().anonymous(100, 36), _RESERVE_BYTES)
    with pytest.raises(OutOfMemoryError) as caught:
        load(tiny_bundle, context=256)
    assert caught.value.hint == "--context 100"
    assert load(tiny_bundle, context=100).context_length == 100
    assert load(tiny_bundle).context_length == 256


def test_a_sequence_is_refused_before_it_is_read(available, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    model = load(tiny_bundle)
    monkeypatch.setattr(memory_check, "_SMALL_BYTES", 0)
    available(0)
    context = model.new_context(3, None, room=8)
    with pytest.raises(OutOfMemoryError, match="tiny: a sequence of 11 positions"):
        context.feed([1, 5, 7])
    assert context.length == 0
    available(None)
    assert context.feed([1, 5, 7]).logits.shape[0] == 1


def test_a_warning_is_said_once_on_stderr(available, cli, tiny_bundle: Path):
    need = get_family("embernet").part("shape")(open_bundle(tiny_bundle)).memory()
    available(need.anonymous(36, 36), _RESERVE_BYTES)
    code, _, err = cli("ask", EXAMPLES / "scene.png", "w9", "-m", tiny_bundle, "-n", 1)
    assert code == 0
    assert err.count("tiny: its weights do not all fit in memory beside the rest") == 1


def test_a_broken_configuration_is_still_a_broken_bundle(cli, tiny_bundle: Path, tmp_path: Path):
    for key, value in (("stem_channels", 5), ("stem_channels", ["x"]), ("patch_size", None), ("image_size", 0)):
        broken = tmp_path / "broken.ember"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(tiny_bundle, broken)
        manifest = json.loads((broken / "manifest.json").read_text())
        manifest["config"][key] = value
        (broken / "manifest.json").write_text(json.dumps(manifest))
        for command in (["plan", broken], ["caption", EXAMPLES / "scene.png", "-q", "-m", broken]):
            code, _, err = cli(*command)
            assert code == 4, err
            one_sentence(err, f"{broken}: config.{key} must ")


ANSWER = """
import json
from embernet.device.memory import memory_use
from embernet.runtime import load
model = load("spark", threads=4)
model.caption("examples/scene.png")
print(memory_use().anonymous_bytes)
"""


def test_the_estimate_is_close_to_what_a_small_model_takes():
    if available_bytes() is None:
        pytest.skip("needs Linux' /proc")
    root = EXAMPLES.parent
    done = subprocess.run([sys.executable, "-c", ANSWER], check=True, cwd=root, capture_output=True, text=True)
    need = get_family("embernet").part("shape")(open_bundle("spark")).memory()
    assert PROCESS_BYTES + need.anonymous(50, 30) == pytest.approx(int(done.stdout), rel=0.25)
