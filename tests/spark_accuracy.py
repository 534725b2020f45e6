"""How often `spark` is right about drawings it was not trained on: `python -m tests.spark_accuracy`.

Every answer is exact match through the runtime. Beside it stands what the most common training answer to the same
prompt would score without seeing the image.
"""

import argparse
import json
import sys
from collections.abc import Iterator

from embernet.data.scores import Item, best_guesses, items_of, tally
from embernet.data.synth.version_1 import draw
from embernet.runtime import Model, load

KINDS = ("scene", "number")
DRAWINGS_TO_GUESS_FROM = 5000


def results(model: Model, split: str, count: int) -> Iterator[tuple[Item, bool]]:
    """Every question about `count` drawings of each kind, and whether the model's answer is right."""
    for kind in KINDS:
        for index in range(count):
            drawing = draw(split, index, kind=kind)
            image = model.encode(drawing.image)
            for item in items_of([drawing]):
                yield item, model.ask(image, item.prompt).text == item.answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="spark", help="bundle")
    parser.add_argument("-n", "--count", type=int, default=500, help="drawings of each kind")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    arguments = parser.parse_args()
    guesses = best_guesses(draw("train", index) for index in range(DRAWINGS_TO_GUESS_FROM))
    scores = tally(results(load(arguments.model), arguments.split, arguments.count), guesses)
    values = {"model": arguments.model, "split": arguments.split, "scores": {k: s.to_dict() for k, s in scores.items()}}
    sys.stdout.write(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
