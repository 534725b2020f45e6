"""`embernet eval`: what is counted, how sure it is, and that checkpoint and bundle are asked the same."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embernet.checkpoints import open_checkpoint
from embernet.data.loading import Skipped
from embernet.data.prepared import write_json
from embernet.evaluation.answering import Reply, open_answerer
from embernet.evaluation.evaluate import evaluate
from embernet.evaluation.routing import RoutingTable, mutual_information
from embernet.evaluation.samples import Probe, Sample, open_samples
from embernet.evaluation.statistics import mcnemar_p, wilson_interval
from embernet.evaluation.vqa import normalize_answer, vqa_accuracy
from embernet.export.bundle import ExportOptions, export_bundle
from embernet.models.embernet.config import EXPERT_DOMAINS
from embernet.runtime import load
from tests.conftest import one_sentence
from tests.training_runs import DOMAINS, DrawnExamples, write_small_checkpoint

# --- what is counted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Dog.\n", "dog"),
        ("two", "2"),
        ("None", "0"),
        ("1,000", "1000"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("3.5", "3.5"),
        ("a/b", "b"),  # "a" stands alone then, and is an article
        ("dont know!", "don't know"),
        ("couldnt've", "couldn't've"),
        ("it's 5:30", "it's 5:30"),
    ],
)
def test_answers_are_normalised_as_the_official_evaluation_does(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("matches", "accuracy"),
    # Of ten annotators, m agree: m of the ten ways to leave one out keep m - 1 of them, the others m.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_vqa_accuracy_of_ten_annotators(matches: int, accuracy: float) -> None:
    references = ["A cat."] * matches + ["dog"] * (10 - matches)
    assert vqa_accuracy("cat", references) == pytest.approx(accuracy)


def test_wilson_intervals() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx((0.722467, 1.0), abs=1e-6)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_mcnemar_is_a_two_sided_sign_test() -> None:
    assert mcnemar_p(1, 9) == mcnemar_p(9, 1) == 2 * (1 + 10) / 2**10
    assert mcnemar_p(5, 5) == mcnemar_p(0, 0) == 1.0
    assert 0 < mcnemar_p(900, 1100) < 1e-4


def test_routing_says_how_much_an_expert_tells_about_the_domain() -> None:
    assert mutual_information(np.eye(4)) == pytest.approx(2.0)
    assert mutual_information(np.full((4, 4), 0.25)) == 0.0
    table = RoutingTable(("a", "b", "c"))
    table.add("x", np.array([[[0, 1], [0, 1]], [[0, 1], [1, 0]]]))
    table.add("y", np.array([[[0, 1], [1, 2]]]))
    values = table.to_dict()
    assert values["counts"] == [[[2, 2, 0], [1, 1, 0]], [[2, 2, 0], [0, 1, 1]]]
    assert values["shares"][1] == [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    assert values["mutual_information_bits"] == pytest.approx([0.0, 0.5])
    assert values["domain_entropy_bits"] == 1.0
    assert values["dead_experts"] == [["c"], []]


# --- the report -----------------------------------------------------------------------------------------------------


class Scripted:
    """Answers as it is told, whatever is asked."""

    experts = ("a", "b")

    def __init__(self, *answers: str) -> None:
        self.facts: dict[str, Any] = {"path": "scripted"}
        self._answers = iter(answers)

    def answer(self, samples: Sequence[Sample]) -> list[list[Reply]]:
        choices = np.zeros((1, 1, 1), np.int64)
        return [[Reply(next(self._answers), choices=choices) for _ in sample.probes] for sample in samples]


class Listed:
    """Samples of a list, the second of them unusable."""

    name = "listed"
    BLACK = Image.new("RGB", (8, 8))

    def __init__(self) -> None:
        probe = Probe("color", "which color?", ("red", "red", "dark red", "red"))
        self._samples: list[Sample | Skipped] = [
            Sample("0", self.BLACK, "vision_ocr", (probe, Probe("shape", "which shape?", ("square",)))),
            Skipped("listed", 1, "1: cut"),
            Sample("2", self.BLACK, "spatial_scene", (probe,)),
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample | Skipped:
        return self._samples[index]

    def guesses(self) -> dict[str, str]:
        return {"which color?": "blue", "shape": "square"}


def test_two_models_are_compared_question_by_question() -> None:
    report = evaluate(Scripted("red", "circle", "blue"), [Listed()], against=Scripted("blue", "square ", "blue"))
    total = report["total"]
    assert (total["count"], total["correct"], total["accuracy_without_image"]) == (3, 1, 1 / 3)
    assert (total["vqa_count"], total["vqa_accuracy"]) == (2, pytest.approx((3 / 4 * 2 / 3 + 1 / 4) / 2))
    assert report["domains"]["spatial_scene"]["correct"] == 0
    assert report["kinds"]["shape"]["vqa_accuracy"] is None
    assert report["skipped"] == [{"source": "listed", "index": 1, "reason": "1: cut"}]
    assert report["routing"]["dead_experts"] == [["b"]]
    comparison = report["against"]["comparison"]
    expected = {"count": 3, "both_right": 0, "only_first_right": 1, "only_second_right": 1, "difference": 0, "p": 1}
    assert comparison["total"] == expected
    assert set(comparison["domains"]) == {"vision_ocr", "spatial_scene"}


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small checkpoint and its exact bundle."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = write_small_checkpoint(folder / "model")
    bundle = folder / "model.ember"
    export_bundle(open_checkpoint(checkpoint), bundle, ExportOptions(vision="float32", embedding="float32"))
    return checkpoint, bundle


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and test examples of two domains; the last image of the test split is cut."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 12), ("test", 6)):
        records = []
        for number in range(count):
            domain = DOMAINS[number % 2]
            example = DrawnExamples(count, domain)[number]
            assert isinstance(example.image, Image.Image)
            name = f"{split}{number}.png"
            example.image.save(folder / name)
            prompt, answer = example.turns[0]
            record = {"image": name, "domain": domain, "question": prompt, "answers": [answer] * 9 + ["blue"]}
            records.append(record)
        (folder / f"{split}.json").write_text(json.dumps(records))
    (folder / "test5.png").write_bytes((folder / "test5.png").read_bytes()[:60])
    return folder


def test_a_report_can_name_any_file(tmp_path) -> None:
    skipped = {"reason": os.fsdecode(b"caf\xe9.png") + " has no caption of a caf\xe9"}
    write_json(tmp_path / "report.json", skipped)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == skipped


def test_a_bundle_answers_as_its_checkpoint(cli, one_thread, models, data, tmp_path) -> None:
    checkpoint, bundle = models
    output = tmp_path / "report.json"
    code, out, err = cli("eval", checkpoint, "--against", bundle, "--data", data, "--batch-size", 2, "-o", output)
    assert code == 0, err
    assert "skipped: " in err
    assert "test5.png" in err
    for text in ("5 questions about 5 images", "exact match", "VQA accuracy", "mutual information", "McNemar, exact"):
        assert text in out
    report = json.loads(output.read_text())
    assert report["schema"] == "embernet.eval/1"
    assert report["data"] == {"name": str(data), "split": "test", "domains": None, "count": None}
    assert set(report["domains"]) == set(DOMAINS)
    assert report["total"]["vqa_count"] == 5
    assert report["total"]["accuracy_without_image"] is not None
    assert (report["model"]["kind"], report["against"]["model"]["kind"]) == ("checkpoint", "bundle")
    compared = report["against"]["comparison"]["total"]
    assert compared["only_first_right"] == compared["only_second_right"] == 0
    assert report["routing"] == report["against"]["routing"]


def test_replies_are_those_of_the_runtime_and_of_generate(one_thread, models) -> None:
    _, bundle = models
    example = DrawnExamples(4)[3]
    prompts = ("what color is it?", "is it red")
    samples = [Sample("3", example.image, "vision_ocr", tuple(Probe(None, prompt, ("red",)) for prompt in prompts))] * 2
    (first, _), (second, _) = (open_answerer(str(path), batch_size=3).answer(samples) for path in models)
    model = load(bundle)
    for ours, theirs, prompt in zip(first, second, prompts, strict=True):
        answer = model.ask(example.image, prompt)
        assert ours.text == theirs.text == answer.text
        assert "".join(ours.tokens) == answer.text
        assert np.array_equal(np.sort(ours.choices), np.sort(theirs.choices))
        assert ours.choices.shape == (len(answer.token_ids), 2, 2)


def test_a_question_that_does_not_fit_counts_as_wrong(one_thread, models) -> None:
    sample = Sample("0", Listed.BLACK, "vision_ocr", (Probe(None, "is " * 100, ("red",)), Probe(None, "is", ("red",))))
    for path in models:
        too_long, fits = open_answerer(str(path)).answer([sample])[0]
        assert "does not fit" in (too_long.problem or "")
        assert fits.problem is None


def test_the_builtin_model_on_its_own_drawings(cli) -> None:
    code, out, _ = cli("eval", "--data", "synth", "--count", 8, "--json", "-q")
    report = json.loads(out)
    assert code == 0
    assert report["num_samples"] == 8
    assert set(report["domains"]) == set(EXPERT_DOMAINS)
    assert report["total"]["accuracy"] > 0.6 > report["total"]["accuracy_without_image"]


def test_drawings_of_chosen_domains_are_those_of_the_mixture() -> None:
    (mixture,) = open_samples("synth", "test", [], 16)
    (chosen,) = open_samples("synth", "test", ["spatial_scene", "vision_ocr"], 4)
    domains = [sample.domain for sample in map(chosen.__getitem__, range(4)) if isinstance(sample, Sample)]
    assert domains == ["vision_ocr", "spatial_scene"] * 2
    first, same = mixture[8], chosen[2]
    assert isinstance(first, Sample)
    assert isinstance(same, Sample)
    assert first.probes == same.probes
    assert first.image.tobytes() == same.image.tobytes()


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (["--data", "synth", "--domain", "nowhere"], 3, "no such domain (found 'nowhere'"),
        (["--data", "synth", "--domain", "general"], 3, "synth has no drawings of general"),
        (["--data", "nowhere.json"], 3, "nowhere.json: no such dataset"),
        (["no-model", "--data", "synth"], 4, "no-model: no bundle of this name"),
        # Said before anything is asked.
        (["no-model", "--data", "synth", "-o", "/dev/null/a.json"], 3, "/dev/null/a.json: /dev/null is not a folder"),
        (["--data", "{data}", "--domain", "agentic_knowledge", "--split", "train"], 3, "{data}: holds no examples"),
    ],
)
def test_what_cannot_be_evaluated(cli, data, arguments, code, start) -> None:
    found, out, err = cli("eval", "-q", *(argument.format(data=data) for argument in arguments))
    assert (found, out) == (code, "")
    one_sentence(err, start.format(data=data))
