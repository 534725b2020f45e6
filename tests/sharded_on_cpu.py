"""`embernet` with FSDP on CPUs: accelerate shards on accelerators only, and is told here that it has some."""

from typing import Any

from accelerate.state import AcceleratorState, DistributedType
from torch.distributed.tensor import DTensor

from embernet.cli.app import main
from embernet.training.trainer import Trainer

_initialize, _run = AcceleratorState.__init__, Trainer.run


def initialize(state: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **keywords: Any) -> None:
    is_first = not state.initialized
    _initialize(state, *args, fsdp_plugin=fsdp_plugin, **keywords)
    if is_first:
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = fsdp_plugin


def run(trainer: Trainer) -> Any:
    assert all(isinstance(p, DTensor) for p in trainer._trained())
    return _run(trainer)


AcceleratorState.__init__, Trainer.run = initialize, run
main()
