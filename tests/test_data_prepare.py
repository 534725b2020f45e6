"""`embernet data`: the registry, fetching from a hub that a folder stands in for, verifying, showing."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from huggingface_hub import DryRunFileInfo
from huggingface_hub.errors import DryRunError, GatedRepoError, RepositoryNotFoundError

from embernet.data.loading import LoadedExample, load_example
from embernet.data.prepared import read_runs
from embernet.data.registry import DATASETS, GROUPS, group, total_size_gb
from embernet.data.sources import open_data_dir
from embernet.models.embernet.config import EXPERT_DOMAINS
from tests.conftest import one_sentence
from tests.test_datasets import save_image, says, table, write_json


class Hub:
    """Repositories in folders, fetched like the hub's; `fail` makes the next fetch break off after one file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []
        self.fail: BaseException | None = None

    def snapshot_download(self, repository, *, repo_type, allow_patterns, local_dir, dry_run):
        assert (repo_type, dry_run) == ("dataset", True)
        if isinstance(self.fail, Exception):
            raise self.fail
        folder = self.root / repository
        if not folder.is_dir():
            raise not_found(RepositoryNotFoundError)
        files = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        files = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns)]
        there = [(Path(local_dir) / name).exists() for name in files]
        return [
            DryRunFileInfo("0" * 40, (folder / name).stat().st_size, name, "", is_there, not is_there)
            for name, is_there in zip(files, there, strict=True)
        ]

    def hf_hub_download(self, repository, name, *, repo_type, revision, local_dir):
        assert (repo_type, revision) == ("dataset", "0" * 40)
        target = Path(local_dir) / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.root / repository / name, target)
            self.fetched.append(name)
            if self.fail is not None:
                raise self.fail


def not_found(kind: type) -> Exception:
    response = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
    return kind("404", response=response)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    """A hub with textvqa in three files, DocVQA in a part of a repository, and LLaVA in two repositories."""
    fake = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    for name, rows in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("validation-00000-of-00001", 2)):
        save_parquet(fake.root / f"lmms-lab/textvqa/data/{name}.parquet", rows)
    save_parquet(fake.root / "lmms-lab/DocVQA/DocVQA/validation-00000-of-00001.parquet", 10)
    save_parquet(fake.root / "lmms-lab/DocVQA/InfographicVQA/validation-00000-of-00001.parquet", 20)
    records = [{"image": "000000000009.jpg", "conversations": says("<image>\nWhat?", "a cat")}]
    write_json(fake.root / "liuhaotian/LLaVA-Instruct-150K/llava_instruct_150k.json", records)
    write_json(fake.root / "liuhaotian/LLaVA-Instruct-150K/llava_instruct_80k.json", records)
    archive = fake.root / "adamo1139/llava-instruct-150k-with-images/train2017.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.write(save_image(tmp_path / "9.jpg"), "train2017/000000000009.jpg")
        file.write(save_image(tmp_path / "9.jpg"), "../../../outside.jpg")
    return fake


