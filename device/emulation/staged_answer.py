"""An answer of a bundle to token ids about an image file, that says what it is doing: see report.STAGE."""

import json
import sys

from embernet.device.emulation.report import STAGE, say


def main(bundle: str, image: str, ids: str, new_tokens: str) -> None:
    """Print the greedy ids that follow, as JSON. ids: with commas between them."""
    say(f"{STAGE}imports")
    from embernet.runtime.generation import generate
    from embernet.runtime.image import load_image, preprocess
    from embernet.runtime.model import load
    from embernet.runtime.sampling import Sampler, Sampling

    say(f"{STAGE}load")
    model = load(bundle)
    say(f"{STAGE}image")
    features = model.encode_pixels(preprocess(load_image(image).rgb, model.manifest.image))
    say(f"{STAGE}prefill")
    input_ids, count = [int(number) for number in ids.split(",")], int(new_tokens)
    context = model.new_context(len(input_ids), features, room=count)
    first = context.feed(input_ids, features)
    say(f"{STAGE}answer")
    # No end token: the answer has as many as were asked for.
    answer = [token for token, _ in generate(context, first, Sampler(Sampling()), -1, count)]
    say(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
