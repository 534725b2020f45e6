"""Data-parallel training in several processes of one machine.

On a CPU one thread in each of two processes is faster than two threads in one: small matrices do not divide well.
"""

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def run_parallel(worker: Callable[..., Any], size: int, *args: Any, **main_only: Any) -> Any:
    """Run `worker(*args)` in `size` processes of one thread each and return what it returned in this one, rank 0.

    main_only: keyword arguments for rank 0 alone; they need not be picklable.
    """
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="embernet-") as folder:
        rendezvous = (Path(folder) / "rendezvous").as_uri()
        others = [
            multiprocessing.get_context("spawn").Process(
                target=_join_and_run, args=(rank, size, rendezvous, worker, args, {}), daemon=True
            )
            for rank in range(1, size)
        ]
        for process in others:
            process.start()
        try:
            result = _join_and_run(0, size, rendezvous, worker, args, main_only)
        except BaseException:
            for process in others:
                process.terminate()
            raise
        finally:
            torch.set_num_threads(threads)
            for process in others:
                process.join()
        return result


def leave_interrupts_to_main() -> None:
    """Ctrl-C reaches every process of a terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _join_and_run(
    rank: int,
    size: int,
    rendezvous: str,
    worker: Callable[..., Any],
    args: tuple[Any, ...],
    keywords: dict[str, Any],
) -> Any:
    if rank > 0:
        leave_interrupts_to_main()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size)
    try:
        return worker(*args, **keywords)
    finally:
        dist.destroy_process_group()


def is_main_process() -> bool:
    """Whether this is rank 0, the process that `run_parallel` was called in."""
    return dist.get_rank() == 0


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes; a missing one counts as zero."""
    parameters = list(parameters)
    flat = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, gradient in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)
