"""Does a bundle compute what its checkpoint does? Both run the same inputs: torch here, the runtime there."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embernet.checkpoints import Checkpoint
from embernet.errors import EmbernetError
from embernet.runtime.image import load_image, preprocess
from embernet.runtime.model import load

# How far the logits' cosine may lie below 1. A rounding tie that falls the other way moves an activation code, and a
# deep network can make much of it: so a model's own answer to an input moved by ROUNDING_NOISE is measured, and a few
# times its distance is allowed. int8 vision and embedding lose a little more everywhere (docs/numerics.md).
ROUNDING_NOISE = 1e-6
ROUNDING_FACTOR = 4.0
MARGIN_FLOAT32 = 1e-4
MARGIN_INT8 = 1e-2
RANDOM_CASES = 2
PROMPT_TOKENS = 12


@dataclass(frozen=True)
class CheckCase:
    """One image with random text. greedy_agreement, expert_agreement: share of positions with the same choice."""

    image: str
    max_difference: float
    cosine: float
    greedy_agreement: float
    expert_agreement: float


@dataclass(frozen=True)
class CheckReport:
    """rounding_cosine: of the checkpoint's own logits when the image moves by ROUNDING_NOISE; min_cosine: the bar."""

    cases: tuple[CheckCase, ...]
    rounding_cosine: float
    min_cosine: float

    @property
    def passed(self) -> bool:
        return all(case.cosine >= self.min_cosine for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "min_cosine": self.min_cosine,
            "rounding_cosine": self.rounding_cosine,
            "cases": [asdict(case) for case in self.cases],
        }


def check_bundle(
    bundle_path: Path,
    checkpoint: Checkpoint,
    images: Sequence[Path] = (),
    seed: int = 0,
    on_case: Callable[[CheckCase], object] = lambda _case: None,
) -> CheckReport:
    """Compare logits and choices of a bundle and its checkpoint on images, or on random pixels if none are given."""
    model = load(bundle_path)
    precision = model.manifest.precision
    exact = all(precision.get(part) == "float32" for part in ("vision", "embedding"))
    torch_model = checkpoint.family.part("model")(checkpoint.config)
    torch_model.load_state_dict({name: torch.from_numpy(checkpoint.tensors[name]) for name in checkpoint.tensors})
    torch_model.eval()
    rng = np.random.default_rng(seed)
    size = model.manifest.image.size
    pixels: list[tuple[str, NDArray[np.float32]]]
    if images:
        pixels = [(str(path), preprocess(load_image(path).rgb, model.manifest.image)) for path in images]
    else:
        noise = rng.uniform(-1, 1, (RANDOM_CASES, 1, 3, size, size)).astype(np.float32)
        pixels = [(f"random {i}", values) for i, values in enumerate(noise)]
    cases: list[CheckCase] = []
    rounding_cosine = 1.0
    for name, pixel_values in pixels:
        ids = rng.integers(0, model.manifest.vocab_size, PROMPT_TOKENS)
        ours = model.forward(ids.tolist(), pixel_values)
        logits, experts = _run_torch(torch_model, ids, pixel_values)
        if not cases:
            noise = 1 + ROUNDING_NOISE * rng.standard_normal(pixel_values.shape, np.float32)
            rounding_cosine = _cosine(_run_torch(torch_model, ids, pixel_values * noise)[0], logits)
        case = CheckCase(
            image=name,
            max_difference=float(np.abs(ours.logits - logits).max()),
            cosine=_cosine(ours.logits, logits),
            greedy_agreement=float((ours.logits.argmax(-1) == logits.argmax(-1)).mean()),
            expert_agreement=float((np.sort(ours.experts, -1) == np.sort(experts, -1)).mean()),
        )
        cases.append(case)
        on_case(case)
    margin = MARGIN_FLOAT32 if exact else MARGIN_INT8
    return CheckReport(tuple(cases), rounding_cosine, 1 - margin - ROUNDING_FACTOR * (1 - rounding_cosine))


def _run_torch(
    model: torch.nn.Module, ids: NDArray[np.int64], pixel_values: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """-> logits (T, V) and expert choices (L, T, K)."""
    with torch.no_grad():
        output = model(torch.from_numpy(ids[None]), torch.from_numpy(pixel_values))
    return output.logits[0].numpy(), output.routing.experts[:, 0].numpy()


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def require_passed(report: CheckReport) -> None:
    """EmbernetError if the check failed."""
    worst = min(report.cases, key=lambda case: case.cosine)
    if not report.passed:
        raise EmbernetError(
            f"the bundle does not match its checkpoint on {worst.image} "
            f"(cosine {worst.cosine:.6f}, expected {report.min_cosine:.6f} or more, "
            f"max difference {worst.max_difference:.3g})"
        )
