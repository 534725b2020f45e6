"""`embernet train` as a user drives it: flags, files, presets, what is printed, signals, several processes."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomllib
from PIL import Image

from embernet.checkpoints import open_checkpoint
from embernet.cli.train_console import TrainConsole
from embernet.errors import InputError
from embernet.training.config import TrainConfig, preset_values, read_config_file
from embernet.training.console import Plan, banner, step_line
from embernet.training.run import plan_run
from embernet.training.state import RunState
from tests.test_trainer import metrics, same_curves
from tests.training_runs import DOMAINS, DrawnExamples, write_small_checkpoint

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A dataset of 20 drawings, of which the last two are kept for validation."""
    folder = tmp_path_factory.mktemp("data")
    records = []
    for index in range(20):
        example = DrawnExamples(20, DOMAINS[index % 2])[index]
        assert isinstance(example.image, Image.Image)
        example.image.save(folder / f"{index}.png")
        (question, answer), domain = example.turns[0], example.domain
        records.append({"image": f"{index}.png", "question": question, "answer": answer, "domain": domain})
    (folder / "train.json").write_text(json.dumps(records))
    return folder


@pytest.fixture
def train(cli, model, data, tmp_path, one_thread):
    """Run `embernet train` with the small model and the drawings, in one thread."""

    def run(*arguments: object, model: Path | None = model) -> tuple[int, str, str]:
        common = ["--data-dir", data, "--device", "cpu", "--num-workers", 0, "--batch-size", 2, "--grad-accum", 2]
        given = ["--model", model] if model else []
        return cli("train", *arguments, *common, *given, *([] if "-o" in arguments else ["-o", tmp_path / "runs"]))

    return run


# --- configuration --------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_published_ones():
    config = TrainConfig(stage=1)
    assert (config.epochs, config.batch_size, config.grad_accum, config.num_workers) == (3, 4, 4, 4)
    assert (config.data_dir, config.output_dir, config.wandb_project) == ("./data", "./checkpoints", "EmberNet")
    assert config.run_name == "stage1_bs4"
    assert [TrainConfig(stage=s).learning_rate for s in (1, 2)] == [1e-3, 1e-4]
    assert [TrainConfig(stage=s, freeze="reference").learning_rate for s in (1, 2)] == [1e-4, 3e-4]
    assert [preset_values("main", s)["epochs"] for s in (1, 2)] == [2, 5]


def test_a_flag_overrules_the_file_which_overrules_the_preset(tmp_path):
    yaml, toml = tmp_path / "run.yaml", tmp_path / "run.toml"
    yaml.write_text("lr: 2e-4\nexperts: [1, 3]\nbatch_size: 3\n")
    toml.write_text("lr = 2e-4\nexperts = [1, 3]\nbatch_size = 3\n")
    assert read_config_file(yaml) == read_config_file(toml) == tomllib.loads(toml.read_text())
    given = {"stage": 2, "batch_size": 5, "model": "x"}
    config = plan_run(given, read_config_file(yaml), "run.yaml", preset="trial").config
    assert (config.lr, config.experts, config.batch_size, config.epochs) == (2e-4, (1, 3), 5, 1)
    with pytest.raises(InputError, match=r"^training: batch_size must lie between"):  # the file is not to blame
        plan_run(given | {"batch_size": 10**6}, read_config_file(yaml), "run.yaml")


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("a.yaml", "batchsize: 3", "unknown key 'batchsize'", "did you mean 'batch_size'?"),
        ("a.toml", "learning_rte = 3", "unknown key 'learning_rte'", "the keys are stage, "),
        ("a.yaml", "epochs: many", "epochs has the wrong type .found 'many', expected int.", None),
        ("a.yaml", "epochs: 0", "epochs must lie between 1 and", None),
        ("a.yaml", "freeze: all", "freeze is unknown .found 'all', expected one of promised, reference, none.", None),
        ("a.yaml", "epochs: [", "not readable as YAML", None),
        ("a.yaml", "- 1", "expected keys and values .found list.", None),
        ("a.toml", "epochs", "not readable as TOML", None),
        ("a.ini", "", "must end in .yaml, .yml or .toml", None),
        ("a.yaml", "!!python/object/apply:os.system [ls]", "not readable as YAML", None),
    ],
)
def test_a_wrong_config_file_is_one_sentence(tmp_path, name, text, message, hint):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=rf"{name}: (a config file )?{message}") as error:
        plan_run({"stage": 1}, read_config_file(path), str(path))
    assert "\n" not in str(error.value)
    assert (error.value.hint or "").startswith(hint or "")


