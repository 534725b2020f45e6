"""Let spark forget what a stage trains, and train that stage again on drawings, with and without supervision.

    python -m benchmarks.two_stages --checkpoint build/spark/checkpoint

Stage 1 begins with a random compressor, pooler and projector, stage 2 with random experts and routers; all else is
what spark has learnt. `embernet train` does the rest, with the freeze set `promised`. Before and after it the models
are asked about validation drawings: how often are they right, and what does an expert say about the domain?
"""

import shutil
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import BUILD, RESULTS, Record, say
from embernet.checkpoints import open_checkpoint, save_checkpoint
from embernet.data.synth import SynthDrawings
from embernet.data.synth.folder import write_folder
from embernet.evaluation.answering import open_answerer
from embernet.evaluation.evaluate import evaluate
from embernet.evaluation.samples import open_samples
from embernet.initial import initial_tensors
from embernet.training.freezing import is_trained

RUNS: dict[str, tuple[int, list[str]]] = {
    "after stage 1": (1, []),
    "after stage 2": (2, []),
    "after stage 2, not supervised": (2, ["--no-expert-supervision"]),
}
BATCH = 32
SEED = 1234  # of what is random; spark's own seed would give back what it began with, to which all else has adapted
FLAGS = ["--batch-size", str(BATCH), "--grad-accum", "1", "--lr", "3e-3", "--schedule", "cosine", "--no-ema"]


def forget(checkpoint: Path, stage: int, output: Path) -> None:
    """A copy in which all that a stage trains is random."""
    start = open_checkpoint(checkpoint)
    learnt = start.tensors

    def tensors() -> Iterator[tuple[str, NDArray[np.float32]]]:
        for name, array in initial_tensors(start.family, start.config, SEED):
            yield name, array if is_trained(name, stage, "promised") else learnt[name]

    assert start.tokenizer_path is not None
    shapes = start.family.part("model").tensor_shapes(start.config)
    save_checkpoint(output, start.config, shapes, tensors(), start.tokenizer_path.read_text(encoding="utf-8"))


def train(model: Path, stage: int, data: Path, output: Path, flags: list[str]) -> Path:
    """Run `embernet train` on a checkpoint; the final model."""
    command = [sys.executable, "-m", "embernet", "train", "--stage", str(stage), "--model", str(model)]
    command += ["--data-dir", str(data), "--output-dir", str(output), "--epochs", "1", *FLAGS, *flags]
    say(" ".join(command[1:]))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output / f"stage{stage}" / "final_model"


def judge(checkpoint: Path, drawings: int) -> dict[str, Any]:
    """Accuracy and routing on validation drawings."""
    sources = open_samples("synth", "validation", [], drawings)
    report: Mapping[str, Any] = evaluate(open_answerer(str(checkpoint), batch_size=BATCH), sources, batch_size=BATCH)
    routing = {name: report["routing"][name] for name in ("mutual_information_bits", "dead_experts", "shares")}
    score = report["total"]
    return {name: score[name] for name in ("count", "accuracy", "accuracy_interval")} | routing


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="spark, as `embernet train spark` wrote it")
    parser.add_argument("--examples", type=int, default=16_000, help="drawings to train on")
    parser.add_argument("--drawings", type=int, default=800, help="drawings to ask about")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    record = Record("two_stages")
    folder = BUILD / record.name
    if folder.exists():
        shutil.rmtree(folder)
    data = folder / "drawings"
    write_folder(data, SynthDrawings("train", seed=0), arguments.examples)
    models = {"spark": judge(arguments.checkpoint, arguments.drawings)}
    for name, (stage, flags) in RUNS.items():
        start = folder / f"start-{stage}"
        if not start.exists():
            forget(arguments.checkpoint, stage, start)
            models[f"before stage {stage}"] = judge(start, arguments.drawings)
        models[name] = judge(train(start, stage, data, folder / name, flags), arguments.drawings)
        say(f"{name}: {models[name]['accuracy']:.3f}")
    record.save(arguments.output, examples=arguments.examples, models=models)


if __name__ == "__main__":
    main()
