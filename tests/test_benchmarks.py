"""The comparisons count right: shapes and bytes of both sides, turns, ratios, and the page they fill."""

import json
import math

import pytest

from benchmarks.common import RESULTS, turns
from benchmarks.report import PAGE, SECTIONS, fill, ratio, read_share, speeds, spread, three_digits
from benchmarks.shapes import Shapes, read_shapes
from benchmarks.write_gguf import storage, tensor_shapes

FULL = Shapes(
    vocab_size=32002,
    hidden_size=768,
    intermediate_size=2048,
    num_layers=16,
    num_attention_heads=12,
    num_kv_heads=6,
    num_experts=8,
    num_experts_per_tok=2,
    use_shared_expert=True,
    max_position_embeddings=4096,
)


def test_shapes_come_from_the_manifest(tiny_bundle):
    config = json.loads((tiny_bundle / "manifest.json").read_text())["config"]
    shapes = read_shapes(tiny_bundle)
    assert shapes.hidden_size == config["hidden_size"]
    assert shapes.head_dim * config["num_attention_heads"] == config["hidden_size"]


def test_a_token_passes_through_as_many_weights_on_both_sides():
    assert FULL.head_dim == 64
    experts = FULL.num_experts_per_tok + FULL.use_shared_expert
    assert FULL.num_layers * (FULL.attention_weights + experts * FULL.expert_weights) == 254_803_968


@pytest.mark.parametrize("kind", ["TQ2_0", "Q4_0"])
def test_the_opponent_has_the_same_matrices(kind):
    stored = {name: (shape, storage(name, kind)) for name, shape in tensor_shapes(FULL)}
    ternary = [shape for shape, kind_of in stored.values() if kind_of == kind]
    experts = FULL.num_experts + 1
    assert sum(map(math.prod, ternary)) == 16 * (FULL.attention_weights + experts * FULL.expert_weights)
    assert all(shape[-1] % 256 == 0 for shape in ternary)  # whole blocks of TQ2_0
    assert stored["output"] == stored["token_embd"] == ((32002, 768), "Q8_0")
    assert stored["blk.15.attn_k"] == ((384, 768), kind)
    assert stored["blk.0.ffn_down_exps"] == ((8, 768, 2048), kind)
    assert {stored[f"blk.3.{name}"][1] for name in ("ffn_gate_inp", "ffn_gate_inp_shexp", "attn_norm")} == {"F32"}


def test_everyone_has_a_turn_in_every_round_and_begins_one():
    order = list(turns("abc", 3))
    assert order == [(0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a"), (2, "c"), (2, "a"), (2, "b")]


def test_arithmetic_of_the_report():
    assert [three_digits(x) for x in (1234.5, 123.4, 12.34, 1.234, 0.1234)] == ["1234", "123", "12.3", "1.23", "0.12"]
    assert spread([3.0, 1.0, 2.0]) == "2 (1 – 3)"  # noqa: RUF001
    assert ratio([10.0, 20.0, 90.0], [5.0, 10.0, 15.0]) == "2.00"
    assert speeds([10.0], 2048 * 768) == pytest.approx([157.3], rel=1e-3)  # 10⁹ weights per second
    assert read_share([100.0], 88_000_000, [17.6e9]) == pytest.approx(0.5)


def test_only_a_section_changes():
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert fill(page, "x", "new") == "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="no section"):
        fill(page, "y", "new")


def test_the_page_says_what_was_measured():
    page = PAGE.read_text(encoding="utf-8")
    for name, section in SECTIONS.items():
        assert page.count(f"<!-- {name} -->") == page.count(f"<!-- /{name} -->") == 1
        path = RESULTS / f"{name}.json"
        if path.is_file():
            text = section(json.loads(path.read_text(encoding="utf-8")))
            assert fill(page, name, text) == page, "run: python -m benchmarks.report"
