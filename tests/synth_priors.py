"""Prints the table of docs/synth.md, what blind guesses would score: `python -m tests.synth_priors` (some minutes)."""

import sys

from embernet.data.synth import DOMAINS
from embernet.data.synth.priors import priors

DRAWINGS, GUESSED_FROM = 2000, 8000


def main() -> None:
    sys.stdout.write("| domain | drawing | the best blind answer is right |\n|---|---|---|\n")
    for domain in DOMAINS:
        by_drawing: dict[str, list[str]] = {}
        for kind, score in priors(domain, DRAWINGS, GUESSED_FROM).items():
            drawing, _, question = kind.partition(": ")
            by_drawing.setdefault(drawing, []).append(f"{question or '*caption*'} {score.prior:.2f}")
        for drawing, shares in by_drawing.items():
            sys.stdout.write(f"| `{domain}` | {drawing} | {', '.join(shares)} |\n")


if __name__ == "__main__":
    main()
