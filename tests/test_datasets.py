"""Readers of datasets: every form a person may have, and every way it may be wrong."""

import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from embernet.data.domains import DOMAINS
from embernet.data.example import Example
from embernet.data.loading import LoadedExample, SkipLog, Skipped, load_example
from embernet.data.records import Columns, record_turns
from embernet.data.registry import DATASETS
from embernet.data.sources import open_data_dir, open_source
from embernet.errors import InputError
from embernet.models.embernet.config import EXPERT_DOMAINS
from embernet.runtime.image import load_image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def save_image(path: Path, size: tuple[int, int] = (8, 6), value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 10, 20)).save(path)
    return path


def write_json(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def says(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]


def table(rows: int = 4, **columns: list) -> datasets.Dataset:
    """A table whose images are told apart by their width, 10 + row."""
    images = [Image.new("RGB", (10 + row, 5)) for row in range(rows)]
    values = {
        "image": images,
        "question": [f"q{row}" for row in range(rows)],
        "answer": [f"a{row}" for row in range(rows)],
    }
    return datasets.Dataset.from_dict(values | columns).cast_column("image", datasets.Image())


# --- records --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "turns", "references"),
    [
        ({"question": "What?", "answer": "a cat"}, [("What?", "a cat")], ()),
        ({"query": "How much?", "label": ["7"]}, [("How much?", "7")], ()),
        ({"question": "q", "answers": ["b", "a", "a", ""]}, [("q", "a")], ("b", "a")),
        ({"question": "q", "answers": [{"answer": "x", "answer_id": 1}, {"answer": "y"}]}, [("q", "x")], ("y",)),
        ({"questions": ["q1", "q2"], "answers": ["a1", "a2"]}, [("q1", "a1"), ("q2", "a2")], ()),
        ({"caption": "two cats"}, [("Describe this image.", "two cats")], ()),
        ({"question": "q", "choices": ["x", "y"], "answer": 1}, [("q\n\nChoices:\nA. x\nB. y", "y")], ()),
        ({"question": "q", "options": ["x", "y"], "answer": "B"}, [("q\n\nChoices:\nA. x\nB. y", "y")], ()),
        ({"question": "q", "choices": ["1", "2"], "answer": "1"}, [("q\n\nChoices:\nA. 1\nB. 2", "1")], ()),
        ({"question": "q", "choices": ["x", "y"], "correct_choice_idx": 0}, [("q\n\nChoices:\nA. x\nB. y", "x")], ()),
        ({"question": "q", "choices": None, "answer": "3"}, [("q", "3")], ()),
        ({"conversations": [*says("<image>\nHi", "A"), *says("And?", "B")]}, [("Hi", "A"), ("And?", "B")], ()),
        ({"messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "A"}]},
         [("Describe this image.", "A")], ()),
    ],
)  # fmt: skip
def test_a_record_becomes_a_conversation(record, turns, references):
    assert record_turns(record, Columns()) == (tuple(turns), references)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": "q", "answer": ""}, "no answer"),
        ({"answers": ["a"], "question": " "}, "no question"),
        ({"question": "q", "choices": ["x"], "answer": "F"}, "none of its choices"),
        ({"questions": ["q1", "q2"], "answers": ["a1"]}, "differ in number"),
        ({"conversations": says("Hi", "A")[:1]}, "no answer"),
        ({"conversations": says("Hi", "A")[1:]}, "does not alternate"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "unknown speaker"),
        ({"conversations": "Hi"}, "not a list of messages"),
    ],
)
def test_a_record_without_a_question_or_an_answer_says_so(record, reason):
    with pytest.raises(InputError, match=reason):
        record_turns(record, Columns())


def test_the_registry_says_what_column_names_do_not():
    ai2d = record_turns({"question": "q", "options": ["2", "3", "1"], "answer": "2"}, DATASETS["ai2d"].columns)
    assert ai2d[0][0][1] == "1"  # an index, though a choice reads the same
    vsr = record_turns({"caption": "The cat is on the mat.", "label": 0}, DATASETS["vsr"].columns)
    assert vsr[0] == (("The cat is on the mat. Is this true or false?", "false"),)


