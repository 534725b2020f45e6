"""The training loop: the same whole, cut and killed; and what it does when something is wrong."""

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from embernet.checkpoints import open_checkpoint
from embernet.errors import EmbernetError, InputError, MissingExtraError, NetworkError
from embernet.training.freezing import is_trained
from embernet.training.objective import Objective
from embernet.training.run_checkpoint import (
    RUN_FILE,
    clean_run_folder,
    find_run_checkpoint,
    read_run_checkpoint,
    read_run_tensors,
    write_run_checkpoint,
)
from embernet.training.state import RunState
from tests.training_runs import (
    SMALL_RUN,
    DrawnExamples,
    Silent,
    digest,
    small_config,
    small_run,
    write_small_checkpoint,
)

# The same sums in another order; then, after steps of a model that rounds its weights to three values, a little more.
SAME_STEP = 1e-5
SAME_CURVE = 0.03


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def stage_1(model, tmp_path_factory) -> Path:
    """The folder of a whole run of stage 1: 12 steps."""
    output = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    small_run(output, model, stage=1)
    return output / "stage1"


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in metrics(folder)]


def same_curves(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """Equal up to rounding, far within what the runs have learnt."""
    for name in ("train/loss", "train/grad_norm"):
        assert found[0][name] == pytest.approx(expected[0][name], rel=SAME_STEP)
    curve = [line["train/loss"] for line in expected]
    assert [line["train/loss"] for line in found] == pytest.approx(curve, abs=SAME_CURVE)
    assert curve[-1] < curve[0] - 10 * SAME_CURVE


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- what a run leaves behind ---------------------------------------------------------------------------------------


def test_a_run_writes_checkpoints_metrics_and_a_final_model(stage_1):
    assert visible(stage_1) == {
        "best_model",
        "checkpoint_epoch_1",
        "checkpoint_step_9",
        "checkpoint_epoch_2",  # the last three
        "final_model",
        "metrics.jsonl",
        "train_config.json",
    }
    lines = metrics(stage_1)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[0]["train/lr"] == pytest.approx(3e-3 / 2)
    assert lines[6]["train/lr"] == pytest.approx(3e-4)  # 60 % of 12 steps are over
    assert {line["step"] for line in lines if "val/loss" in line} == {4, 6, 8, 12}
    record = json.loads((stage_1 / "final_model" / RUN_FILE).read_text())
    assert (record["stage"], record["global_step"], record["epoch"]) == (1, 12, 2)


def test_only_what_the_stage_trains_has_changed(model, stage_1):
    before, after = open_checkpoint(model).tensors, open_checkpoint(stage_1 / "final_model").tensors
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    trained = {name for name in before if is_trained(name, 1, "promised")}
    assert changed
    assert changed <= trained
    assert {name for name in trained if name.endswith("weight") and "norm" not in name} <= changed


def test_without_a_freeze_set_everything_changes(model, tmp_path):
    small_run(tmp_path, model, stage=1, freeze="none", epochs=1)
    before, after = open_checkpoint(model).tensors, open_checkpoint(tmp_path / "stage1" / "final_model").tensors
    # The norms of an expert that was never chosen have no gradient and no decay.
    assert not [n for n in before if ".experts." not in n and np.array_equal(before[n], after[n])]


def test_parameters_that_no_code_reads_stay_and_a_run_with_them_resumes(tmp_path):
    model = write_small_checkpoint(tmp_path / "model", unused_parameters=True)
    run = tmp_path / "run"
    interrupt_after(2, run, model, stage=1, freeze="none")
    assert small_run(run, resume=run).finish_reason == "done"
    before, after = open_checkpoint(model).tensors, open_checkpoint(run / "stage1" / "final_model").tensors
    assert np.array_equal(before["image_newline"], after["image_newline"])


def test_the_final_model_is_the_average_and_the_checkpoint_is_not(stage_1):
    final, last = (open_checkpoint(stage_1 / name).tensors for name in ("final_model", "checkpoint_epoch_2"))
    _, ema = read_run_tensors(stage_1 / "checkpoint_epoch_2")
    assert ema is not None
    name = "vision_encoder.projector.query_tokens"
    assert np.array_equal(final[name], ema[name].numpy())
    assert not np.array_equal(final[name], last[name])


def test_the_final_model_can_be_exported(stage_1, tmp_path):
    from embernet.export.bundle import ExportOptions, export_bundle

    export_bundle(open_checkpoint(stage_1 / "final_model"), tmp_path / "small.ember", ExportOptions())
    assert (tmp_path / "small.ember" / "manifest.json").is_file()


def test_training_brings_the_loss_down_and_supervision_routes(model, tmp_path):
    reporter = Silent()
    values = {"epochs": 5, "batch_size": 4, "grad_accum": 1, "lr": 3e-2, "validation": False, "early_stop_patience": 0}
    small_run(tmp_path, model, stage=2, freeze="reference", reporter=reporter, **values)
    first, last = reporter.steps[0], reporter.steps[-1]
    assert last["train/cross_entropy"] < 0.6 * first["train/cross_entropy"]
    assert last["train/supervision"] < 0.7 * first["train/supervision"]


def test_experts_alone_are_trained(model, tmp_path):
    small_run(tmp_path, model, stage=2, experts=(1,), epochs=1, ema=0.0)
    before, after = open_checkpoint(model).tensors, open_checkpoint(tmp_path / "stage2" / "final_model").tensors
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    assert all(".moe.experts.1." in name for name in changed)


# --- the same result ------------------------------------------------------------------------------------------------


def test_accumulation_equals_the_big_batch(model, tmp_path):
    for name, values in {
        "big": {"batch_size": 8, "grad_accum": 1},
        "small": {"batch_size": 2, "grad_accum": 4},
    }.items():
        small_run(tmp_path / name, model, stage=2, freeze="reference", **values)
    same_curves(metrics(tmp_path / "big" / "stage2"), metrics(tmp_path / "small" / "stage2"))


def test_a_resumed_run_is_bit_for_bit_the_whole_one(model, stage_1, tmp_path):
    output = tmp_path / "cut"
    interrupt_after(3, output, model, stage=1)
    folder = output / "stage1"
    assert find_run_checkpoint(output).path == folder / "checkpoint_step_3"
    result = small_run(output, resume=output)
    assert result.finish_reason == "done"
    assert metrics(folder) == metrics(stage_1)
    for name in ("final_model/model.safetensors", "best_model/model.safetensors", "checkpoint_epoch_2/ema.safetensors"):
        assert digest(folder / name) == digest(stage_1 / name)


def interrupt_after(step: int, output: Path, model: Path, number: int = signal.SIGTERM, **values):
    """Run, and get a signal while step `step` is under way."""

    class Sender(Silent):
        def stepped(self, plan, state, figures, is_logged):
            if state.global_step == step - 1:
                os.kill(os.getpid(), number)

    return small_run(output, model, reporter=Sender(), **values)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(model, tmp_path, number, reason):
    handler = signal.getsignal(number)
    result = interrupt_after(2, tmp_path, model, number, stage=1)
    assert result.finish_reason == reason
    assert result.checkpoint == tmp_path / "stage1" / "checkpoint_step_2"
    assert read_run_checkpoint(result.checkpoint).state.global_step == 2
    assert "final_model" not in visible(tmp_path / "stage1")
    assert signal.getsignal(number) is handler


def test_a_signal_that_comes_again_does_not_end_the_writing_of_the_checkpoint(model, tmp_path, monkeypatch):
    def write(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        write_run_checkpoint(*arguments)

    monkeypatch.setattr("embernet.training.trainer.write_run_checkpoint", write)
    result = interrupt_after(2, tmp_path, model, stage=1, validation=False)
    assert read_run_checkpoint(result.checkpoint).state.global_step == 2


def test_going_on_from_an_older_checkpoint_leaves_the_later_ones(stage_1, tmp_path):
    folder = tmp_path / "stage1"
    shutil.copytree(stage_1, folder)
    result = interrupt_after(8, tmp_path, None, resume=folder / "checkpoint_epoch_1", lr=1e-3)
    assert result.checkpoint == folder / "checkpoint_step_8"
    assert {name for name in visible(folder) if name.startswith("checkpoint")} == {
        "checkpoint_epoch_1",
        "checkpoint_step_8",
    }
    assert find_run_checkpoint(tmp_path).path == folder / "checkpoint_step_8"


class Slow(Silent):
    """Leaves time to be killed between steps."""

    def stepped(self, plan, state, figures, is_logged):
        time.sleep(0.1)


def _run_in_child(output: Path, model: Path, epochs: int, save_interval: int, slow: bool) -> None:
    """A run, from the newest checkpoint if there is one."""
    torch.set_num_threads(1)
    reporter = Slow() if slow else Silent()
    if any(output.glob("stage1/[!.]*/run.json")):
        small_run(output, resume=output, reporter=reporter)
    else:
        values = {"epochs": epochs, "save_interval": save_interval, "eval_interval": 5, "early_stop_patience": 0}
        small_run(output, model, reporter=reporter, stage=1, **values)


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.killed)])
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(model, tmp_path, kills):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_trainer"])
    killed, whole, epochs = tmp_path / "killed", tmp_path / "whole", 2 + kills // 2

    def start(output, save_interval, slow):
        process = context.Process(target=_run_in_child, args=(output, model, epochs, save_interval, slow))
        process.start()
        return process

    start(whole, 10**6, slow=False).join()
    moments = random.Random(0)
    for _ in range(kills):
        process = start(killed, 1, slow=True)
        process.join(timeout=moments.uniform(0.2, 1.0))
        assert process.exitcode is None  # it was not over yet
        process.kill()
        process.join()
        for folder in killed.glob("stage1/*_*"):
            if folder.is_dir() and not folder.name.startswith("."):
                assert len(open_checkpoint(folder).tensors) == len(open_checkpoint(model).tensors)
                if read_run_checkpoint(folder).can_continue:
                    read_run_tensors(folder)
    process = start(killed, 1, slow=False)
    process.join()
    assert process.exitcode == 0
    assert len(metrics(killed / "stage1")) == 6 * epochs
    assert metrics(killed / "stage1") == metrics(whole / "stage1")
    for name in ("final_model", "best_model"):
        file = Path("stage1", name, "model.safetensors")
        assert digest(killed / file) == digest(whole / file)
    assert not any(path.name.startswith(".") for path in (killed / "stage1").iterdir())


