"""The built-in models do what the README says about them."""

import pytest

from embernet.data.synth import DOMAINS
from embernet.data.synth import draw as draw_2
from embernet.data.synth.version_1 import draw
from embernet.models.embernet.config import EmberNetConfig
from embernet.runtime import Model, load
from embernet.runtime.bundle import CARD_FILE, open_bundle
from tests.conftest import EXAMPLES

# What the example images show.
CAPTIONS = {
    "number.png": "the number 319",
    "scene.png": "a large purple circle to the left of a small red star",
    "several.png": "three white triangles",
    "shape.png": "a large orange heart on the right",
}


@pytest.fixture(scope="module")
def spark() -> Model:
    return load("spark")


def test_it_is_small_and_whole() -> None:
    bundle = open_bundle("spark")
    bundle.verify()
    assert bundle.size() <= 4_000_000
    assert EmberNetConfig.from_dict(bundle.manifest.config) == EmberNetConfig.preset("spark")


@pytest.mark.parametrize("name", CAPTIONS)
def test_the_examples(spark: Model, name: str) -> None:
    assert spark.caption(EXAMPLES / name).text == CAPTIONS[name]


@pytest.mark.parametrize(("kind", "bar"), [("scene", 0.95), ("number", 0.85)])
def test_drawings_it_was_not_trained_on(spark: Model, kind: str, bar: float) -> None:
    """A sample; `embernet eval --data synth-1` measures the figures of the README."""
    drawings = [draw("test", index, kind=kind) for index in range(60)]
    correct = sum(spark.caption(drawing.image).text == drawing.caption for drawing in drawings)
    assert correct >= bar * len(drawings)


# --- spark2 ---------------------------------------------------------------------------------------------------------


def test_spark2_is_small_and_whole_and_has_a_card() -> None:
    bundle = open_bundle("spark2")
    bundle.verify()
    assert bundle.size() <= 6_000_000
    assert EmberNetConfig.from_dict(bundle.manifest.config) == EmberNetConfig.preset("spark2")
    assert bundle.sha256() in (bundle.path / CARD_FILE).read_text()


def test_spark2_answers_about_all_domains() -> None:
    """A sample of three drawings per domain; its card has the figures."""
    spark2 = load("spark2")
    right = asked = 0
    for domain in DOMAINS:
        for index in range(3):
            drawing = draw_2("test", index, domain=domain)
            image = spark2.encode(drawing.image)
            right += spark2.caption(image).text == drawing.caption
            right += sum(spark2.ask(image, q.prompt).text == q.answer for q in drawing.questions)
            asked += 1 + len(drawing.questions)
    assert right >= 0.75 * asked