def test_every_expert_has_a_domain():
    assert [name for name, domain in sorted(DOMAINS.items(), key=lambda item: item[1].expert) if name != "general"] == [
        *EXPERT_DOMAINS
    ]
    assert sum(domain.curriculum_share for domain in DOMAINS.values()) == pytest.approx(1)
    assert sum(domain.plain_share for domain in DOMAINS.values()) == pytest.approx(1)


# --- LLaVA JSON -----------------------------------------------------------------------------------------------------


@pytest.fixture
def llava(tmp_path) -> Path:
    for name in ("a.png", "images/b.png", "coco/train/c.png"):
        save_image(tmp_path / "set" / name)
    records = [
        {"id": 1, "image": "a.png", "conversations": says("<image>\nWas für ein Tier? 🐈", "eine Katze")},
        {"id": "two", "image_path": "b.png", "question": "What?", "answer": "b", "domain": "vision_ocr"},
        {"image": "train/c.png", "question": "q", "answer": "c"},
        {"conversations": says("no image here", "right")},
    ]
    return write_json(tmp_path / "set" / "train.json", records)


@pytest.mark.parametrize("form", ["list", "lines", "unicode"])
def test_llava_json_is_read_in_any_order(llava, form):
    records = json.loads(llava.read_text())
    if form == "lines":
        llava.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n")
    if form == "unicode":
        llava.write_text("\ufeff" + json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    source = open_source(llava)
    assert len(source) == 4
    assert source[2] == Example("2", llava.parent / "coco/train/c.png", (("q", "c"),), "general")
    assert source[0].turns == (("Was für ein Tier? 🐈", "eine Katze"),)
    assert (source[1].domain, source[1].image) == ("vision_ocr", llava.parent / "images/b.png")
    assert source[3].image is None
    with pytest.raises(IndexError):
        source[4]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ("[]", "holds no records"),
        ('[{"image": "a.png"}', "it ends in the middle"),
        ('[{"image": "a.p', "not readable as JSON after 0 records"),
        ("[" * 100_000, "not readable as JSON"),
        ('[{"question": "q", "answer": "a"}]', "no record names an image"),
        ('[{"image": "gone.png", "question": "q", "answer": "a"}]', "none of the first 1 images is there"),
    ],
)
def test_json_that_is_no_dataset_says_why(tmp_path, text, reason):
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(InputError, match=reason) as error:
        open_source(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone.png", "no such image file"),
        ("empty.png", "the file is empty"),
        ("cut.png", "damaged"),
        ("text.png", "not an image"),
        ("../secret.png", "outside of the dataset"),
        ("http://localhost/a.png", "not fetched"),
        ("iVBORw0KGgo" * 1000, ": its image cannot be looked for (File name too long)"),
        (7, "found int"),
    ],
)
def test_a_broken_image_is_skipped_with_its_reason(tmp_path, name, reason):
    folder = tmp_path / "set"
    good = save_image(folder / "good.png", (64, 64))
    save_image(tmp_path / "secret.png")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes(good.read_bytes()[:60])
    (folder / "text.png").write_text("hello")
    records = [{"image": image, "question": "q", "answer": "a"} for image in ("good.png", name)]
    source = open_source(write_json(folder / "train.json", records))
    good_, bad = (load_example(source, index) for index in range(2))
    assert isinstance(good_, LoadedExample)
    assert isinstance(bad, Skipped)
    assert (bad.source, bad.index) == ("train", 1)
    assert reason in bad.reason


def test_no_more_images_of_a_record_are_decoded_than_fit_side_by_side(tmp_path, monkeypatch):
    save_image(tmp_path / "wide.png", (4000, 1000))
    records = [{"image": ["wide.png"] * count, "question": "q", "answer": "a"} for count in (2, 1000)]
    decoded = []
    monkeypatch.setattr("embernet.data.images.load_image", lambda path: decoded.append(path) or load_image(path))
    source = open_source(write_json(tmp_path / "train.json", records))
    assert load_example(source, 0).image.size == (8000, 1000)
    assert "its 1000 images are too large side by side" in load_example(source, 1).reason
    assert len(decoded) == 2 + 7


