"""One graph of a bundle in ONNX Runtime, set up so that weights stay in the mapped file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from embernet.errors import BundleError, EmbernetError, OutOfMemoryError
from embernet.runtime.hugepages import move_to_huge_pages
from embernet.runtime.native_library import library_in_use
from embernet.runtime.release import mapped_ranges, release_pages

# Below this many bytes of weights, unpacking them once at load is worth its memory.
FOLD_BELOW_BYTES = 8 * 2**20
FLOAT, INT64 = "tensor(float)", "tensor(int64)"
_FATAL = 4  # errors are raised, so the engine need not print them as well


# How long a thread waits by spinning, where that is asked for: longer than any pause within a run.
_SPIN_MICROSECONDS = 1000


@dataclass(frozen=True)
class EngineOptions:
    """How graphs are run.

    threads: None = one per core. hugepages: copy the weights into huge pages instead of using the file's. spin: let
    threads wait for each other without sleeping, which is faster if nothing else wants their cores, else slower.
    """

    threads: int | None = None
    hugepages: bool = False
    spin: bool = False


class Graph:
    """An opened graph. Whatever the engine dislikes is a BundleError that names the file."""

    def __init__(self, path: Path, weights: Path, engine: EngineOptions) -> None:
        """weights: the file that holds the graph's external data."""
        self.path = path
        mapped_before = mapped_ranges(weights)
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = engine.threads or 0
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if engine.spin else "0")
        if engine.spin:
            options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_MICROSECONDS))
            options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs
        library = library_in_use()
        # Without native operators ONNX Runtime inlines the function bodies. Folding them would unpack every weight
        # to float32 at load: 2.8 GB for the full-size model.
        disabled = ["ConstantFolding"] if library is None and weights.stat().st_size >= FOLD_BELOW_BYTES else None
        try:
            if library is not None:
                options.register_custom_ops_library(str(library))
            self.session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
            )
        except Exception as error:  # the engine raises a class of its own per failure, all directly under Exception
            raise self.failed("cannot load it", error) from None
        # Pages of the file, which can be let go and come back.
        self._mapped = mapped_ranges(weights) - mapped_before
        if engine.hugepages:
            move_to_huge_pages(self._mapped)
            self._mapped = set()

    def require_interface(self, expected: Mapping[str, tuple[str, Sequence[int | None]]]) -> None:
        """BundleError unless the graph has inputs and outputs of these names, types and sizes; None = any size.

        Arrays are bound by address later on, so a graph that does not fit its manifest must not get that far.
        """
        session = self.session
        values = [*session.get_inputs(), *session.get_overridable_initializers(), *session.get_outputs()]
        found = {value.name: (value.type, value.shape) for value in values}
        for name, (kind, shape) in expected.items():
            actual_kind, actual = found.get(name, ("nothing", ()))
            if (
                actual_kind != kind
                or len(actual) != len(shape)
                or any(want not in (None, size) for want, size in zip(shape, actual, strict=True))
            ):
                raise BundleError(
                    f"{self.path}: its inputs and outputs do not belong to its configuration ({name}: found "
                    f"{actual_kind} {list(actual)}, expected {kind} {list(shape)})",
                    hint="export the model again",
                )

    def run(
        self, output: str, shape: tuple[int, ...], inputs: Mapping[str, NDArray[Any]], shrink: bool = False
    ) -> NDArray[np.float32]:
        """Run on arrays and return one output, which must have this shape. shrink: keep no working memory."""
        try:
            (result,) = self.session.run([output], dict(inputs), _run_options(shrink))
        except Exception as error:
            raise self.failed("cannot run it", error) from None
        if result.shape != shape:
            raise BundleError(f"{self.path}: {output} has a wrong shape (found {result.shape}, expected {shape})")
        return result

    def release_weights(self) -> None:
        """Let go of the pages of this graph's weights: it will not run soon."""
        release_pages(self._mapped)

    def binding(self) -> "Binding":
        """Arrays of the caller that this graph reads and writes where they are."""
        return Binding(self)

    def failed(self, problem: str, error: Exception) -> EmbernetError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        # The engine has no class of its own for this.
        if isinstance(error, MemoryError) or "bad_alloc" in reason or "Failed to allocate memory" in reason:
            return OutOfMemoryError(f"{self.path}: does not fit in memory ({reason})")
        return BundleError(f"{self.path}: ONNX Runtime {problem} ({reason})")


def _run_options(shrink: bool) -> ort.RunOptions | None:
    if not shrink:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


class Binding:
    """Caller-owned contiguous arrays as inputs and outputs of a graph: nothing is copied in or out.

    An input and an output may be the same array; TernaryAttention then appends to its cache in place.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._binding = graph.session.io_binding()
        # The engine holds bare addresses: what is bound must stay alive.
        self._arrays: dict[str, NDArray[Any]] = {}

    def bind(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Bind arrays by name, for every later run; an array bound before to the same name is let go."""
        try:
            for bind, arrays in ((self._binding.bind_input, inputs), (self._binding.bind_output, outputs)):
                for name, array in arrays.items():
                    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
                    self._arrays[name] = array
        except Exception as error:
            raise self._graph.failed("cannot run it", error) from None

    def run(self, shrink: bool = False) -> None:
        """Run once on what is bound. shrink: keep no working memory."""
        try:
            self._graph.session.run_with_iobinding(self._binding, _run_options(shrink))
        except Exception as error:
            raise self._graph.failed("cannot run it", error) from None