def test_what_a_killed_run_left_unfinished_is_tidied_up(model, stage_1, tmp_path):
    folder = tmp_path / "stage1"
    # Killed while it wrote its first checkpoint, and while it replaced its best model.
    shutil.copytree(stage_1 / "checkpoint_epoch_1", folder / ".checkpoint_step_3.part123")
    small_run(tmp_path, model, stage=1, epochs=1)
    assert not any(path.name.startswith(".") for path in folder.iterdir())
    (folder / "metrics.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes() + b"\0\0\n")  # the power was lost
    small_run(tmp_path, resume=folder)
    assert [line["step"] for line in metrics(folder)] == list(range(1, 7))
    (folder / "best_model").rename(folder / ".best_model.old123")
    (folder / "checkpoint_step_3").rename(folder / ".checkpoint_step_3.old123")
    clean_run_folder(folder)
    assert visible(folder) & {"best_model", "checkpoint_step_3", ".checkpoint_step_3.old123"} == {"best_model"}


# --- when memory, data or numbers fail ------------------------------------------------------------------------------


def test_out_of_memory_halves_what_is_computed_at_once_and_changes_nothing_else(model, tmp_path, monkeypatch):
    small_run(tmp_path / "enough", model, stage=1, epochs=1)
    forward = Objective.forward

    def scarce(self, batch):
        if self.training and len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch)

    monkeypatch.setattr(Objective, "forward", scarce)
    reporter = Silent()
    result = small_run(tmp_path / "scarce", model, stage=1, epochs=1, reporter=reporter)
    assert reporter.notes == ["out of memory: from now on 1 examples at once"]
    assert result.state.max_rows == 1
    same_curves(metrics(tmp_path / "scarce" / "stage1"), metrics(tmp_path / "enough" / "stage1"))


