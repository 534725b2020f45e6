"""The JSON form of an answer about an image: what `--json` prints."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embernet.runtime.answer import Answer, EncodedImage
    from embernet.runtime.model import Model


def with_image_time(answer: "Answer", image: "EncodedImage") -> "Answer":
    """The first answer about an image that was encoded before it, with the time that took."""
    timings = replace(answer.timings, preprocess_ms=image.preprocess_ms, vision_ms=image.vision_ms)
    return replace(answer, timings=timings)


def result_object(model: "Model", image: "EncodedImage", answer: "Answer") -> dict[str, Any]:
    """The JSON form of one answer; unknown values are null."""
    values = answer.to_dict()
    values["timings"] = {"load_ms": model.load_ms} | values["timings"]
    return {
        "model": {
            "name": model.manifest.name,
            "family": model.manifest.family,
            "sha256": model.bundle.sha256(),
        },
        "input": {"path": image.name, "sha256": image.sha256, "width": image.width, "height": image.height},
    } | values