def save_parquet(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table(rows).to_parquet(path)


# --- the registry ---------------------------------------------------------------------------------------------------


def test_the_groups_are_the_published_ones_with_true_sums():
    counts = {name: (len(group(name)), total_size_gb(group(name))) for name in GROUPS}
    assert counts == {"minimal": (4, 33.0), "critical": (9, 48.5), "recommended": (17, 91.5), "all": (26, 158.8)}
    published = [entry for entry in DATASETS.values() if not entry.added]
    assert (len(published), total_size_gb(published)) == (20, 127.5)


def test_every_dataset_is_for_the_projector_or_an_expert():
    for entry in DATASETS.values():
        assert (entry.expert is None) == (entry.stage == 1), entry.key
    experts = {entry.expert for entry in DATASETS.values() if entry.stage == 2}
    assert experts == set(range(len(EXPERT_DOMAINS)))


def test_list_and_explain_name_every_dataset(cli):
    code, out, err = cli("data", "prepare", "--list")
    assert (code, err) == (0, "")
    assert "--recommended   17 datasets   91.5 GB" in out
    explained = cli("data", "prepare", "--explain")[1]
    assert all(key in out and key in explained for key in DATASETS)
    listed = json.loads(cli("data", "prepare", "--list", "--json")[1])
    assert listed["schema"] == "embernet.datasets/1"
    assert [entry["key"] for entry in listed["datasets"]] == list(DATASETS)
    assert listed["groups"]["minimal"]["size_gb"] == 33.0


# --- fetching -------------------------------------------------------------------------------------------------------


def test_prepare_fetches_what_is_missing_and_says_what_there_is(cli, hub, tmp_path):
    data = tmp_path / "data"
    code, out, err = cli("data", "prepare", "--dataset", "textvqa", "docvqa", "-o", data)
    assert (code, out) == (0, "textvqa: success\ndocvqa: success\n")
    assert "embernet: docvqa: 10 samples" in err
    metadata = json.loads((data / "textvqa/metadata.json").read_text())
    assert metadata["num_samples"] == {"train": 5, "validation": 2}
    assert (metadata["total_samples"], metadata["hf_name"]) == (7, "lmms-lab/textvqa")
    assert (metadata["stage"], metadata["expert"]) == (2, "Expert 0: vision_ocr")
    index = json.loads((data / "dataset_index.json").read_text())
    assert index["by_stage"] == {"1": [], "2": ["textvqa", "docvqa"]}
    assert index["by_domain"] == {"vision_ocr": ["textvqa", "docvqa"]}
    train, validation = open_data_dir(data, 2), open_data_dir(data, 2, "validation")
    assert [(source.name, len(source)) for source in train] == [("textvqa", 5), ("docvqa", 9)]
    assert [len(source) for source in validation] == [2, 1]
    assert not list(data.glob(".*.part"))  # nothing is kept twice

    hub.fetched.clear()
    assert cli("data", "prepare", "--dataset", "textvqa", "-o", data)[:2] == (0, "textvqa: present\n")
    assert not hub.fetched
    assert cli("data", "prepare", "--dataset", "textvqa", "-o", data, "--force", "--json")[0] == 0
    assert len(hub.fetched) == 3
    runs = read_runs(data)
    assert [run["successful_downloads"] for run in runs] == [2, 1]
    assert runs[0]["downloads"][0]["metadata"]["total_samples"] == 7


def test_images_in_an_archive_are_unpacked_and_nothing_outside(cli, hub, tmp_path):
    data = tmp_path / "data"
    assert cli("data", "prepare", "--dataset", "llava_instruct_150k", "-o", data)[0] == 0
    assert "llava_instruct_80k.json" not in hub.fetched
    (source,) = open_data_dir(data, 1)
    assert source[0].image == data / "llava_instruct_150k/train2017/000000000009.jpg"
    assert (data / "llava_instruct_150k/outside.jpg").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "data", "9.jpg"}


def test_images_that_questions_share_are_kept_once(cli, hub, tmp_path):
    folder = hub.root / "lmms-lab/GQA"
    for name, part in (
        ("train_balanced_instructions", table(3, imageId=["n1", "n0", "n1"]).remove_columns("image")),
        ("train_balanced_images", table(2, id=["n0", "n1"]).select_columns(["id", "image"])),
        ("train_all_images", table(9)),
    ):
        (folder / name).mkdir(parents=True)
        part.to_parquet(folder / name / "train-00000-of-00001.parquet")
    data = tmp_path / "data"
    assert cli("data", "prepare", "--dataset", "gqa", "-o", data)[0] == 0
    assert len(hub.fetched) == 2
    (source,) = open_data_dir(data, 2)
    assert [load_example(source, index).image.width for index in range(3)] == [11, 10, 11]


def test_an_archive_is_unpacked_where_the_records_say(cli, hub, tmp_path):
    names = hub.root / "FreedomIntelligence/ALLaVA-4V/allava_vflan/ALLaVA-Instruct-VFLAN-4V.json"
    write_json(names, [{"image": "allava_vflan/images/set/a.png", "conversations": says("Hi", "A")}])
    archive = hub.root / "Vision-Flan/vision-flan_191-task_1k/image_191-task_1k.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.write(save_image(tmp_path / "a.png"), "set/a.png")
    assert cli("data", "prepare", "--dataset", "allava_instruct", "-o", tmp_path / "data")[0] == 0
    (source,) = open_data_dir(tmp_path / "data", 1)
    assert isinstance(load_example(source, 0), LoadedExample)