def test_a_record_that_is_not_utf8_is_skipped(llava):
    llava.write_bytes(llava.read_bytes().replace(b"eine Katze", b"ein K\xe4tzchen"))
    source = open_source(llava)
    assert "record 0 cannot be used: 'utf-8' codec" in load_example(source, 0).reason
    assert isinstance(load_example(source, 1), LoadedExample)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"domain": "vision_orc"}, "its domain is not known .found 'vision_orc'"),
        ({"domain": ["vision_ocr"]}, "its domain is not known .found .'vision_ocr'"),
        ({"conversations": [{"from": ["human"], "value": "q"}]}, "an unknown speaker .found .'human'"),
        ({"conversations": says("What is \ud83d?", "a cat")}, "half of a character"),
        ({"conversations": [], "question": "q", "choices": ["a", "b"], "answer": "1" * 5000}, "none of its choices"),
    ],
)
def test_a_record_with_a_wrong_value_is_not_usable(llava, values, reason):
    records = json.loads(llava.read_text())
    records[0] |= values
    source = open_source(write_json(llava, records))
    with pytest.raises(InputError, match=f"train: record 0 cannot be used: .*{reason}"):
        source[0]


def test_the_skip_log_counts_each_example_once():
    log = SkipLog()
    for source, index in (("b", 2), ("a", 1), ("b", 2), ("b", 1)):
        log.add(Skipped(source, index, "broken"))
    assert len(log) == 3
    assert log.counts() == {"a": 1, "b": 2}
    assert [(skipped.source, skipped.index) for skipped in log.listed()] == [("a", 1), ("b", 1), ("b", 2)]


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_of_images_with_captions(tmp_path):
    for name, size in (("a.png", (8, 8)), ("sub/b.jpg", (30, 10)), ("c.webp", (5, 9)), ("d.png", (4, 4))):
        save_image(tmp_path / "photos" / name, size)
    (tmp_path / "photos/a.txt").write_text(" a red square \n")
    write_json(tmp_path / "photos/sub/b.json", {"question": "What?", "answer": "b", "domain": "spatial_scene"})
    write_json(tmp_path / "photos/c.json", {"caption": "a leaf"})
    source = open_source(tmp_path / "photos")
    loaded = [load_example(source, index) for index in range(len(source))]
    assert [item.example.id for item in loaded[:2]] == ["a.png", "c.webp"]
    assert loaded[0].example.turns == (("Describe this image.", "a red square"),)
    assert loaded[1].image.size == (5, 9)
    assert loaded[2].reason == "photos: d.png cannot be used: it has no caption"
    assert (loaded[3].example.domain, loaded[3].image.size) == ("spatial_scene", (30, 10))  # images of mixed sizes


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "the folder is empty"),
        (["readme.md"], "holds no images"),
        (["a.png"], r"none of its 1 images has a caption \(expected a.txt or a.json beside it\)"),
        (["one.json", "two.json"], r"several JSON files \(one.json, two.json\)"),
    ],
)
def test_a_folder_that_is_no_dataset_says_why(tmp_path, files, reason):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=reason) as error:
        open_source(tmp_path)
    assert str(error.value).startswith(str(tmp_path))


def test_a_folder_of_datasets_names_one(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "cats.json").touch()
    (tmp_path / "cats" / "1.png").touch()
    with pytest.raises(InputError, match="none of its 1 images has a caption") as error:
        open_source(tmp_path)
    assert str(tmp_path / "cats") in error.value.hint


def test_what_is_no_dataset_at_all_says_why(tmp_path):
    with pytest.raises(InputError, match="no such dataset"):
        open_source(tmp_path / "gone")
    (tmp_path / "notes.docx").touch()
    with pytest.raises(InputError, match="expected .json, .jsonl, .parquet or a folder"):
        open_source(tmp_path / "notes.docx")


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["saved", "saved_splits", "parquet", "parquet_folder"])
def test_tables_are_read_in_any_order(tmp_path, form):
    path = tmp_path / "set"
    if form == "saved":
        table().save_to_disk(path)
    elif form == "saved_splits":
        datasets.DatasetDict({"train": table(), "validation": table(2)}).save_to_disk(path)
    elif form == "parquet":
        path = tmp_path / "set.parquet"
        table(5).to_parquet(path)
    else:
        (path / "data").mkdir(parents=True)
        for name, rows in (("train-00000-of-00002", 3), ("train-00001-of-00002", 1), ("validation-00000-of-00001", 2)):
            table(rows).to_parquet(path / "data" / f"{name}.parquet")
    source = open_source(path, name="mine")
    assert source.name == "mine"
    loaded = load_example(source, 2)
    assert (loaded.example.id, loaded.example.turns, loaded.image.size) == ("2", (("q2", "a2"),), (12, 5))
    if form != "saved":
        assert len(source) == (5 if form == "parquet" else 4)
    if form in ("saved_splits", "parquet_folder"):
        assert len(open_source(path, "validation")) == 2