def test_a_batch_that_never_fits_is_skipped_and_counted(model, tmp_path, monkeypatch):
    forward = Objective.forward
    calls = iter(range(10**6))

    def scarce(self, batch):
        if next(calls) < 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch)

    monkeypatch.setattr(Objective, "forward", scarce)
    reporter = Silent()
    result = small_run(tmp_path, model, stage=1, epochs=1, reporter=reporter)
    assert result.state.skipped_steps == 1
    assert reporter.notes[-1] == "step 1 is skipped: one example fills the memory"
    assert "train/loss" not in metrics(tmp_path / "stage1")[0]


def test_gradients_that_are_not_finite_are_not_used_and_end_the_run(model, tmp_path, monkeypatch):
    forward = Objective.forward

    def broken(self, batch):
        found = forward(self, batch)
        return found._replace(cross_entropy=found.cross_entropy * float("nan")) if self.training else found

    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(EmbernetError, match="not finite in 5 steps in a row, up to step 5") as error:
        small_run(tmp_path, model, stage=1, validation=False, save_interval=1)
    assert "lower --lr" in str(error.value.hint)
    saved = open_checkpoint(tmp_path / "stage1" / "checkpoint_step_4").tensors
    assert all(np.array_equal(saved[name], value) for name, value in open_checkpoint(model).tensors.items())