def test_what_was_fetched_before_an_interruption_is_not_fetched_again(cli, hub, tmp_path):
    data = tmp_path / "data"
    hub.fail = KeyboardInterrupt()
    assert cli("data", "prepare", "--dataset", "textvqa", "-o", data)[0] == 130
    assert not (data / "textvqa").exists()
    hub.fail = None
    assert cli("data", "prepare", "--dataset", "textvqa", "-o", data)[0] == 0
    assert sorted(set(hub.fetched)) == sorted(hub.fetched)
    assert len(hub.fetched) == 3


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (DryRunError("no network"), 7, "lmms-lab/textvqa cannot be fetched (no network)"),
        (OSError(28, "No space left on device"), 1, "textvqa: failed: lmms-lab/textvqa cannot be fetched (the disk"),
        (not_found(GatedRepoError), 1, "textvqa: failed: lmms-lab/textvqa: asks for an account"),
        (not_found(RepositoryNotFoundError), 1, "textvqa: failed: lmms-lab/textvqa: is not on the hub"),
    ],
)
def test_what_cannot_be_fetched_says_why(cli, hub, tmp_path, failure, code, message):
    hub.fail = failure
    found, _, err = cli("data", "prepare", "--dataset", "textvqa", "-o", tmp_path / "data")
    assert found == code
    one_sentence(err, message)
    (run,) = read_runs(tmp_path / "data")
    assert (run["successful_downloads"], run["failed_downloads"]) == (0, 1)


def test_a_dataset_that_fails_does_not_stop_the_others(cli, hub, tmp_path):
    code, out, _ = cli("data", "prepare", "--dataset", "figureqa", "docvqa", "-o", tmp_path, "--json")
    assert code == 1
    assert [entry["status"] for entry in json.loads(out)["downloads"]] == ["failed", "success"]