def test_rows_without_an_image_or_with_several(tmp_path):
    one, two = Image.new("RGB", (4, 3), "red"), Image.new("RGB", (6, 9), "blue")
    rows = {"images": [[one], [one, two], []], "question": ["q"] * 3, "answer": ["a"] * 3}
    features = {"images": datasets.List(datasets.Image()), "question": datasets.Value("string")}
    features["answer"] = datasets.Value("string")
    datasets.Dataset.from_dict(rows, datasets.Features(features)).save_to_disk(tmp_path / "set")
    source = open_source(tmp_path / "set")
    single, several, none = (load_example(source, index).image for index in range(3))
    assert (single.size, several.size, none) == ((4, 3), (10, 9), None)
    assert several.getpixel((0, 0)) == (255, 0, 0)
    assert several.getpixel((9, 8)) == (0, 0, 255)
    assert several.getpixel((0, 8)) == (255, 255, 255)


def test_records_that_share_images_find_them_by_id(tmp_path):
    """The form of GQA, many questions about one image."""
    folder = tmp_path / "gqa"
    questions = {"imageId": ["n2", "n1", "n9"], "question": ["q"] * 3, "answer": ["a"] * 3}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(questions)}).save_to_disk(folder)
    images = table(2, id=["n1", "n2"]).select_columns(["id", "image"])
    images.save_to_disk(folder / "images")
    source = open_source(folder, entry=DATASETS["gqa"])
    assert [load_example(source, index).image.width for index in range(2)] == [11, 10]
    assert "n9 is not in the table of images" in load_example(source, 2).reason


def test_broken_bytes_in_a_table_are_skipped(tmp_path):
    rows = {"image": [{"bytes": b"", "path": None}, {"bytes": b"no image", "path": "x.png"}], "caption": ["a", "b"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "set.parquet")
    source = open_source(tmp_path / "set.parquet")
    reasons = [load_example(source, index).reason for index in range(2)]
    assert "its image is empty" in reasons[0]
    assert "not an image" in reasons[1]


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_damaged_tables_say_so(tmp_path, form):
    path = tmp_path / "set"
    if form == "parquet":
        path = tmp_path / "set.parquet"
        table().to_parquet(path)
        path.write_bytes(path.read_bytes()[:-20])
    else:
        table().save_to_disk(path)
        (arrow,) = path.glob("*.arrow")
        arrow.write_bytes(b"")
    with pytest.raises(InputError, match="not readable as"):
        open_source(path)


def test_a_table_without_images_says_which_columns_it_has(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"], "label": [1]}).to_parquet(tmp_path / "set.parquet")
    with pytest.raises(InputError, match="no column with images .found text, label; expected image or"):
        open_source(tmp_path / "set.parquet")


# --- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("splits", "train", "validation"),
    [
        ({"train": 25}, range(23), range(23, 25)),
        ({"train": 4, "val": 2, "test": 1}, range(4), range(2)),
        ({"validation": 20, "test": 9}, range(18), range(18, 20)),  # as published for evaluation only
        ({"test": 10}, range(9), range(9, 10)),
    ],
)
def test_the_last_tenth_is_kept_where_nothing_is_named_validation(tmp_path, splits, train, validation):
    tables = {name: table(rows, source=[name] * rows) for name, rows in splits.items()}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "set")
    for split, expected in (("train", train), ("validation", validation)):
        source = open_source(tmp_path / "set", split)
        assert [int(source[index].id) for index in range(len(source))] == list(expected)
    if len(splits) == 1:
        with pytest.raises(InputError, match="no split for test"):
            open_source(tmp_path / "set", "test")


def test_a_dataset_too_small_for_a_validation_split_says_so(tmp_path):
    table(3).save_to_disk(tmp_path / "set")
    assert len(open_source(tmp_path / "set")) == 3
    with pytest.raises(InputError, match="too few"):
        open_source(tmp_path / "set", "validation")


# --- prepared directories -------------------------------------------------------------------------------------------


