"""Train spark with and without the loss that sends a domain to its expert, from one vision encoder, and compare.

    python -m benchmarks.expert_supervision --steps 800

The phases of the vision encoder are run once, half an hour on two cores, and kept; `speak` is run twice, shortened to
--steps. Both models are asked about the validation drawings.
"""

import os
import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import BUILD, RESULTS, Record, say
from embernet.evaluation.answering import open_answerer
from embernet.evaluation.evaluate import evaluate
from embernet.evaluation.samples import open_samples
from embernet.training.loop import Progress, SavedRun
from embernet.training.spark import Recipe, run_settings, train_spark

WEIGHTS = {"with": 0.1, "without": 0.0}
PROCESSES = 2
RUN_FILE = "run.pt"
BATCH = 32


def train(output: Path, recipe: Recipe, seed: int, kept: Path) -> None:
    """Train a checkpoint from the run in `kept`, which is about to speak; if there is none, keep it on the way."""
    folder = output.with_name(f"{output.name}.training")
    if kept.exists() and not folder.exists():
        shutil.copytree(kept, folder, copy_function=os.link)  # 10 GB of drawings, which nobody writes to
        values = torch.load(kept / RUN_FILE, weights_only=True)
        del values["settings"]  # the weight of a loss that has not counted yet
        SavedRun(folder / RUN_FILE, run_settings(recipe, seed, PROCESSES)).save(**values)

    def report(progress: Progress) -> None:
        if progress.done % 100 == 0 and progress.phase != "draw":
            say(f"{output.name}: {progress.phase} {progress.done}/{progress.total}")
        if progress.phase == recipe.gather.name and progress.done == progress.total:
            shutil.copytree(folder, kept, copy_function=os.link)

    train_spark(output, seed, recipe, PROCESSES, report)


def judge(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of an evaluation."""
    domains = {name: score["accuracy"] for name, score in result["domains"].items()}
    routing = {name: result["routing"][name] for name in ("mutual_information_bits", "dead_experts", "shares")}
    return {"accuracy": result["total"]["accuracy"], "domains": domains} | routing


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="of `speak`")
    parser.add_argument("--drawings", type=int, default=1600, help="that the models are asked about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    record = Record("expert_supervision")
    folder = BUILD / record.name / f"seed-{arguments.seed}"
    recipe = Recipe()
    recipe = replace(recipe, speak=replace(recipe.speak, steps=arguments.steps))
    checkpoints = {name: folder / f"{name}-{arguments.steps}" for name in WEIGHTS}
    for name, weight in WEIGHTS.items():
        if not checkpoints[name].exists():
            train(checkpoints[name], replace(recipe, expert_supervision=weight), arguments.seed, folder / "gathered")
    first, second = (open_answerer(str(path), batch_size=BATCH) for path in checkpoints.values())
    drawings = open_samples("synth", "validation", [], arguments.drawings)
    report = evaluate(first, drawings, against=second, batch_size=BATCH)
    record.save(
        arguments.output,
        steps=arguments.steps,
        seed=arguments.seed,
        questions=report["total"]["count"],
        models={name: judge(result) for name, result in zip(WEIGHTS, (report, report["against"]), strict=True)},
        comparison=report["against"]["comparison"]["total"],
    )


if __name__ == "__main__":
    main()
