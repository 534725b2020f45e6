"""The drawings of the eight domains: repeatable, held apart by split, answerable, not guessable, and cached."""

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embernet.data.llava import LlavaJson
from embernet.data.scores import best_guesses
from embernet.data.splits import SPLITS
from embernet.data.synth import ATTRIBUTES, DOMAINS, SynthDrawings, SynthSource, corpus, describe, draw
from embernet.data.synth.camera import SIDE, photograph
from embernet.data.synth.canvas import PLACES, Canvas
from embernet.data.synth.drawing import DESCRIBE, Text
from embernet.data.synth.priors import priors
from embernet.data.synth.typefaces import choose_typeface, typefaces
from embernet.data.synth.words import WORDS
from embernet.data.tokenizer import SPECIAL_TOKENS, UNKNOWN, build_tokenizer
from embernet.models.embernet.config import EXPERT_DOMAINS, EmberNetConfig
from embernet.training import pool
from embernet.training.patches import patch_labels
from tests.conftest import one_sentence

ROOT = Path(__file__).parent.parent
CONFIG = EmberNetConfig.preset("spark")


def texts(domain: str, split: str = "train", count: int = 150) -> list[Text]:
    return [describe(split, index, domain=domain) for index in range(count)]


def answers(text: Text) -> dict[str, tuple[str, str]]:
    return {question.kind: (question.prompt, question.answer) for question in text.questions}


# --- series and splits ----------------------------------------------------------------------------------------------


def test_there_is_a_generator_for_every_expert() -> None:
    assert DOMAINS == EXPERT_DOMAINS


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_drawing_depends_on_its_arguments_alone(domain: str) -> None:
    first, second = draw("test", 5, 1, domain), draw("test", 5, 1, domain)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.marks == second.marks
    assert first.image.size == (SIDE, SIDE)
    assert first.image.tobytes() != draw("test", 5, 2, domain).image.tobytes()
    text = describe("test", 5, 1, domain)
    assert (text.caption, text.questions) == (first.caption, first.questions)
    mixed = draw("test", 5 * len(DOMAINS) + DOMAINS.index(domain), 1)
    assert mixed.image.tobytes() == first.image.tobytes()


@pytest.mark.parametrize("domain", sorted({*DOMAINS} - {"agentic_knowledge", "code_math_formula"}))
def test_no_caption_is_in_two_splits(domain: str) -> None:
    few = re.compile(r"the number \d\d? .*")  # of these the caption, of longer numbers the number alone is held out
    contents: dict[str, set[str]] = {}
    for split in SPLITS:
        captions = {text.caption for text in texts(domain, split, 300)}
        contents[split] = {c if few.match(c) else re.sub(r"(the number \d+).*", r"\1", c) for c in captions}
    assert all(len(found) > 10 for found in contents.values())
    assert all(not contents[a] & contents[b] for a in SPLITS for b in SPLITS if a != b)


def test_no_formula_is_in_two_splits_in_one_color() -> None:
    contents: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for split in SPLITS:
        for index in range(60):
            drawing = draw(split, index, domain="code_math_formula")
            contents[split].add((drawing.caption, drawing.marks[0].color))
    assert all(not contents[a] & contents[b] for a in SPLITS for b in SPLITS if a != b)


def test_a_typeface_is_for_the_test_split_alone() -> None:
    rng = np.random.default_rng(0)
    used = {split: {choose_typeface(rng, split) for _ in range(100)} for split in SPLITS}
    held_out = {*typefaces("test")}
    assert used["test"] & held_out
    assert used["test"] - held_out
    assert not (used["train"] | used["validation"]) & held_out


# --- what is asked --------------------------------------------------------------------------------------------------


def test_the_tokenizer_knows_every_prompt_and_answer() -> None:
    tokenizer = build_tokenizer(corpus())
    unknown = SPECIAL_TOKENS.index(UNKNOWN)
    prompts = set(DESCRIBE)
    for domain in DOMAINS:
        for text in texts(domain) + texts(domain, "test", 50):
            prompts |= {text.caption, *(t for question in text.questions for t in (question.prompt, question.answer))}
    for text in prompts:
        ids = tokenizer.encode(text).ids
        assert unknown not in ids, text
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_question_can_be_answered_blindly(domain: str) -> None:
    scores = priors(domain, 400, 2500)
    captions_limit = 0.2 if domain == "agentic_knowledge" else 0.05  # there are only twelve symbols
    assert {kind for kind in scores if ":" not in kind}
    for kind, score in scores.items():
        limit = 0.68 if ":" in kind else captions_limit  # one of two is a common question
        assert score.prior <= limit, (kind, score)


