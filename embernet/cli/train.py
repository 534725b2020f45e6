"""`embernet train`: the two stages of the EmberNet family, the built-in model, and the merging of experts."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embernet.cli.options import JsonOption, QuietOption
from embernet.cli.output import note, print_json, print_rows

if TYPE_CHECKING:
    from embernet.training.trainer import TrainResult


class Preset(str, Enum):
    spark = "spark"
    trial = "trial"
    main = "main"


class Freeze(str, Enum):
    promised = "promised"
    reference = "reference"
    none = "none"


class Optimizer(str, Enum):
    bitnet = "bitnet"
    adamw = "adamw"
    reference = "reference"


class Schedule(str, Enum):
    two_phase = "two_phase"
    cosine = "cosine"


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def train(
    preset: Annotated[
        Preset | None,
        typer.Argument(metavar="PRESET", help="'trial' or 'main' (docs/training.md), or 'spark' (docs/spark.md)."),
    ] = None,
    stage: Annotated[
        int | None,
        typer.Option("--stage", min=1, max=2, help="1 aligns the projector, 2 specialises the experts."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML or TOML file with any of the keys of docs/training.md.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            envvar="EMBERNET_TRAIN_MODEL",
            help="Checkpoint to start from. Default: a new full-size model (stage 1).",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="tokenizer.json, its folder, or a hub repository user/repo.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", help="Prepared datasets, or one dataset. Default: ./data.")
    ] = None,
    output_dir: Annotated[
        str | None, typer.Option("-o", "--output", "--output-dir", help="Where to write. Default: ./checkpoints.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", help="Go on from a checkpoint, or the newest in a folder; or from stage 1 to stage 2."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Default: 3.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Examples at once, per process. Default: 4.")
    ] = None,
    grad_accum: Annotated[int | None, typer.Option("--grad-accum", min=1, help="Batches per step. Default: 4.")] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", min=0.0, help="Learning rate. Default: 1e-3 in stage 1, 1e-4 in stage 2.")
    ] = None,
    max_samples_per_dataset: Annotated[
        int | None, typer.Option("--max-samples-per-dataset", min=1, help="Most examples of a dataset. Default: all.")
    ] = None,
    freeze: Annotated[
        Freeze | None,
        typer.Option(
            "--freeze", help="What is frozen: as the documents promise (default), as the published code, or nothing."
        ),
    ] = None,
    experts: Annotated[
        str | None, typer.Option("--experts", help="Train only these experts, as in 2,3 (stage 2).")
    ] = None,
    optimizer: Annotated[
        Optimizer | None, typer.Option("--optimizer", help="bitnet (default), adamw, or the published code's.")
    ] = None,
    schedule: Annotated[
        Schedule | None, typer.Option("--schedule", help="two_phase (default): a tenth after 60 %; or cosine.")
    ] = None,
    no_ema: Annotated[
        bool, typer.Option("--no-ema", help="Evaluate and publish the last weights, not their moving average.")
    ] = False,
    curriculum: Annotated[
        bool | None, typer.Option("--curriculum/--no-curriculum", help="Shares of the domains in stage 2. Default: on.")
    ] = None,
    no_expert_supervision: Annotated[
        bool, typer.Option("--no-expert-supervision", help="Stage 2: let the routers find out what to send where.")
    ] = False,
    validation: Annotated[
        bool | None, typer.Option("--validation/--no-validation", help="Evaluate on held-out data. Default: on.")
    ] = None,
    device: Annotated[Device | None, typer.Option("--device", help="auto (default): a GPU if there is one.")] = None,
    amp: Annotated[
        bool | None, typer.Option("--amp/--no-amp", help="bf16 autocast. Default: on a GPU, not on a CPU.")
    ] = None,
    num_workers: Annotated[
        int | None, typer.Option("--num-workers", min=0, help="Processes that read data. Default: 4.")
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Less memory, more time."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the run. Default: 0.")] = None,
    wandb: Annotated[
        bool | None, typer.Option("--wandb/--no-wandb", help="Report to Weights & Biases. Default: off.")
    ] = None,
    wandb_project: Annotated[str | None, typer.Option("--wandb-project", help="Default: EmberNet.")] = None,
    wandb_run_name: Annotated[
        str | None, typer.Option("--wandb-run-name", help="Default: stage{stage}_bs{batch size}.")
    ] = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard/--no-tensorboard", help="Write TensorBoard files. Default: off.")
    ] = None,
    merge_experts: Annotated[
        Path | None,
        typer.Option("--merge-experts", help="Do not train: put the --experts of this checkpoint into --model's."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="'spark' only: best one per core; part of the result. Default: 2."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model of the EmberNet family, or the built-in 'spark'.

    Stage 1 aligns the projector with the decoder, stage 2 specialises the experts. 'trial' and 'main' run both unless
    --stage or --resume says which. A flag overrules the config file, which overrules the preset. On several GPUs or
    machines, the same command behind `accelerate launch -m`.

    'spark' makes the built-in model from nothing, on drawings of all eight domains. It takes hours, 6 GB of memory and
    12 GB of temporary files on two cores. The same command goes on with a training that was broken off.

    \b
    Examples:
      embernet train --stage 1 --data-dir data --output-dir checkpoints
      embernet train --stage 2 --resume checkpoints/stage1/final_model --data-dir data
      embernet train --resume checkpoints
      accelerate launch -m embernet train --stage 1 --config run.yaml
      embernet train --merge-experts charts --experts 2 --model base -o merged
      embernet train spark -o my-spark
    """
    given = {
        "stage": stage,
        "model": model,
        "tokenizer": tokenizer,
        "data_dir": data_dir,
        "output_dir": output_dir,
        "epochs": epochs,
        "batch_size": batch_size,
        "grad_accum": grad_accum,
        "lr": lr,
        "max_samples_per_dataset": max_samples_per_dataset,
        "freeze": freeze.value if freeze else None,
        "experts": _expert_numbers(experts) if experts is not None else None,
        "optimizer": optimizer.value if optimizer else None,
        "schedule": schedule.value if schedule else None,
        "ema": 0.0 if no_ema else None,
        "curriculum": curriculum,
        "expert_supervision": 0.0 if no_expert_supervision else None,
        "validation": validation,
        "device": device.value if device else None,
        "amp": amp,
        "num_workers": num_workers,
        "gradient_checkpointing": gradient_checkpointing,
        "seed": seed,
        "wandb": wandb,
        "wandb_project": wandb_project,
        "wandb_run_name": wandb_run_name,
        "tensorboard": tensorboard,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if processes is not None and preset != Preset.spark:
        raise typer.BadParameter(
            "--processes is for 'spark'; others are spread with: accelerate launch -m embernet train"
        )
    elsewhere = {"config": config, "resume": resume}  # flags that are no values of a run
    flags = given.keys() | {name for name, value in elsewhere.items() if value is not None}
    if merge_experts is not None:
        if unknown := flags - {"experts", "model", "output_dir"}:
            raise typer.BadParameter(f"--merge-experts has no option {min(unknown)!r}")
        _merge(merge_experts, given, json)
    elif preset == Preset.spark:
        from embernet.cli.train_spark import train_spark_model

        unknown = flags - {"output_dir", "seed"}
        if unknown or output_dir is None:
            problem = f"has no option {min(unknown)!r}" if unknown else "needs -o DIR"
            raise typer.BadParameter(f"'spark' {problem}")
        train_spark_model(Path(output_dir), seed or 0, processes or 2, json, quiet)
    else:
        _train_stages(preset, config, resume, given, json, quiet)


def _expert_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--experts must be numbers such as 2,3 (found {text!r})") from None


def _merge(source: Path, given: dict[str, Any], json: bool) -> None:
    for needed, flag in (("experts", "--experts"), ("model", "--model"), ("output_dir", "-o")):
        if needed not in given:
            raise typer.BadParameter(f"--merge-experts needs {flag}")
    from embernet.training.merging import merge_experts

    merge_experts(Path(given["model"]), source, given["experts"], Path(given["output_dir"]))
    if json:
        values = {"path": given["output_dir"], "base": given["model"], "source": str(source)}
        print_json("embernet.merge_experts/1", values | {"experts": given["experts"]})
    else:
        experts = ", ".join(map(str, given["experts"]))
        typer.echo(f"{given['output_dir']}: {given['model']} with experts {experts} of {source}")


def _train_stages(
    preset: Preset | None, config: Path | None, resume: Path | None, given: dict[str, Any], json: bool, quiet: bool
) -> None:
    """Train the stage asked for; both, the second from the first, where a preset is given and no stage."""
    import logging

    from embernet.cli.train_console import TrainConsole
    from embernet.training.config import read_config_file
    from embernet.training.run import plan_run, train_stage

    logging.getLogger("accelerate").setLevel(logging.ERROR)
    file = read_config_file(config) if config else {}
    stages: list[int | None] = [given.pop("stage", file.get("stage"))]
    if stages == [None] and preset is not None and resume is None:
        stages = [1, 2]
    results = []
    for stage in stages:
        of_stage = {"stage": stage} if stage else {}
        run = plan_run(given | of_stage, file, str(config), preset.value if preset else None, resume)
        training, validation = _open_data(run.config.data_dir, run.config.stage, run.config.validation)
        if stage == 1 and len(stages) == 2:  # what is wrong with them is said before stage 1 is trained, not after
            _open_data(run.config.data_dir, 2, run.config.validation)
        with TrainConsole(quiet) as console:
            result = train_stage(run, training, validation, console)
        results.append(result)
        if result.finish_reason in ("interrupted", "terminated"):
            note(f"stopped after step {result.state.global_step}; go on with --resume {result.checkpoint}", quiet)
            break
        resume = result.checkpoint
        given = {name: value for name, value in given.items() if name != "model"}
    if _is_main_process():
        _print_results(results, json)
    if results[-1].finish_reason == "interrupted":
        raise typer.Exit(130)


def _open_data(data_dir: str, stage: int, validation: bool) -> tuple[list[Any], list[Any]]:
    """Sources to train on, and to validate with."""
    from embernet.data.sources import open_data_dir
    from embernet.errors import InputError

    training = open_data_dir(data_dir, stage, "train")
    try:
        return training, open_data_dir(data_dir, stage, "validation") if validation else []
    except InputError as error:
        raise InputError(str(error), error.hint or "--no-validation") from None


def _is_main_process() -> bool:
    """Whether this process speaks for all that `accelerate launch` started."""
    import os

    return os.environ.get("RANK", "0") == "0"


def _print_results(results: "list[TrainResult]", json: bool) -> None:
    if json:
        print_json("embernet.train_stages/1", {"stages": [result.to_dict() for result in results]})
        return
    for result in results:
        state, energy = result.state, result.energy
        typer.echo(f"{result.checkpoint}: stage {result.stage}, {result.finish_reason.replace('_', ' ')}")
        assumed = energy["assumed"]
        rows = [
            ("steps", f"{state.global_step:,}"),
            ("tokens", f"{state.tokens:,}"),
            ("mean loss", f"{state.average:.4f}"),
            ("best loss", "-" if state.best_loss is None else f"{state.best_loss:.4f}"),
            ("skipped examples", str(len(result.skipped))),
            ("skipped steps", str(state.skipped_steps)),
            (
                "energy, estimated",
                f"{energy['kwh']:.4g} kWh, {energy['co2_kg']:.4g} kg CO2 (assuming {assumed['device_watts']:g} W "
                f"x {assumed['devices']}, {assumed['grid_kg_per_kwh']:g} kg/kWh)",
            ),
        ]
        print_rows(rows, indent=2)
