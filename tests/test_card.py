"""`embernet card`: the figures of the report, and of no other model."""

import json
from pathlib import Path

import pytest
import yaml

from embernet.runtime.bundle import open_bundle
from tests.conftest import one_sentence
from tests.training_runs import small_run, write_small_checkpoint


def score(correct: int, count: int) -> dict[str, object]:
    share = correct / count
    return {
        "count": count,
        "correct": correct,
        "accuracy": share,
        "accuracy_interval": [share / 2, 1.0],
        "accuracy_without_image": 0.125,
        "vqa_count": 0,
        "vqa_accuracy": None,
        "vqa_interval": None,
    }


def write_report(path: Path, model: dict[str, object], other: dict[str, object]) -> Path:
    """A report on `other` against `model`."""

    def result(facts: dict[str, object], correct: int) -> dict[str, object]:
        routing = {
            "experts": ["ocr", "scene"],
            "domains": ["spatial_scene", "vision_ocr"],
            "counts": [[[1, 3], [4, 0]]],
            "shares": [[[0.25, 0.75], [1.0, 0.0]]],
            "mutual_information_bits": [0.5488],
            "domain_entropy_bits": 1.0,
            "dead_experts": [[]],
        }
        domains = {"spatial_scene": score(correct, 20), "vision_ocr": score(5, 20)}
        return {
            "model": facts,
            "total": score(correct + 5, 40),
            "domains": domains,
            "routing": routing,
            "unanswered": [],
        }

    compared = {"p": 0.0215}
    comparison = {
        "test": "McNemar, exact",
        "total": compared,
        "domains": {"spatial_scene": compared, "vision_ocr": {"p": 1.0}},
    }
    values = {
        "schema": "embernet.eval/1",
        "data": {"name": "draw|ings", "split": "test"},
        "confidence": 0.95,
        "num_samples": 40,
        "skipped": [{"source": "x", "index": 0, "reason": "cut"}],
        **result(other, 19),
        "against": result(model, 10) | {"comparison": comparison},
    }
    path.write_text(json.dumps(values))
    return path


OTHER: dict[str, object] = {"kind": "checkpoint", "name": "mine", "path": "elsewhere", "sha256": None}


def test_a_card_of_a_bundle(cli, tmp_path: Path) -> None:
    bundle = open_bundle("spark")
    own: dict[str, object] = {"kind": "bundle", "name": "spark", "path": "x", "sha256": bundle.sha256()}
    report = write_report(tmp_path / "eval.json", own, OTHER)
    (tmp_path / "limits.md").write_text("It has never seen a photograph.\n")
    output = tmp_path / "README.md"
    arguments = ("--eval", report, "-o", output, "--license", "mit", "--limits", tmp_path / "limits.md")
    assert cli("card", "spark", *arguments)[:2] == (0, f"{output}\n")
    _, front, text = output.read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "mit"
    assert yaml.safe_load(front)["pipeline_tag"] == "image-text-to-text"
    for line in (
        "# spark",
        f"| bytes | {bundle.size():,} |",
        f"| sha256 of its files' names and hashes | {bundle.sha256()} |",
        "| all | 40 | 37.5% | 18.8% to 100.0% | 12.5% | 60.0% | 0.021 |",
        "| spatial_scene | 20 | 50.0% | 25.0% to 100.0% | 12.5% | 95.0% | 0.021 |",
        "| ocr | 25.0% | 100.0% |",
        "It has never seen a photograph.",
    ):
        assert line in text.splitlines()
    assert "40 questions about 40 images (draw\\|ings, split test)" in text
    assert "Examples that could not be used: 1." in text
    assert "Never chosen: none." in text
    assert "## Training" not in text


def test_a_card_of_a_run(cli, one_thread, tmp_path: Path) -> None:
    result = small_run(tmp_path / "runs", write_small_checkpoint(tmp_path / "start"), stage=1, epochs=1)
    own: dict[str, object] = {"kind": "checkpoint", "name": "x", "path": str(result.checkpoint), "sha256": None}
    report = write_report(tmp_path / "eval.json", own, OTHER)
    code, _, err = cli("card", result.checkpoint, "--eval", report, "-o", tmp_path / "README.md")
    assert code == 0, err
    text = (tmp_path / "README.md").read_text()
    assert "## Training" in text
    assert f"| steps | {result.state.global_step:,} of 4 examples |" in text
    assert "Nothing is known about anything but the questions above" in text


@pytest.mark.parametrize(
    ("model", "change", "start"),
    [
        ("spark", {}, "the report is of another model"),
        ("spark", {"against": 3}, "the report lacks what a card needs"),
        ("spark", {"schema": "embernet.ask/1"}, "{tmp}/eval.json: not a report of `embernet eval`"),
    ],
)
def test_no_card_from_other_measurements(cli, tmp_path: Path, model: str, change, start: str) -> None:
    report = write_report(tmp_path / "eval.json", OTHER, OTHER)
    report.write_text(json.dumps(json.loads(report.read_text()) | change))
    code, _, err = cli("card", model, "--eval", report, "-o", tmp_path / "README.md", "-q")
    assert code == 3
    one_sentence(err, start.format(tmp=tmp_path))
    assert not (tmp_path / "README.md").exists()