@pytest.mark.parametrize("domain", DOMAINS)
def test_yes_and_no_are_balanced(domain: str) -> None:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for text in texts(domain, count=1200):
        for question in text.questions:
            if question.answer in ("yes", "no"):
                counts[f"{text.kind}: {question.kind}"][question.answer == "yes"] += 1
    for kind, (no, yes) in counts.items():
        assert 0.4 < yes / (no + yes) < 0.6, kind


def test_formulas_are_solved() -> None:
    for text in texts("code_math_formula"):
        formula, result = text.caption.split(" = ")
        a, sign, b = formula.split()
        expected = {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign]
        assert 0 <= expected == int(result) <= 20
        if "solve" in answers(text):
            assert answers(text)["solve"][1] == result


def test_charts_and_prices_are_compared() -> None:
    for text in texts("code_math_chart"):
        values = {letter: int(value) for letter, value in re.findall(r"(\w) (\d)", text.caption)}
        if "highest" in answers(text):
            assert answers(text)["highest"][1] == max(values, key=values.__getitem__)
        if "higher" in answers(text):
            (prompt, answer) = answers(text)["higher"]
            _, a, _, _, b = prompt.rstrip("?").split()
            assert (answer == "yes") == (values[a] > values[b])
    for text in texts("agentic_reasoning"):
        prices = [int(price) for price in re.findall(r"for (\d)", text.caption)]
        if "total" in answers(text):
            assert int(answers(text)["total"][1]) == sum(prices)
        if prices and "enough" in answers(text):
            assert (answers(text)["enough"][1] == "yes") == (sum(prices) <= 10)


def test_arrows_lead_where_the_caption_says() -> None:
    for text in texts("vision_diagram"):
        arrows = re.findall(r"(\w) points to (\w)", text.caption)
        if "points to" in answers(text):
            prompt, answer = answers(text)["points to"]
            targets = sorted(b for a, b in arrows if a == prompt.split()[2])
            assert answer == (" and ".join(targets) or "nothing")
        if "does it" in answers(text):
            prompt, answer = answers(text)["does it"]
            _, a, _, _, b = prompt.rstrip("?").split()
            assert (answer == "yes") == ((a, b) in arrows)


def test_the_words_are_those_of_the_list() -> None:
    page = (ROOT / "docs" / "synth.md").read_text(encoding="utf-8")
    assert page.partition("## The words")[2].split() == [*WORDS]
    assert len(WORDS) == len({*WORDS}) == 200
    words = {text.caption.split()[2] for text in texts("vision_ocr") if text.kind == "word"}
    assert words <= {*WORDS}


# --- where it is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_patch_can_be_labelled(domain: str) -> None:
    for index in range(15):
        drawing = draw("train", index, domain=domain)
        names = {ATTRIBUTES[0][i] for i in patch_labels(drawing.marks, 8, ATTRIBUTES)[0]}
        assert names - {""} <= {mark.name for mark in drawing.marks}
        assert len(names) > 1
        assert all(0 <= mark.x <= 1 and 0 <= mark.y <= 1 for mark in drawing.marks)


def test_printed_text_is_marked_character_by_character() -> None:
    for index in range(20):
        drawing = draw("train", index, domain="vision_ocr")
        text = drawing.caption.split()[2]
        marks = sorted(drawing.marks, key=lambda mark: mark.x)
        assert "".join(mark.name for mark in marks) == text
        assert [mark.size for mark in marks] == [*PLACES[: len(text)]]
        assert {mark.role for mark in marks} == {"" if text.isdigit() else text}


def test_a_mark_moves_with_what_it_marks() -> None:
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        canvas = Canvas((255, 255, 255), rng)
        canvas.rectangle(0.3, 0.6, 0.1, 0.05, (0, 0, 0))
        canvas.mark("thing", 0.3, 0.6, 0.1, 0.05)
        image, (mark,) = photograph(canvas, rng)
        sheet = np.asarray(image.convert("L"), np.float32)[8:-8, 8:-8]  # a dark table may show at the edges
        rows, columns = np.nonzero(sheet < 0.3 * np.median(sheet))
        near = (abs((columns + 8.5) / SIDE - mark.x) < 0.15) & (abs((rows + 8.5) / SIDE - mark.y) < 0.15)
        assert (columns[near].mean() + 8.5) / SIDE == pytest.approx(mark.x, abs=0.01)
        assert (rows[near].mean() + 8.5) / SIDE == pytest.approx(mark.y, abs=0.01)
        seen.add(round(mark.x, 3))
    assert len(seen) > 10


