"""Signals that end a run after the step under way."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType


class Interruption:
    """Within the block, SIGTERM and the first Ctrl-C are noted only; a second Ctrl-C interrupts at once.

    notify is called when one of them comes: for a run that may be waiting for something.
    """

    def __init__(self, notify: Callable[[], object] = lambda: None) -> None:
        self.received: signal.Signals | None = None
        self._notify = notify
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        self._notify()
