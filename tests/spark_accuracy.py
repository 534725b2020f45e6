"""How often `spark` is right about drawings it was not trained on: `python -m tests.spark_accuracy`.

Every answer is exact match through the runtime. Beside it stands what the most common training answer to the same
prompt would score without seeing the image.
"""

import argparse
import json
import sys
from collections.abc import Iterator

from embernet.data.synth import DESCRIBE, draw
from embernet.runtime import Model, load
from embernet.training.evaluation import Score, best_guesses
from embernet.training.pool import Text

KINDS = ("scene", "number")
DRAWINGS_TO_GUESS_FROM = 5000


def guesses() -> dict[str, str]:
    """The most common answer to every prompt among training drawings."""
    drawings = (draw("train", index) for index in range(DRAWINGS_TO_GUESS_FROM))
    return best_guesses(Text(d.kind, d.caption, d.questions, d.domain) for d in drawings)


def answers(model: Model, kind: str, split: str, count: int) -> Iterator[tuple[str, str, str, str]]:
    """Of `count` drawings: kind of question, prompt, the model's answer, the right answer; the caption first."""
    for index in range(count):
        drawing = draw(split, index, kind=kind)
        image = model.encode(drawing.image)
        yield kind, DESCRIBE[0], model.caption(image).text, drawing.caption
        for question in drawing.questions:
            text = model.ask(image, question.prompt).text
            yield f"{kind}: {question.kind}", question.prompt, text, question.answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="spark", help="bundle")
    parser.add_argument("-n", "--count", type=int, default=500, help="drawings of each kind")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    arguments = parser.parse_args()
    model, blind, counts = load(arguments.model), guesses(), {}
    for kind in KINDS:
        for name, prompt, text, expected in answers(model, kind, arguments.split, arguments.count):
            correct, guessed, total = counts.get(name, (0, 0, 0))
            counts[name] = (correct + (text == expected), guessed + (blind.get(prompt) == expected), total + 1)
    scores = {name: Score(*count).to_dict() for name, count in counts.items()}
    sys.stdout.write(
        json.dumps({"model": arguments.model, "split": arguments.split, "scores": scores}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