def test_a_dataset_larger_than_the_disk_is_not_begun(cli, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    code, _, err = cli("data", "prepare", "--dataset", "textvqa", "-o", tmp_path)
    assert code == 1
    assert "does not fit on the disk" in err
    assert not hub.fetched


def test_a_disk_that_fills_up_is_one_sentence_and_nothing_half_made(cli, hub, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(datasets.DatasetDict, "save_to_disk", full)
        code, _, err = cli("data", "prepare", "--dataset", "docvqa", "-o", tmp_path / "data")
    assert code == 1
    assert "docvqa: could not be made ready (No space left on device); what was fetched is kept" in err
    assert not (tmp_path / "data/docvqa").exists()
    assert cli("data", "prepare", "--dataset", "docvqa", "-o", tmp_path / "data")[0] == 0
    assert len(hub.fetched) == 1


def test_a_folder_in_the_way_is_not_replaced_unasked(cli, hub, tmp_path):
    (tmp_path / "textvqa").mkdir()
    (tmp_path / "textvqa/mine.txt").touch()
    assert cli("data", "prepare", "--dataset", "textvqa", "-o", tmp_path)[0] == 1
    assert (tmp_path / "textvqa/mine.txt").exists()


def test_a_damaged_archive_is_fetched_again_next_time(cli, hub, tmp_path):
    archive = hub.root / "adamo1139/llava-instruct-150k-with-images/train2017.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-30])
    data = tmp_path / "data"
    code, _, err = cli("data", "prepare", "--dataset", "llava_instruct_150k", "-o", data)
    assert (code, "not a whole ZIP archive" in err) == (1, True)
    archive.write_bytes(whole)
    assert cli("data", "prepare", "--dataset", "llava_instruct_150k", "-o", data)[0] == 0


def test_the_manifest_of_the_second_generation_is_continued(cli, hub, tmp_path):
    values = {"download_timestamp": "2026-03-01", "mode": "minimal", "successful": ["chartqa"], "failed": ["vqav2"]}
    write_json(tmp_path / "download_manifest.json", values | {"datasets": {}, "total_datasets": 2})
    assert cli("data", "prepare", "--dataset", "docvqa", "-o", tmp_path)[0] == 0
    old, new = read_runs(tmp_path)
    assert [download["dataset_key"] for download in old["downloads"]] == ["chartqa", "vqav2"]
    assert (old["failed_downloads"], new["successful_downloads"]) == (1, 1)


def test_a_dry_run_needs_no_network_and_writes_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    write_json(tmp_path / "data/textvqa/metadata.json", {"dataset_key": "textvqa"})
    code, out, _ = cli("data", "prepare", "--minimal", "--dry-run", "--output-dir", tmp_path / "data")
    assert code == 0
    assert "3 to fetch, 31 GB as published" in out
    plan = json.loads(cli("data", "prepare", "--all", "--dry-run", "-o", tmp_path / "none", "--json")[1])
    assert (len(plan["datasets"]), plan["missing_gb"]) == (26, 158.8)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--dataset", "textqva"], 1, "textqva: no such dataset (perhaps textvqa"),
        (["--dataset", "xyz"], 1, "xyz: no such dataset (known: llava_instruct_150k, "),
        (["--verify", "-o", "none"], 3, "none: holds no prepared datasets"),
    ],
)
def test_wrong_names_and_places_are_one_sentence(cli, arguments, code, message):
    found, _, err = cli("data", "prepare", *arguments)
    assert found == code
    one_sentence(err, message)


@pytest.mark.parametrize("arguments", [["--minimal", "--all"], ["--list", "--verify"], ["textvqa"]])
def test_one_action_at_a_time(cli, arguments):
    assert cli("data", "prepare", *arguments)[0] == 2


def test_no_action_is_help(cli):
    code, out, _ = cli("data", "prepare")
    assert (code, "--recommended" in out) == (1, True)


def test_only_one_prepares_a_directory_at_a_time(cli, hub, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".prepare.lock"):
        code, _, err = cli("data", "prepare", "--dataset", "docvqa", "-o", tmp_path)
    assert (code, "another embernet is preparing" in err) == (1, True)


# --- verifying and showing ------------------------------------------------------------------------------------------


def test_verify_counts_samples_and_lists_broken_images(cli, hub, tmp_path):
    data = tmp_path / "data"
    cli("data", "prepare", "--dataset", "textvqa", "llava_instruct_150k", "-o", data)
    code, out, _ = cli("data", "prepare", "--verify", "-o", data)
    assert (code, out.splitlines()[1]) == (0, "textvqa: ok (7 samples, 7 images from 10 x 5 to 12 x 5, 0 without)")

    broken = table(5, image=[{"bytes": b"", "path": None}] + [{"bytes": b"x", "path": None}] * 4)
    shutil.rmtree(data / "textvqa/train")
    broken.save_to_disk(data / "textvqa/train")
    (data / "llava_instruct_150k/train2017/000000000009.jpg").write_bytes(b"")
    code, out, _ = cli("data", "prepare", "--verify", "-o", data, "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (1, False)
    llava, textvqa = report["datasets"]
    assert "the file is empty" in llava["broken"][0]["reason"]
    assert (textvqa["samples"], textvqa["images"], len(textvqa["broken"])) == (7, 2, 5)
    assert textvqa["broken"][0]["source"] == "textvqa/train"


def test_verify_misses_samples_that_are_gone(cli, hub, tmp_path):
    cli("data", "prepare", "--dataset", "textvqa", "-o", tmp_path)
    shutil.rmtree(tmp_path / "textvqa/train")
    table(1).save_to_disk(tmp_path / "textvqa/train")
    code, out, _ = cli("data", "prepare", "--verify", "-o", tmp_path)
    assert (code, "its metadata says 7 samples" in out) == (1, True)


def test_show_prints_what_training_would_see(cli, hub, tmp_path):
    cli("data", "prepare", "--dataset", "docvqa", "-o", tmp_path)
    code, out, _ = cli("data", "show", tmp_path / "docvqa", "-n", 1)
    assert (code, out) == (0, f"{tmp_path / 'docvqa'}: 9 examples\n0  10 x 5  vision_ocr\n  > q0\n    a0\n")
    shown = json.loads(cli("data", "show", tmp_path / "docvqa", "--split", "validation", "--json")[1])
    assert shown["examples"][0]["turns"] == [{"prompt": "q9", "answer": "a9"}]


def test_show_holds_one_image_at_a_time_and_prints_any_name(cli, tmp_path, monkeypatch):
    for name in ("a", "b", "c", os.fsdecode(b"caf\xe9")):
        save_image(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a leaf")
    images, held = [], []

    def load(source, index):
        loaded = load_example(source, index)
        images.append(weakref.ref(loaded.image))
        held.append(sum(image() is not None for image in images))
        return loaded

    monkeypatch.setattr("embernet.data.loading.load_example", load)
    code, out, err = cli("data", "show", tmp_path, "-n", 4)
    assert (code, err) == (0, "")
    assert "caf\\udce9.png  8 x 6  general" in out
    assert max(held) == 2  # the last one, and the one that is read


def test_listing_imports_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['embernet', 'data', 'prepare', '--list']\n"
        "from embernet.cli.app import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'datasets', 'pyarrow', 'pandas', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_without_the_extra_the_sentence_says_how_to_install_it(cli, tmp_path, monkeypatch):
    table().save_to_disk(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "datasets", None)
    code, _, err = cli("data", "show", tmp_path / "set")
    assert (code, "pip install 'embernet[train]'" in err) == (6, True)