def test_every_key_is_documented():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    missing = [field.name for field in dataclasses.fields(TrainConfig) if f"`{field.name}`" not in page]
    assert not missing


# --- runs -----------------------------------------------------------------------------------------------------------


def test_both_stages_and_what_they_print(train, tmp_path):
    code, out, err = train("--stage", 1, "--epochs", 1, "--json")
    assert code == 0, err
    (result,) = json.loads(out)["stages"]
    assert json.loads(out)["schema"] == "embernet.train_stages/1"
    assert (result["finish_reason"], result["global_step"]) == ("done", 5)
    assert result["energy"]["estimated"] is True
    assert result["energy"]["co2_kg"] == pytest.approx(result["energy"]["kwh"] * 0.386)
    lines = err.splitlines()
    assert lines[:3] == ["=" * 70, "Starting Stage 1 Training", "=" * 70]
    assert "Learning rate: 0.001" in lines
    assert any(line.startswith("Epoch 1/1 | Step 5 | Loss: ") for line in lines)

    code, out, err = train("trial", "--stage", 2, "--resume", tmp_path / "runs", model=None)
    assert code == 0, err
    assert "stage2/final_model: stage 2, done" in out
    assert "kWh" in out
    assert "assuming 150 W x 1, 0.386 kg/kWh" in out


def test_a_preset_runs_stage_1_then_stage_2(train, model, tmp_path):
    code, out, err = train("trial", "-q", "-o", tmp_path / "trial")
    assert (code, err) == (0, "")
    first, second = tmp_path / "trial" / "stage1", tmp_path / "trial" / "stage2"
    assert json.loads((first / "train_config.json").read_text())["max_samples_per_dataset"] == 10
    kept = open_checkpoint(first / "final_model").tensors["vision_encoder.projector.query_tokens"]
    assert np.array_equal(
        kept, open_checkpoint(second / "final_model").tensors["vision_encoder.projector.query_tokens"]
    )
    assert out.count("final_model: stage") == 2
    code, _, err = train("--resume", first)
    assert (code, f"--resume and --model both say what to start from ({first}/" in err) == (3, True)


def test_a_preset_looks_at_the_data_of_both_stages_before_it_trains(cli, model, data, tmp_path):
    shutil.copytree(data, tmp_path / "data" / "mine")
    (tmp_path / "data" / "mine" / "metadata.json").write_text('{"dataset_key": "mine", "stage": 1}')
    code, _, err = cli(
        *("train", "trial", "--model", model, "--data-dir", tmp_path / "data", "-o", tmp_path / "runs"),
        *("--device", "cpu", "--num-workers", 0),
    )
    assert (code, "holds no dataset for stage 2 (found mine for stage 1)" in err) == (3, True)
    assert not (tmp_path / "runs").exists()


