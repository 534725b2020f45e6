"""The documentation is true: generated pages are fresh, links lead somewhere, examples run."""

import re
from pathlib import Path

import pytest

from tests import data_reference
from tests.cli_reference import PAGE, reference

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_command_line_page_is_fresh():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m tests.cli_reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_key_of_a_manifest_is_documented(tiny_bundle):
    import json

    page = (ROOT / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    for key in json.loads((tiny_bundle / "manifest.json").read_text()):
        assert f"`{key}" in page, key


def test_every_attribute_of_an_operator_is_documented():
    from embernet.export.functions import operator_functions

    page = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    for function in operator_functions():
        for attribute in [*function.attribute, *(a.name for a in function.attribute_proto)]:
            group, name = re.fullmatch(r"(?:(input_norm|norm|activation)_)?(.*)", attribute).groups()
            assert name in page, f"{function.name}: {attribute}"
            assert group is None or f"{group}_" in page, f"{function.name}: {attribute}"


def test_the_table_of_datasets_is_fresh():
    text = data_reference.PAGE.read_text(encoding="utf-8")
    assert text == data_reference.page(text), "run: python -m tests.data_reference"