def prepared(folder: Path, generation: str) -> None:
    """A data directory as one of the published generations left it, moved since."""
    for key in ("textvqa", "llava_instruct_150k"):
        datasets.DatasetDict({"train": table(20), "validation": table(3)}).save_to_disk(folder / key)
    if generation == "first":
        stages = {"textvqa": (2, "vision_ocr"), "llava_instruct_150k": (1, "general")}
        listed = {
            key: {"path": f"/elsewhere/{key}", "dataset_key": key, "stage": stage, "domain": domain}
            for key, (stage, domain) in stages.items()
        }
        by = {"by_stage": {"1": ["llava_instruct_150k"], "2": ["textvqa"]}, "by_domain": {}}
        write_json(folder / "dataset_index.json", {"version": "1.0", "datasets": listed} | by)
    elif generation == "second":
        entry = {"hf_name": "lmms-lab/textvqa", "config": "default", "stage": 2, "domain": "vision_ocr"}
        listed = {"textvqa": entry | {"splits": ["train"], "usable_samples": 4}, "gone": entry}
        listed["llava_instruct_150k"] = {"stage": 1, "domain": "general", "num_samples": {"train": 4}}
        write_json(folder / "dataset_index.json", {"generated_at": "2026-03-01", "mode": "all", "datasets": listed})
    else:
        write_json(folder / "textvqa/metadata.json", {"dataset_key": "textvqa", "stage": 2, "domain": "vision_ocr"})
        write_json(folder / "llava_instruct_150k/metadata.json", {"dataset_key": "llava_instruct_150k", "stage": 1})


@pytest.mark.parametrize("generation", ["first", "second", "metadata alone"])
def test_both_generations_of_data_directories_are_read(tmp_path, generation):
    prepared(tmp_path / "data", generation)
    (first,) = open_data_dir(tmp_path / "data", 1)
    (second,) = open_data_dir(tmp_path / "data", 2, "validation")
    assert (first.name, len(first), first[0].domain) == ("llava_instruct_150k", 20, "general")
    assert (second.name, len(second), second[0].domain) == ("textvqa", 3, "vision_ocr")


def test_images_that_a_prepared_dataset_only_names_lie_in_one_folder(tmp_path):
    records = [{"image": "coco/train2017/9.jpg", "conversations": says("Hi", "A")}]
    write_json(tmp_path / "sharegpt4v/cap100k.json", records)
    write_json(tmp_path / "sharegpt4v/metadata.json", {"dataset_key": "sharegpt4v", "stage": 1})
    with pytest.raises(InputError, match="none of the first 1 images is there") as error:
        open_data_dir(tmp_path, 1)
    assert error.value.hint == f"put the images of sharegpt4v into {tmp_path}/images, or remove {tmp_path}/sharegpt4v"
    save_image(tmp_path / "images/coco/train2017/9.jpg")
    (source,) = open_data_dir(tmp_path, 1)
    assert source[0].image == tmp_path / "images/coco/train2017/9.jpg"


def test_a_stage_without_data_says_what_there_is(tmp_path):
    write_json(tmp_path / "textvqa/metadata.json", {"dataset_key": "textvqa", "stage": 2})
    with pytest.raises(InputError, match="no dataset for stage 1 .found textvqa for stage 2"):
        open_data_dir(tmp_path, 1)


def test_a_data_directory_is_not_a_dataset(tmp_path):
    prepared(tmp_path / "data", "first")
    with pytest.raises(InputError, match="a data directory, not a dataset .datasets in it: llava_instruct_150k, textv"):
        open_source(tmp_path / "data")


def test_any_dataset_is_a_data_directory(llava):
    for stage in (1, 2):
        (source,) = open_data_dir(llava, stage)
        assert len(source) == 4


def test_memory_does_not_grow_with_the_file(tmp_path):
    """A record is read when asked for: the index of a file is 16 bytes per record."""
    save_image(tmp_path / "a.png")
    answer = "x" * 2000
    path = write_json(tmp_path / "big.json", [{"image": "a.png", "question": "q", "answer": answer}] * 5000)
    source = open_source(path)
    assert len(pickle.dumps(source)) < path.stat().st_size / 50  # what goes to each worker of a loader
    assert source[np.random.default_rng(0).integers(4000)].turns == (("q", answer),)