def test_examples_that_cannot_be_used_are_counted_and_listed(model, tmp_path):
    class Broken(DrawnExamples):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return dataclasses.replace(example, image=b"\xff") if index == 3 else example

    reporter = Silent()
    result = small_run(tmp_path, model, stage=1, epochs=2, sources=[Broken(12)], reporter=reporter)
    assert [(skipped.source, skipped.index) for skipped in result.skipped] == [("drawn", 3)]
    (line,) = (tmp_path / "stage1" / "skipped_examples.jsonl").read_text().splitlines()
    assert json.loads(line)["index"] == 3
    assert reporter.notes == [f"examples skipped so far: 1 ({tmp_path / 'stage1' / 'skipped_examples.jsonl'})"]
    # A run that goes on knows them still.
    again = small_run(tmp_path, resume=tmp_path / "stage1" / "checkpoint_epoch_2", sources=[DrawnExamples(12)])
    assert again.skipped == result.skipped


def test_a_run_without_progress_ends_early(model, tmp_path):
    result = small_run(tmp_path, model, stage=1, lr=0.0, eval_interval=1, early_stop_patience=2)
    assert result.finish_reason == "early_stop"
    assert result.state.global_step == 3
    assert (tmp_path / "stage1" / "final_model").is_dir()


def test_a_run_that_ended_early_does_not_go_on_by_a_step(model, tmp_path):
    small_run(tmp_path, model, stage=1, lr=0.0, eval_interval=1, early_stop_patience=2, save_interval=1)
    result = small_run(tmp_path, resume=tmp_path)
    assert (result.finish_reason, result.state.global_step) == ("early_stop", 3)


def test_a_validation_loss_that_is_not_finite_ends_the_run(model, tmp_path, monkeypatch):
    forward = Objective.forward

    def broken(self, batch):
        found = forward(self, batch)
        return found if self.training else found._replace(cross_entropy=found.cross_entropy * float("nan"))

    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(EmbernetError, match="the validation loss is not finite after step 4") as error:
        small_run(tmp_path, model, stage=1)
    assert "lower --lr" in str(error.value.hint)
    assert read_run_checkpoint(tmp_path / "stage1" / "checkpoint_step_3").can_continue


def test_progress_is_counted_from_the_delta_and_the_best_is_the_best():
    state = RunState()
    results = [(1.0, True, 0), (0.9995, True, 1), (0.9999, False, 2), (0.9, True, 0)]
    for loss, is_best, without in results:
        assert state.add_evaluation(loss, delta=0.001) is is_best
        assert state.evaluations_without_progress == without
    assert RunState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


# --- what a run may start from --------------------------------------------------------------------------------------


def test_stage_2_goes_on_from_what_stage_1_made(stage_1):
    output = stage_1.parent
    result = small_run(output, resume=output, stage=2, **{**SMALL_RUN, "epochs": 1})
    assert result.checkpoint == output / "stage2" / "final_model"
    before = open_checkpoint(stage_1 / "final_model").tensors
    after = open_checkpoint(result.checkpoint).tensors
    assert all(np.array_equal(before[n], after[n]) for n in before if not is_trained(n, 2, "promised"))
    with pytest.raises(InputError, match="of stage 2, which comes after stage 1"):
        small_run(output, resume=output / "stage2" / "final_model", stage=1)