def test_data_too_small_to_keep_a_part_of_it_says_what_to_do(cli, model, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a leaf")
    code, _, err = cli("train", "--stage", 1, "--model", model, "--data-dir", tmp_path, "-o", tmp_path / "runs")
    assert code == 3
    assert err.endswith("1 examples are too few to keep 10 % of them for validation\ntry: --no-validation\n")


def test_a_message_that_cannot_be_written_ends_no_run(monkeypatch):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        console = TrainConsole(quiet=False)
        console.started(Plan(1, 3, 1000, 4, 4, 1, 1e-3, "cuda", 64, 48), RunState())
        console.note("an example is skipped")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # what is buffered goes there


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_cleanly_and_it_can_go_on(train, cli, tmp_path, monkeypatch, number, expected):
    def interrupt(self, plan, state, values, is_logged):
        if state.global_step == 1:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(TrainConsole, "stepped", interrupt)
        code, _, err = train("--stage", 1)
    assert code == expected
    checkpoint = tmp_path / "runs" / "stage1" / "checkpoint_step_2"
    assert f"stopped after step 2; go on with --resume {checkpoint}" in err
    code, out, _ = cli("train", "--resume", tmp_path / "runs", "--json", "--epochs", 1)
    assert code == 0
    assert json.loads(out)["stages"][0]["global_step"] == 5


def test_experts_are_merged(cli, model, tmp_path):
    other = write_small_checkpoint(tmp_path / "other", seed=1)
    code, out, _ = cli("train", "--merge-experts", other, "--experts", "1,3", "--model", model, "-o", tmp_path / "both")
    assert (code, out) == (0, f"{tmp_path / 'both'}: {model} with experts 1, 3 of {other}\n")
    both, base, taken = (open_checkpoint(path).tensors for path in (tmp_path / "both", model, other))
    for name, value in both.items():
        source = taken if ".experts.1." in name or ".experts.3." in name else base
        assert np.array_equal(value, source[name]), name
    assert (tmp_path / "both" / "tokenizer.json").read_text() == (model / "tokenizer.json").read_text()

    wide = write_small_checkpoint(tmp_path / "wide", intermediate_size=32)
    command = ("train", "--model", model, "-o", tmp_path / "new")
    for arguments, expected, problem in (
        (("--merge-experts", wide, "--experts", "1"), 3, "intermediate_size differs (found 32, expected 16)"),
        (("--merge-experts", other, "--experts", "4"), 3, "there is no expert 4 (found 4 experts)"),
        (("--merge-experts", other, "--experts", "a"), 2, "--experts must be numbers such as 2,3"),
        (("--merge-experts", other), 2, "--merge-experts needs --experts"),
    ):
        code, out, err = cli(*command, *arguments)
        assert (code, out) == (expected, "")
        assert problem in " ".join(err.replace("│", "").split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 3, "which stage to train is not said"),
        (("--stage", 2), 3, "stage 2 needs what stage 1 has made"),
        (("--stage", 3), 2, "Invalid value for '--stage'"),
        (("spark", "--lr", "1"), 2, "'spark' has no option 'lr'"),
        (("spark", "-o", "new", "--resume", "old"), 2, "'spark' has no option 'resume'"),
        (("--merge-experts", "a", "--model", "b", "-o", "c", "--lr", "1"), 2, "--merge-experts has no option 'lr'"),
        (("spark",), 2, "'spark' needs -o DIR"),
        (("--stage", 1, "--processes", 2), 2, "--processes is for 'spark'"),
        (("--stage", 1, "--data-dir", "/nowhere"), 3, "/nowhere: no such dataset"),
        (("--stage", 1, "--config", "/nowhere.yaml"), 3, "/nowhere.yaml: no such config file"),
        (("--stage", 1, "--resume", "/nowhere"), 3, "/nowhere: no checkpoint of a run to go on from"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(cli, arguments, code, message):
    found, out, err = cli("train", *arguments)
    assert (found, out) == (code, "")
    assert message in " ".join(err.replace("│", "").split())
    assert "Traceback" not in err


SHARDED = ("--use_fsdp", "--fsdp_version", "2", "--fsdp_transformer_layer_cls_to_wrap", "Block")


@pytest.mark.parametrize(
    ("spread", "module"),
    [
        pytest.param(["--multi_gpu"], "embernet", id="copies"),
        pytest.param(SHARDED, "tests.sharded_on_cpu", id="shards"),
    ],
)
def test_two_processes_learn_what_one_does(train, model, data, tmp_path, spread, module):
    def flags(output):
        return [
            *("--stage", "2", "--freeze", "reference", "--epochs", "3", "--lr", "5e-3", "--data-dir", data),
            *("--model", model, "--device", "cpu", "--num-workers", "0", "--grad-accum", "2", "-o", output, "-q"),
        ]

    launcher = [sys.executable, "-m", "accelerate.commands.launch", *spread, "--num_processes", "2"]
    command = [*launcher, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", module]
    done = subprocess.run(
        [*command, "train", *flags(tmp_path / "two"), "--batch-size", "1"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("final_model: stage 2, done") == 1
    assert train(*flags(tmp_path / "one"))[0] == 0
    one, two = (metrics(tmp_path / name / "stage2") for name in ("one", "two"))
    same_curves(two, one)
    assert [line["train/cumulative_tokens"] for line in two] == [line["train/cumulative_tokens"] for line in one]


# --- the console ----------------------------------------------------------------------------------------------------


def test_the_console_has_the_published_shape():
    plan = Plan(1, 3, 1000, 4, 4, 1, 1e-3, "cuda", 64, 48)
    rule = "=" * 70
    assert (
        banner(plan)
        == f"""\
{rule}
Starting Stage 1 Training
{rule}
Epochs: 3
Steps per epoch: 1000
Total steps: 3000
Batch size: 4
Gradient accumulation: 4
Effective batch size: 16
Learning rate: 0.001
Device: cuda

Token Statistics (per sample):
  Total: 112
  Image tokens: 64
  Text tokens: 48

Token Statistics (per batch):
  Total: 1,792
  Image tokens: 1,024
  Text tokens: 768

Total Training Tokens (all epochs):
  Total: 5,376,000
  Image tokens: 3,072,000
  Text tokens: 2,304,000
{rule}"""
    )
    expected = "Epoch 1/3 | Step 100 | Loss: 2.3456 | Avg Loss: 2.4567 | LR: 1.00e-03"
    assert step_line(plan, 1, 100, 2.34561, 2.45672, 1e-3) == expected
