"""`embernet plot`: what is drawn, that files are whole, and that what cannot be drawn is said."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from embernet.evaluation.answering import open_answerer
from embernet.evaluation.attention import attention_on_image
from embernet.evaluation.checkpoint import CheckpointAnswerer
from embernet.evaluation.samples import Probe, Sample
from embernet.runtime.image import load_image
from embernet.training.start import start_from
from tests.conftest import EXAMPLES, one_sentence
from tests.training_runs import write_small_checkpoint

SCENE = EXAMPLES / "scene.png"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    lines = [
        {"step": step, "train/loss": 2 / step, "train/lr": 1e-3, "train/grad_norm": 1.0, "train/expert_0": 0.5}
        for step in range(1, 9)
    ]
    lines.append({"step": 9, "val/loss": 0.4})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10, "tr')
    return tmp_path


@pytest.fixture
def report(tmp_path: Path) -> Path:
    routing = {
        "experts": ["ocr", "scene"],
        "domains": ["vision_ocr", "spatial_scene"],
        "shares": [[[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]]],
        "mutual_information_bits": [0.0, 1.0],
        "domain_entropy_bits": 1.0,
    }
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"schema": "embernet.eval/1", "model": {"name": "tiny"}, "routing": routing}))
    return path


def texts(svg: Path) -> str:
    """All that is written in a picture."""
    return " ".join("".join(element.itertext()) for element in ET.parse(svg).iter() if "text" in element.tag)


def test_a_run(cli, run_folder: Path) -> None:
    output = run_folder / "run.svg"
    assert cli("plot", "run", run_folder, "-o", output)[:2] == (0, f"{output}\n")
    for text in ("Loss", "validation", "Learning rate", "norm before clipping", "expert 0", "optimiser step"):
        assert text in texts(output)
    first = output.read_bytes()
    cli("plot", "run", run_folder, "-o", output)
    assert output.read_bytes() == first
    assert sorted(path.name for path in run_folder.iterdir()) == ["metrics.jsonl", "run.svg"]


def test_routing(cli, report: Path, tmp_path: Path) -> None:
    output = tmp_path / "routing.svg"
    assert cli("plot", "routing", report, "-o", output)[0] == 0
    for text in ("tiny", "layer 1: 1.00 bits of 1.00", "ocr", "spatial_scene", "share of the domain"):
        assert text in texts(output)


def test_levels_of_a_checkpoint_and_of_a_bundle(cli, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "levels.svg"
    assert cli("plot", "levels", checkpoint, "-o", output)[0] == 0
    for text in ("absmean", "decoder.layers.1.moe.experts", "vision_encoder.projector", "mean |w|"):
        assert text in texts(output)
    assert cli("plot", "levels", "spark", "-o", tmp_path / "spark.png")[0] == 0
    with Image.open(tmp_path / "spark.png") as picture:
        assert picture.width > 1000


def test_an_answer_of_a_checkpoint_and_of_a_bundle(cli, one_thread, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "answer.svg"
    assert cli("plot", "answer", SCENE, "what color is it?", "-m", checkpoint, "-o", output)[0] == 0
    for text in ("what color is it?", "of attention is on the image", "experts of each token", "vision_ocr"):
        assert text in texts(output)
    assert cli("plot", "answer", SCENE, "what shape is black?", "-o", output)[0] == 0
    assert "circle" in texts(output)
    assert "attention" not in texts(output)


def test_attention_is_what_the_decoder_computes(one_thread, checkpoint: Path) -> None:
    """Projector and pooler only share out: what a position gives to all cells is what it gives to the image."""
    model = start_from(checkpoint, None).build().eval()
    ids, pixels = torch.tensor([[1, 5, 6, 7]]), torch.rand(1, 3, 16, 16)
    cells = attention_on_image(model, ids, pixels)
    assert cells.shape == (4, 2, 2)
    shares = cells.sum(dim=(1, 2))
    # The first text position sees the image's four tokens and itself.
    assert 0 < float(shares.min()) < float(shares.max()) < 1
    # Keys and queries of zero give even attention: I of I + t + 1 positions are the image's.
    for block in model.decoder.layers:
        block.attention.q_proj.norm.weight.data.zero_()
    even = attention_on_image(model, ids, pixels).sum(dim=(1, 2))
    torch.testing.assert_close(even, torch.tensor([4 / 5, 4 / 6, 4 / 7, 4 / 8]))


def test_attention_has_a_row_for_every_token(one_thread, checkpoint: Path) -> None:
    answerer = open_answerer(str(checkpoint))
    assert isinstance(answerer, CheckpointAnswerer)
    sample = Sample("", load_image(SCENE).rgb, "", (Probe(None, "what color is it?", ()),))
    reply = answerer.answer([sample])[0][0]
    attention = answerer.attention(sample, reply)
    assert attention.shape == (len(reply.ids), 2, 2)
    assert np.all(attention >= 0)


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (["run", "{tmp}/none", "-o", "x.png"], 3, "{tmp}/none/metrics.jsonl: no such file"),
        (["run", "{tmp}", "-o", "x.gif"], 3, "x.gif: a picture is written as .png or .svg"),
        (["run", "{tmp}", "-o", "x.png"], 3, "{tmp}/metrics.jsonl: not the figures of a run"),
        (["routing", "{tmp}/other.json", "-o", "x.png"], 3, "{tmp}/other.json: not a report"),
        (["routing", "{tmp}/cut.json", "-o", "x.png"], 3, "{tmp}/cut.json: its routing cannot be drawn"),
        (["levels", "no-model", "-o", "x.png"], 4, "no-model: no bundle"),
        (["answer", "{tmp}/none.png", "what?", "-o", "x.png", "-q"], 3, "{tmp}/none.png"),
    ],
)
def test_what_cannot_be_drawn(cli, tmp_path: Path, monkeypatch, arguments, code, start) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": "one"}\n')
    (tmp_path / "other.json").write_text('{"schema": "embernet.ask/1"}')
    (tmp_path / "cut.json").write_text('{"schema": "embernet.eval/1", "model": {"name": "x"}, "routing": {}}')
    found, out, err = cli("plot", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert (found, out) == (code, "")
    one_sentence(err, start.format(tmp=tmp_path))
    assert not (tmp_path / "x.png").exists()


def test_without_matplotlib_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; from embernet.cli import app;"
        f"sys.argv = ['embernet', 'plot', 'levels', 'spark', '-o', {str(tmp_path / 'x.png')!r}]; app.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "pip install 'embernet[plot]'" in done.stderr
