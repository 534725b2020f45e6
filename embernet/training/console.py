"""What a run says on a terminal, in the shape of the published trainer."""

from dataclasses import dataclass

_WIDTH = 70


@dataclass(frozen=True)
class Plan:
    """A run before it starts. Batch sizes in examples; tokens per example, those of its text on average."""

    stage: int
    epochs: int
    steps_per_epoch: int
    batch_size: int
    grad_accum: int
    processes: int
    learning_rate: float
    device: str
    image_tokens: int
    text_tokens: int

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.grad_accum * self.processes


def banner(plan: Plan) -> str:
    """The block that is printed before the first step."""
    rule = "=" * _WIDTH
    return "\n".join(
        [
            rule,
            f"Starting Stage {plan.stage} Training",
            rule,
            f"Epochs: {plan.epochs}",
            f"Steps per epoch: {plan.steps_per_epoch}",
            f"Total steps: {plan.total_steps}",
            f"Batch size: {plan.batch_size}",
            f"Gradient accumulation: {plan.grad_accum}",
            f"Effective batch size: {plan.global_batch}",
            f"Learning rate: {plan.learning_rate}",
            f"Device: {plan.device}" + (f" x {plan.processes}" if plan.processes > 1 else ""),
            *_tokens("Token Statistics (per sample)", plan, 1),
            *_tokens("Token Statistics (per batch)", plan, plan.global_batch),
            *_tokens("Total Training Tokens (all epochs)", plan, plan.global_batch * plan.total_steps),
            rule,
        ]
    )


def _tokens(title: str, plan: Plan, examples: int) -> list[str]:
    image, text = plan.image_tokens * examples, plan.text_tokens * examples
    return ["", f"{title}:", f"  Total: {image + text:,}", f"  Image tokens: {image:,}", f"  Text tokens: {text:,}"]


def step_line(plan: Plan, epoch: int, step: int, loss: float, average: float, learning_rate: float) -> str:
    """epoch and step count from 1."""
    return (
        f"Epoch {epoch}/{plan.epochs} | Step {step} | Loss: {loss:.4f} | Avg Loss: {average:.4f} | "
        f"LR: {learning_rate:.2e}"
    )