# --- readers and files ----------------------------------------------------------------------------------------------


def test_examples_are_those_of_the_series() -> None:
    source = SynthSource(SynthDrawings("validation", seed=3), 20)
    drawing, example = draw("validation", 9, 3), source[9]
    assert len(source) == 20
    assert example.domain == drawing.domain == DOMAINS[1]
    assert example.turns[0][0] in DESCRIBE
    assert example.turns[0][1] == drawing.caption
    assert example.turns[1:] == tuple((question.prompt, question.answer) for question in drawing.questions)
    assert source[1].turns[0][0] != example.turns[0][0]
    with pytest.raises(IndexError):
        source[20]


def test_a_pool_is_continued_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SHARD", 4)
    series = SynthDrawings("train", seed=1)
    done: list[int] = []
    whole = pool.render_pool(tmp_path / "whole", series, 10, CONFIG)
    pool.render_pool(tmp_path / "parts", series, 4, CONFIG, progress=done.append)
    parts = pool.render_pool(tmp_path / "parts", series, 10, CONFIG, progress=done.append)
    assert done == [4, 8, 10]
    assert pool.render_pool(tmp_path / "parts", series, 10, CONFIG, progress=done.append).texts == whole.texts
    assert done == [4, 8, 10]
    indices = [9, 0, 5]
    assert parts.texts == whole.texts
    assert parts.pixel_values(indices).equal(whole.pixel_values(indices))
    assert parts.labels(indices).equal(whole.labels(indices))
    drawing = series.drawing(5)
    image = drawing.image.resize((CONFIG.image_size,) * 2, Image.Resampling.BICUBIC)
    assert np.array_equal(whole.images[1][1], np.asarray(image))
    assert whole.texts[5] == Text(drawing.kind, drawing.caption, drawing.questions, drawing.domain)
    other = pool.render_pool(tmp_path / "whole", SynthDrawings("train", seed=2), 10, CONFIG)
    assert other.texts != whole.texts


def test_a_shard_that_was_broken_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pool, "write_text", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.render_pool(tmp_path, SynthDrawings("train"), 3, CONFIG)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(pool.render_pool(tmp_path, SynthDrawings("train"), 3, CONFIG)) == 3


def test_the_command_writes_images_and_conversations(cli, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    arguments = ("data", "synth", "--count", 9, "--split", "test", "--seed", 4)
    code, out, err = cli(*arguments, "-o", tmp_path / "a", "--contact-sheet", sheet, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["count"] == 9
    records = json.loads((tmp_path / "a" / "conversations.json").read_text())
    assert [record["domain"] for record in records] == [*DOMAINS, DOMAINS[0]]
    drawing = draw("test", 8, 4)
    assert records[8]["conversations"][1] == {"from": "gpt", "value": drawing.caption}
    assert records[8]["conversations"][0]["value"].startswith("<image>\n")
    with Image.open(tmp_path / "a" / records[8]["image"]) as image:
        assert image.tobytes() == drawing.image.tobytes()
    example = LlavaJson(tmp_path / "a" / "conversations.json")[8]
    assert (example.turns[0][1], example.domain) == (drawing.caption, drawing.domain)
    with Image.open(sheet) as image:
        assert image.width > 8 * SIDE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "sheet.png"]
    assert cli(*arguments, "-o", tmp_path / "b", "-q")[0] == 0
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_the_command_refuses_what_it_cannot_do(cli, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    code, _, err = cli("data", "synth", "-o", tmp_path, "--count", 1)
    assert code == 3
    one_sentence(err, f"{tmp_path}: exists already")
    code, _, err = cli("data", "synth", "-o", tmp_path / "a", "--domain", "cooking")
    assert code == 2
    assert "no such domain" in err
    assert not (tmp_path / "a").exists()


def test_a_prompt_that_is_new_is_guessed_by_its_kind() -> None:
    training = [text for text in texts("vision_ocr", count=50) if text.kind == "word"]
    guesses = best_guesses(training)
    assert guesses["word: is it"] in ("yes", "no")
