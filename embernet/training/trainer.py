"""The training loop, on `accelerate`: one process or many, one loop.

A step is one optimiser step on one global batch: `grad_accum` micro-batches of `batch_size` examples in each process.
Everything a step does depends on the configuration, the tensors and its number, so that a run that is continued
from a checkpoint computes what it would have computed.
"""

import contextlib
import json
import math
import signal
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from embernet.checkpoints import write_text
from embernet.data.loading import SkipLog, Skipped
from embernet.errors import EmbernetError, InputError, OutOfMemoryError
from embernet.interruption import Interruption
from embernet.models.embernet.model import EmberNet
from embernet.training.config import TrainConfig
from embernet.training.console import Plan
from embernet.training.ema import Ema
from embernet.training.energy import estimate_energy
from embernet.training.examples import Examples, LoadedBatch
from embernet.training.freezing import is_trained
from embernet.training.fused import fuse_bitlinears
from embernet.training.metrics import METRICS_FILE, MetricsLog
from embernet.training.objective import Batch, Objective
from embernet.training.optimizers import build_optimizer
from embernet.training.order import ExampleOrder, domain_shares
from embernet.training.run_checkpoint import (
    BEST_MODEL,
    FINAL_MODEL,
    RunTensors,
    read_run_tensors,
    remove_old_checkpoints,
    write_run_checkpoint,
)
from embernet.training.schedule import learning_rate_factor
from embernet.training.state import RunState

