"""How `embernet train` shows on stderr that a run goes on: the published trainer's lines, and a bar on a terminal."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from embernet.cli.output import note, say
from embernet.training.console import Plan, banner, step_line

if TYPE_CHECKING:
    from embernet.training.state import RunState


class TrainConsole:
    """A `Reporter` for people; a context manager that owns the bar."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "TrainConsole":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def started(self, plan: Plan, state: "RunState") -> None:
        if self._quiet:
            return
        say(banner(plan))
        if state.global_step:
            note(f"going on after step {state.global_step}")
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(f"stage {plan.stage}", total=plan.total_steps, completed=state.global_step)
            self._bar.start()

    def stepped(self, plan: Plan, state: "RunState", values: Mapping[str, float], is_logged: bool) -> None:
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)
        if is_logged and "train/loss" in values:
            epoch = int(values["train/epoch"])
            loss, rate = values["train/loss"], values["train/lr"]
            self._say(step_line(plan, epoch, state.global_step, loss, state.average, rate))
        if "val/loss" in values:
            self._say(
                f"Validation | Step {state.global_step} | Loss: {values['val/loss']:.4f} | "
                f"Best: {values['val/best_loss']:.4f}"
            )

    def note(self, text: str) -> None:
        if not self._quiet:
            self._say(f"embernet: {text}")

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            say(line)
