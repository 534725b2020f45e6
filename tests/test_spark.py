"""The built-in model does what the README says about it."""

import pytest

from embernet.data.synth import DOMAINS, draw
from embernet.models.embernet.config import EmberNetConfig
from embernet.runtime import Model, load
from embernet.runtime.bundle import CARD_FILE, open_bundle
from tests.conftest import EXAMPLES

# What the example images show.
CAPTIONS = {
    "chart.png": "bar chart: h 2, m 1, k 5, c 4",
    "diagram.png": "c points to z, z points to f",
    "flag.png": "the flag of japan",
    "formula.png": "8 + 5 = 13",
    "prices.png": "a blue cross for 9 and a white heart for 7",
    "scene.png": "a small blue heart to the left of a small black circle",
    "shapes.png": "three orange hearts and two black circles",
    "word.png": "the word snake in yellow on a button",
}


@pytest.fixture(scope="module")
def spark() -> Model:
    return load("spark")


def test_it_is_small_and_whole_and_has_a_card() -> None:
    bundle = open_bundle("spark")
    bundle.verify()
    assert bundle.size() <= 6_000_000
    assert EmberNetConfig.from_dict(bundle.manifest.config) == EmberNetConfig.preset("spark")
    assert bundle.sha256() in (bundle.path / CARD_FILE).read_text()


@pytest.mark.parametrize("name", CAPTIONS)
def test_the_examples(spark: Model, name: str) -> None:
    assert spark.caption(EXAMPLES / name).text == CAPTIONS[name]


def test_drawings_of_all_domains(spark: Model) -> None:
    """A sample of three drawings per domain that it was not trained on; its card has the figures."""
    right = asked = 0
    for domain in DOMAINS:
        for index in range(3):
            drawing = draw("test", index, domain=domain)
            image = spark.encode(drawing.image)
            right += spark.caption(image).text == drawing.caption
            right += sum(spark.ask(image, q.prompt).text == q.answer for q in drawing.questions)
            asked += 1 + len(drawing.questions)
    assert right >= 0.75 * asked