def test_what_cannot_be_started_is_one_sentence(model, stage_1, tmp_path):
    def refused(match: str, **values):
        with pytest.raises(InputError, match=match) as error:
            small_run(tmp_path, **values)
        return error.value.hint

    assert "--resume" in str(refused("stage 2 needs what stage 1 has made", stage=2))
    assert "--stage" in str(refused("which stage"))
    hint = refused("a finished model, without what is needed to go on", resume=stage_1 / "final_model")
    assert f"--model {stage_1 / 'final_model'}" in str(hint)
    refused("no checkpoint of a run", resume=model, stage=1)
    refused("no examples to validate with", stage=1, model=model, held_out=DrawnExamples(0))
    refused("there is no expert 4", stage=2, model=model, experts=(0, 4))
    refused("stage 2 .*found stage 1", stage=1, model=model, experts=(0,))
    refused("other examples to train on", resume=stage_1 / "checkpoint_epoch_1", sources=[DrawnExamples(12)])
    refused("other examples per step", resume=stage_1 / "checkpoint_epoch_1", batch_size=1)
    refused("had another freeze .found reference, expected promised", resume=stage_1, freeze="reference")
    refused("had another optimizer", resume=stage_1, optimizer="reference")
    refused("holds a run already", stage=1, model=model, output_dir=str(stage_1.parent))
    (tmp_path / "foreign.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    refused("not a checkpoint of a known family", stage=1, model=tmp_path / "foreign.safetensors")
    assert not (tmp_path / "stage1" / "train_config.json").exists()  # it tells of runs that began


@pytest.mark.parametrize("damage", [lambda data: data[:1000], lambda _: b"", lambda _: b"garbage"])
def test_a_damaged_optimizer_state_is_one_sentence(stage_1, tmp_path, damage):
    copy = tmp_path / "stage1" / "checkpoint_epoch_1"
    shutil.copytree(stage_1 / "checkpoint_epoch_1", copy)
    file = copy / "optimizer.pt"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match="its optimiser's state is damaged"):
        small_run(tmp_path, resume=copy)


def test_a_new_model_takes_its_tower_from_the_hub(monkeypatch, tiny_tokenizer, tmp_path):
    from huggingface_hub.errors import LocalEntryNotFoundError
    from safetensors.numpy import save_file

    from embernet.models.embernet.model import EmberNet
    from embernet.training import start

    config = small_config(vocab_size=300, image_token_ids=[298])
    monkeypatch.setattr(start, "EmberNetConfig", lambda: config)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name, revision: str(tmp_path / name))
    rng, prefix = np.random.default_rng(0), "vision_encoder.encoder."
    shapes = {n.removeprefix(prefix): s for n, s in EmberNet.tensor_shapes(config).items() if n.startswith(prefix)}
    tower = {f"vision_model.{name}": rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    save_file(tower | {"text_model.head.bias": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    model = start.start_new(str(tiny_tokenizer), seed=0).build()
    found = model.vision_encoder.encoder.state_dict()
    assert found.keys() == shapes.keys()
    assert all(np.array_equal(value.numpy(), tower[f"vision_model.{name}"]) for name, value in found.items())
    assert model.decoder.layers[0].moe.router.weight.abs().sum() > 0

    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="not SigLIP's weights"):
        start.start_new(str(tiny_tokenizer), seed=0)

    def offline(*_, **__):
        raise LocalEntryNotFoundError("An error happened while trying to locate the file.\nCheck your connection.")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(NetworkError, match=r"^google/siglip[^\n]*: model.safetensors cannot be fetched \([^\n]*\)$"):
        start.start_new(str(tiny_tokenizer), seed=0)


def test_trackers_are_written_or_asked_for(model, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    small_run(tmp_path, model, stage=1, epochs=1, tensorboard=True, log_interval=1)
    assert list(tmp_path.glob("stage1/**/events.out.tfevents.*"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="--wandb needs wandb"):
        small_run(tmp_path / "other", model, stage=1, wandb=True)


def test_bf16_autocast_trains(model, tmp_path):
    from accelerate.state import AcceleratorState

    for name, amp in (("fp32", False), ("bf16", True)):
        small_run(tmp_path / name, model, stage=2, freeze="reference", amp=amp, epochs=1)
        AcceleratorState._reset_state()  # one process has one precision: this test has two
    fp32, bf16 = losses(tmp_path / "fp32" / "stage2"), losses(tmp_path / "bf16" / "stage2")
    assert bf16 == pytest.approx(fp32, abs=0.2)
    assert bf16 != fp32
    assert bf16[-1] < bf16[0]