SKIPPED_FILE = "skipped_examples.jsonl"
_PREFIX = "model."  # of the model's names inside the objective
_MAX_NONFINITE = 5
_COUNTED_EXAMPLES = 64  # whose lengths stand for all in the plan
_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Reporter(Protocol):
    """Who is told how a run goes on; the main process tells."""

    def started(self, plan: Plan, state: RunState) -> None: ...

    def stepped(self, plan: Plan, state: RunState, values: Mapping[str, float], is_logged: bool) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. finish_reason: done, early_stop, terminated or interrupted. checkpoint: what it wrote last."""

    stage: int
    finish_reason: str
    checkpoint: Path
    state: RunState
    energy: Mapping[str, Any]
    skipped: Sequence[Skipped]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        state = self.state
        return {
            "stage": self.stage,
            "finish_reason": self.finish_reason,
            "checkpoint": str(self.checkpoint),
            "global_step": state.global_step,
            "avg_loss": state.average,
            "best_loss": state.best_loss,
            "tokens": state.tokens,
            "skipped_steps": state.skipped_steps,
            "train_seconds": round(state.train_seconds, 1),
            "energy": dict(self.energy),
            "skipped_examples": [vars(skipped) for skipped in self.skipped],
        }


class Trainer:
    """One stage of training.

    folder: of the run. continued: the checkpoint directory whose optimiser state and averages are taken over, and
    `state` what it remembers.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: EmberNet,
        tokenizer_json: str,
        training: Examples,
        validation: Examples | None,
        folder: Path,
        accelerator: Accelerator,
        reporter: Reporter,
        state: RunState | None = None,
        continued: Path | None = None,
    ) -> None:
        self.config = config
        self.state = state or RunState()
        self.model_config = model.config
        self._tokenizer_json = tokenizer_json
        self._training = training
        if validation is not None and not len(validation):
            raise InputError("there are no examples to validate with", hint="--no-validation")
        self._validation = validation
        self._folder = folder
        self._accelerator = accelerator
        self._reporter = reporter
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_trained(name, config.stage, config.freeze, config.experts))
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._trained_names = [name for name, _ in trained]
        optimizer = build_optimizer(trained, model.config.quantizer, config)
        if accelerator.mixed_precision == "no":
            fuse_bitlinears(model)  # the same numbers, sooner; autocast would round its intermediate results
        objective = Objective(model, config.gradient_checkpointing)
        self._objective, self._optimizer = accelerator.prepare(objective, optimizer)
        self._ema = Ema(self._trained(), config.ema) if config.ema else None
        self.plan = self._make_plan()
        shares = None
        domains, groups = training.domains()
        if config.stage == 2:
            shares = domain_shares(domains, config.curriculum)
        self._order = ExampleOrder(groups, self.plan.global_batch, config.seed, shares)
        self._skipped = SkipLog()
        self._saved: tuple[int, Path] | None = None
        if continued is not None:
            self._restore(continued)

    @property
    def num_examples(self) -> int:
        return len(self._training)

    def run(self) -> TrainResult:
        """Train to the end, or until the run is asked to stop: then it can be continued."""
        is_main = self._accelerator.is_main_process
        log = MetricsLog(self._folder / METRICS_FILE, self.state.global_step) if is_main else None
        if is_main:
            self._reporter.started(self.plan, self.state)
        try:
            with Interruption() as interruption:
                reason = self._run(interruption, log)
                # Still inside: a signal that comes again must not end the writing that the first one asked for.
                if reason in ("terminated", "interrupted"):
                    checkpoint = self._save(f"checkpoint_step_{self.state.global_step}")
                else:
                    checkpoint = self._publish(FINAL_MODEL)
        finally:
            if log is not None:
                log.close()
        config = self.config
        energy = estimate_energy(
            self.state.train_seconds, self.plan.processes, config.device_watts, config.grid_kg_per_kwh
        )
        self._accelerator.log(
            {f"energy/stage{config.stage}_{unit}": energy[unit] for unit in ("kwh", "co2_kg")}, self.state.global_step
        )
        return TrainResult(config.stage, reason, checkpoint, self.state, energy, self._skipped.listed())

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _run(self, interruption: Interruption, log: MetricsLog | None) -> str:
        state, per_epoch = self.state, self.plan.steps_per_epoch
        while state.global_step < self.plan.total_steps:
            if self._lacks_progress():  # of a run that had ended for that before
                return "early_stop"
            epoch, first_step = divmod(state.global_step, per_epoch)
            with contextlib.closing(self._batches_of_epoch(epoch, first_step)) as steps:
                for loaded in steps:
                    if reason := self._run_step(loaded, interruption, log):
                        return reason
        return "done"

    def _run_step(
        self, loaded: Sequence[LoadedBatch], interruption: Interruption, log: MetricsLog | None
    ) -> str | None:
        """A step and what is due after it; returns why to stop then, if so."""
        config, state = self.config, self.state
        started = time.monotonic()
        values, stop = self._step(loaded, interruption)
        state.train_seconds += time.monotonic() - started
        epoch, step = divmod(state.global_step, self.plan.steps_per_epoch)
        is_epoch_end = step == 0
        if is_epoch_end or state.global_step % config.eval_interval == 0:
            values |= self._evaluate(is_epoch_end)
        self._log(log, values)
        if is_epoch_end:
            state.begin_epoch()
            self._save(f"checkpoint_epoch_{epoch}")
        elif state.global_step % config.save_interval == 0:
            self._save(f"checkpoint_step_{state.global_step}")
        if stop is None and self._lacks_progress():
            return "early_stop"
        return stop

    def _lacks_progress(self) -> bool:
        return 0 < self.config.early_stop_patience <= self.state.evaluations_without_progress

    def _batches_of_epoch(self, epoch: int, first_step: int) -> Generator[list[LoadedBatch], None, None]:
        """For every step of an epoch from `first_step` on, the micro-batches of this process."""
        config, accelerator = self.config, self._accelerator
        order = self._order.epoch(epoch)[first_step:]
        # (steps, micro-batches, processes, examples): what one process sees depends on their number, a step does not.
        shape = (len(order), config.grad_accum, accelerator.num_processes, config.batch_size)
        micro_batches = order.reshape(shape)[:, :, accelerator.process_index].reshape(-1, config.batch_size)
        with self._training.load(micro_batches.tolist(), config.num_workers) as loaded:
            for _ in range(len(order)):
                yield [next(loaded) for _ in range(config.grad_accum)]

    def _step(self, loaded: Sequence[LoadedBatch], interruption: Interruption) -> tuple[dict[str, float], str | None]:
        """One optimiser step; returns its figures, and why to stop after it, if so."""
        config, state = self.config, self.state
        # Whatever draws random numbers draws the same ones when this step is computed again.
        torch.manual_seed(config.seed + state.global_step)
        batches = [one.batch for one in loaded]
        skipped = [example for one in loaded for example in one.skipped]
        tokens = sum(batch.num_tokens + int(batch.has_image.sum()) * self.plan.image_tokens for batch in batches)
        # One exchange of all that the processes must agree on.
        learnt, rows, supervised, all_tokens, num_skipped, terminated, interrupted = self._sum(
            [
                *torch.stack([batch.counts for batch in batches]).sum(dim=0).tolist(),
                tokens,
                len(skipped),
                interruption.received == signal.SIGTERM,
                interruption.received == signal.SIGINT,
            ]
        )
        if num_skipped:
            self._note_skipped(skipped)
        rate = config.learning_rate * learning_rate_factor(
            config.schedule,
            state.global_step + 1,
            self.plan.total_steps,
            config.warmup_steps,
            int(config.phase1_fraction * self.plan.total_steps),
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        supervision = config.expert_supervision if config.stage == 2 else 0.0
        weights = (1 / learnt, config.balance_weight / rows, supervision / max(1, supervised))
        sums = self._accumulate(batches, weights)
        values: dict[str, float] = {"train/lr": rate}
        if sums is None or (figures := self._update(sums, weights, int(rows))) is None:
            state.skipped_steps += 1
        else:
            state.add_loss(figures["train/loss"])
            values |= figures
            values |= {"train/window_avg_loss": state.window_average, "train/cumul_avg_loss": state.average}
        state.global_step += 1
        state.tokens += int(all_tokens)
        epoch = (state.global_step - 1) // self.plan.steps_per_epoch + 1
        values |= {"train/cumulative_tokens": state.tokens, "train/epoch": epoch}
        return values, "interrupted" if interrupted else "terminated" if terminated else None

    def _accumulate(self, batches: Sequence[Batch], weights: Sequence[float]) -> Tensor | None:
        """Gradients of the weighted losses; returns the figures' sums, or None if memory does not suffice."""
        while True:
            try:
                return self._try_accumulate(batches, weights)
            except torch.OutOfMemoryError:
                self._optimizer.zero_grad()
                if self.plan.processes > 1:  # the others wait for gradients that will not come
                    raise OutOfMemoryError(
                        f"a batch of {self.config.batch_size} examples per process does not fit in memory",
                        hint="resume with half of --batch-size and twice of --grad-accum: the result is the same",
                    ) from None
                torch.cuda.empty_cache()
            largest = max(min(len(batch), self.state.max_rows) for batch in batches)
            if largest == 1:
                self._reporter.note(f"step {self.state.global_step + 1} is skipped: one example fills the memory")
                return None
            self.state.max_rows = largest // 2
            self._reporter.note(f"out of memory: from now on {self.state.max_rows} examples at once")

    def _try_accumulate(self, batches: Sequence[Batch], weights: Sequence[float]) -> Tensor:
        accelerator = self._accelerator
        self._objective.train()
        self._optimizer.zero_grad()
        parts = [part for batch in batches for part in batch.parts(self.state.max_rows)]
        sums = torch.zeros(4 + self.model_config.num_experts, dtype=torch.float64, device=accelerator.device)
        for number, part in enumerate(parts, start=1):
            is_last = number == len(parts)
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self._objective):
                losses = self._objective(part.to(accelerator.device))
                terms = (losses.cross_entropy, losses.balance, losses.supervision)
                loss = torch.stack([term * weight for term, weight in zip(terms, weights, strict=True)]).sum()
                # Processes average their gradients; the weights are those of the sum.
                accelerator.backward(loss * self.plan.processes)
            sums += torch.stack([*(value.detach() for value in (*terms, losses.entropy)), *losses.usage])
        return cast("Tensor", accelerator.reduce(sums, "sum"))

    def _update(self, sums: Tensor, weights: Sequence[float], rows: int) -> dict[str, float] | None:
        """Let the optimiser act on the gradients; returns the step's figures, or None if they are not finite."""
        config, state = self.config, self.state
        # The reference clips tensor by tensor, in its optimiser.
        limit = math.inf if config.optimizer == "reference" else config.grad_clip
        norm = float(self._accelerator.clip_grad_norm_(self._objective.parameters(), limit))
        terms = [float(total) * weight for total, weight in zip(sums[:3], weights, strict=True)]
        loss = math.fsum(terms)
        if not math.isfinite(loss + norm):
            state.nonfinite_in_a_row += 1
            if state.nonfinite_in_a_row == _MAX_NONFINITE:
                raise EmbernetError(
                    f"the loss or its gradient was not finite in {_MAX_NONFINITE} steps in a row, "
                    f"up to step {state.global_step + 1}",
                    hint="resume from the last checkpoint with a lower --lr",
                )
            return None
        state.nonfinite_in_a_row = 0
        self._optimizer.step()
        if self._ema is not None:
            self._ema.update(state.global_step + 1)
        usage = sums[4:] / sums[4:].sum()
        return {
            "train/loss": loss,
            "train/cross_entropy": terms[0],
            "train/balance": terms[1],
            "train/supervision": terms[2],
            "train/grad_norm": norm,
            "train/grad_clipped": float(norm > config.grad_clip),
            "train/routing_entropy": float(sums[3]) / rows,
            **{f"train/expert_{index}": float(share) for index, share in enumerate(usage)},
        }

    # --- evaluation -------------------------------------------------------------------------------------------------

    def _evaluate(self, is_epoch_end: bool) -> dict[str, float]:
        """Judge the model as it would be published, and publish it if it is the best so far."""
        config, state = self.config, self.state
        values: dict[str, float] = {}
        if is_epoch_end and state.num_epoch_losses:
            values = {
                "epoch/number": state.global_step // self.plan.steps_per_epoch,
                "epoch/avg_loss": state.epoch_loss_sum / state.num_epoch_losses,
            }
        if self._validation is not None:
            values["val/loss"] = self._validation_loss(self._validation)
        loss = values.get("val/loss", values.get("epoch/avg_loss"))
        if loss is None:
            return values
        if state.add_evaluation(loss, config.early_stop_delta):
            self._publish(BEST_MODEL)
        if state.best_loss is not None:
            values |= {"val/best_loss": state.best_loss, "val/es_counter": state.evaluations_without_progress}
        return values

    @torch.no_grad()
    def _validation_loss(self, validation: Examples) -> float:
        """Mean cross-entropy of the learnt tokens of examples spread over the validation data."""
        config, accelerator = self.config, self._accelerator
        size = min(len(validation), config.max_validation_examples)
        chosen = np.linspace(0, len(validation) - 1, size).astype(np.int64)
        per_round = config.batch_size * accelerator.num_processes
        mine = []
        for start in range(accelerator.process_index * config.batch_size, -(-size // per_round) * per_round, per_round):
            # A process that has nothing left to do computes something that does not count, as all must.
            mine.append(chosen[start : start + config.batch_size].tolist() or [0])
        counts_until = size - accelerator.process_index * config.batch_size
        self._objective.eval()
        total, skipped = [0.0, 0.0], []
        with self._averaged(), validation.load(mine, config.num_workers) as batches:
            for number, loaded in enumerate(batches):
                skipped += [replace(example, source=f"{example.source} (validation)") for example in loaded.skipped]
                for part in loaded.batch.parts(self.state.max_rows):
                    losses = self._objective(part.to(accelerator.device))
                    if number * per_round < counts_until:
                        total[0] += float(losses.cross_entropy)
                        total[1] += float(part.counts[0])
        cross_entropy, learnt, num_skipped = self._sum([*total, len(skipped)])
        if num_skipped:
            self._note_skipped(skipped)
        if not math.isfinite(cross_entropy):
            raise EmbernetError(
                f"the validation loss is not finite after step {self.state.global_step}",
                hint="resume from the last checkpoint with a lower --lr",
            )
        return cross_entropy / learnt

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _save(self, name: str) -> Path:
        """Write a checkpoint from which the run can be continued exactly, and remove the oldest one."""
        path = self._folder / name
        if self._saved is not None and self._saved[0] == self.state.global_step:
            return self._saved[1]
        ema = None
        if self._ema is not None:
            with self._averaged():
                averaged = self._model_tensors()
                ema = {name: averaged[name].clone() for name in self._trained_names if name in averaged}
        optimizer = get_optimizer_state_dict(self._objective, self._optimizer.optimizer, options=_FULL)
        self._write(path, RunTensors(self._model_tensors(), optimizer, ema))
        if self._accelerator.is_main_process:
            remove_old_checkpoints(self._folder, self.config.keep_checkpoints, self.state.global_step)
        self._saved = (self.state.global_step, path)
        return path

    def _publish(self, name: str) -> Path:
        """Write the model as it is evaluated."""
        with self._averaged():
            self._write(self._folder / name, RunTensors(self._model_tensors()))
        return self._folder / name

    def _write(self, path: Path, tensors: RunTensors) -> None:
        state = self.state
        if self._accelerator.is_main_process:
            run = {
                "stage": self.config.stage,
                "epoch": state.global_step // self.plan.steps_per_epoch,
                "global_step": state.global_step,
                "learning_rate": self._optimizer.param_groups[0]["lr"],
                "global_batch": self.plan.global_batch,
                "num_examples": self.num_examples,
                "config": self.config.to_dict(),
                "state": state.to_dict(),
            }
            write_run_checkpoint(path, self.model_config, self._tokenizer_json, tensors, run)
        self._accelerator.wait_for_everyone()

    def _restore(self, path: Path) -> None:
        """Take over the optimiser's state and the averages; the weights are the model's already."""
        optimizer, ema = read_run_tensors(path)
        groups = self._optimizer.param_groups
        own = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        set_optimizer_state_dict(self._objective, self._optimizer.optimizer, optimizer, options=_FULL)
        for group, values in zip(self._optimizer.param_groups, own, strict=True):
            group.update(values)  # the configuration may have changed
        if (path.parent / SKIPPED_FILE).is_file():
            for line in (path.parent / SKIPPED_FILE).read_text(encoding="utf-8").splitlines():
                self._skipped.add(Skipped(**json.loads(line)))
        if self._ema is not None and ema is not None:
            named = {_PREFIX + name: value for name, value in ema.items()}
            with self._averaged():
                options = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
                set_model_state_dict(self._objective, named, options=options)

    def _model_tensors(self) -> dict[str, Tensor]:
        """All of the model's tensors by name, on the CPU; empty in all processes but the main one where sharded."""
        named = get_model_state_dict(self._objective, options=_FULL)
        return {name.removeprefix(_PREFIX): cast("Tensor", value) for name, value in named.items()}

    def _averaged(self) -> AbstractContextManager[None]:
        return self._ema.applied() if self._ema is not None else contextlib.nullcontext()

    # --- the rest ---------------------------------------------------------------------------------------------------

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._objective.parameters() if parameter.requires_grad]

    def _sum(self, values: Iterable[float]) -> list[float]:
        """The sums of these numbers over all processes."""
        tensor = torch.tensor([float(value) for value in values], dtype=torch.float64, device=self._accelerator.device)
        return [float(value) for value in self._accelerator.reduce(tensor, "sum")]

    def _note_skipped(self, skipped: Sequence[Skipped]) -> None:
        """Every process calls this; the main one lists what any of them had to skip."""
        known = len(self._skipped)
        for example in gather_object(list(skipped)):
            self._skipped.add(example)
        if self._accelerator.is_main_process and len(self._skipped) > known:
            lines = [json.dumps(vars(example)) + "\n" for example in self._skipped.listed()]
            write_text(self._folder / SKIPPED_FILE, "".join(lines))
            self._reporter.note(f"examples skipped so far: {len(self._skipped)} ({self._folder / SKIPPED_FILE})")

    def _log(self, log: MetricsLog | None, values: Mapping[str, float]) -> None:
        step = self.state.global_step
        is_logged = step % self.config.log_interval == 0 or step == self.plan.total_steps
        if log is not None:
            log.write(step, values)
            self._reporter.stepped(self.plan, self.state, values, is_logged)
        if is_logged or "val/best_loss" in values:
            self._accelerator.log(dict(values), step)

    def _make_plan(self) -> Plan:
        config, processes = self.config, self._accelerator.num_processes
        size = len(self._training)
        lengths = []
        for index in np.linspace(0, size - 1, min(size, _COUNTED_EXAMPLES)).astype(int):
            with contextlib.suppress(EmbernetError):  # said when it is its turn
                lengths.append(self._training.text_tokens(int(index)))
        return Plan(
            stage=config.stage,
            epochs=config.epochs,
            steps_per_epoch=-(-size // (config.batch_size * config.grad_accum * processes)),
            batch_size=config.batch_size,
            grad_accum=config.grad_accum,
            processes=processes,
            learning_rate=config.learning_rate,
            device=str(self._accelerator.device),
            image_tokens=self.model_config.num_image_tokens,
            text_tokens=round(sum(lengths) / max(1, len(lengths))),
        )
