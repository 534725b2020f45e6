"""The report of `embernet bench`: one whole page that loads nothing, whatever the names in it say."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from itertools import count

import pytest

from embernet.cli.bench_page import report_page
from embernet.device.bench import run_bench
from embernet.device.bench_result import read_result
from embernet.device.fresh_process import STAGES
from tests.conftest import one_sentence
from tests.test_bench import NEW

HOSTILE = "<script>alert('1')</script> \"&amp; $\\frac{$ ]]> --><svg onload=x>"
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks while it reads that elements are closed in order, that ids are unique, and that nothing is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        assert all(target.startswith(("#", "data:image/png;base64,")) for target in self.targets)
        assert {target[1:] for target in self.targets if target.startswith("#")} <= set(self.ids)
        assert not {"script", "link", "img", "iframe", "object", "foreignobject"} & set(self.tags)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def _see(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href"):
                self.targets.append(value or "")


@pytest.fixture(scope="module")
def result(tiny_bundle, tmp_path_factory) -> dict:
    """Of a board that tells everything."""
    values = run_bench(str(tiny_bundle), repetitions=2, n_gen=3, threads=1, root=tmp_path_factory.mktemp("root"))
    values |= {"throttled": {"now": [], "occurred": [], "occurred_before": []}, "governor": "ondemand"}
    values["temperature_c"] = {"start": 48.25, "end": 61.0, "max": 62.5}
    values["course"]["temperature_c"] = [48.25 + at for at in range(len(values["course"]["at_s"]))]
    start = dict.fromkeys(STAGES, 100.0) | {"total_ms": 500.0}
    start |= {"peak_rss_bytes": 1, "proportional_bytes": 1, "anonymous_bytes": 1}
    return values | {"cold_start": start, "cold_start_ms": 500.0, "warm_start": start, "warm_start_ms": 500.0}


def test_a_page_says_what_was_measured(result):
    page = Page(report_page(result))
    assert page.tags.count("svg") == 4
    for text in ("tiny on ", "Valid: the board did not throttle", "further token", "°C", "seconds since the start"):
        assert text in page.text, text
    for text in (
        "48.2 to 61.0 °C, at most 62.5 °C",
        "ondemand",
        "interpreter",
        "cold",
        "resident",
        result["test_time"],
    ):
        assert text in page.text, text
    assert "before" not in page.text
    assert report_page(result) == report_page(result)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"valid": False, "invalid_reasons": ["too hot"]}, "NOT VALID: too hot"),
        ({"emulated": True}, "EMULATED"),
        ({"throttled": {"now": None, "occurred": None, "occurred_before": None}}, "does not say whether it throttles"),
    ],
)
def test_what_is_against_a_result_comes_first(result, change, text):
    page = Page(report_page(result | change)).text
    assert page.index(text) < page.index("decode")


def test_a_comparison_has_its_own_table_and_figures(result):
    slower = result | {"vision_ms": 2 * result["vision_ms"], "valid": False, "invalid_reasons": ["too hot"]}
    page = Page(report_page(slower, ("before.json", result)))
    for text in ("Compared with before.json", "now / before", "worse", "2.00", "this run is not valid (too hot)"):
        assert text in page.text, text
    assert page.tags.count("svg") == 5


def test_names_of_strangers_stay_text(result):
    strange = result | {
        "model": {"name": HOSTILE, "sha256": HOSTILE},
        **dict.fromkeys(("cpu_info", "kernel", "governor", "test_time", "image_path"), HOSTILE),
        "valid": False,
        "invalid_reasons": [HOSTILE],
        "versions": {HOSTILE: HOSTILE},
        "read_bandwidth_source": HOSTILE,
        "throttled": {"now": [HOSTILE], "occurred": [HOSTILE], "occurred_before": [HOSTILE]},
    }
    page = Page(report_page(strange, (HOSTILE, strange | {"model": {"name": HOSTILE, "sha256": "0"}})))
    assert page.text.count(HOSTILE) >= 12


def test_what_is_not_known_is_left_out(result, tmp_path):
    path = tmp_path / "old.json"
    lacking = {key: value for key, value in result.items() if key not in NEW}
    for key in ("peak_rss_bytes", "peak_pss_bytes", "anonymous_bytes", "vision_ms", "preprocess_ms", "cpu_info"):
        lacking[key] = None
    path.write_text(json.dumps(lacking))
    page = Page(report_page(read_result(path), ("now.json", result)))
    for text in ("an unknown processor", "an older embernet", "unknown"):
        assert text in page.text, text
    lacking = {key: value for key, value in lacking.items() if key != "samples" and not key.endswith("_p90_ms")}
    path.write_text(json.dumps(lacking))
    assert Page(report_page(read_result(path))).tags.count("svg") == 1


def test_numbers_of_strangers_can_be_drawn(result):
    odd = {"samples": {"decode_ns": [[], [0], [1e18, 1]]}, "course": result["course"] | {"at_s": [5]}}
    for value in (0, 1e18):
        figures = {key: value for key in result if key.endswith(("_ms", "_bytes")) and isinstance(result[key], float)}
        Page(report_page(result | odd | figures))


def test_a_long_run_is_no_large_page(result):
    tokens = [[1e6 + (7 * at) % 1e5 for at in range(500)] for _ in range(100)]
    course = {"decode_start_s": [0.6 * at for at in range(100)], "at_s": [float(at) for at in range(5000)]}
    course |= {"temperature_c": [50.0 + at % 7 for at in range(5000)], "frequency_mhz": [None] * 5000}
    page = report_page(result | {"samples": {"decode_ns": tokens}, "course": course})
    Page(page)
    assert len(page) < 400_000


def test_the_command_writes_it_whole(cli, result, tmp_path):
    path, report = tmp_path / "result.json", tmp_path / "new" / "report.html"
    path.write_text(json.dumps(result))
    code, out, err = cli("bench", "--compare", path, path, "--report", report)
    assert (code, err) == (0, f"embernet: wrote {report}\n")
    assert "against" in out
    assert Page(report.read_text(encoding="utf-8")).text.count(f"Compared with {path}") == 1
    assert list(report.parent.iterdir()) == [report]


def test_a_measured_run_has_one_too_even_if_it_is_not_valid(cli, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("embernet.device.bench.read_bandwidth", lambda *_: None)
    looks = count()
    monkeypatch.setattr("embernet.device.board_watch.swapped_out_bytes", lambda _root: next(looks) << 30)
    report = tmp_path / "report.html"
    code, _, err = cli("bench", "-m", tiny_bundle, "-r", 1, "-n", 2, "-q", "--report", report)
    assert code == 1
    one_sentence(err, "tiny: the run is not valid (memory was short: ")
    assert "NOT VALID: memory was short: " in Page(report.read_text(encoding="utf-8")).text


@pytest.mark.parametrize("arguments", [["-m", "spark"], ["--from", "{tmp}/result.json"]])
def test_without_matplotlib_the_extra_is_named_before_anything_is_measured(result, tmp_path, arguments):
    (tmp_path / "result.json").write_text(json.dumps(result))
    given = ["embernet", "bench", *(a.format(tmp=tmp_path) for a in arguments), "--report", str(tmp_path / "x.html")]
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['embernet.device.bench'] = None;"
        f"from embernet.cli import app; sys.argv = {given!r}; app.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (6, "")
    one_sentence(done.stderr, "pictures need matplotlib, which is not installed")
    assert not (tmp_path / "x.html").exists()
