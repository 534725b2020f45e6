"""Opening bundles: names, and every way in which a bundle can be wrong."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from embernet.errors import BundleError
from embernet.runtime import load
from embernet.runtime.bundle import bundle_names, open_bundle


@pytest.fixture
def bundle(tiny_bundle, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy.ember"))


def edit(bundle: Path, change: Callable[[dict], object]) -> None:
    path = bundle / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def refused(path: Path | str, match: str) -> BundleError:
    with pytest.raises(BundleError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_whole_bundle_verifies(bundle):
    seen = []
    opened = open_bundle(bundle)
    opened.verify(seen.append)
    assert sum(seen) == opened.size()


@pytest.mark.parametrize("name", ["weights.bin", "decoder.onnx", "vision.onnx", "tokenizer.json"])
def test_a_flipped_byte_is_found(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name}: the content does not match"):
        open_bundle(bundle).verify()


def test_a_cut_file_is_found_without_verifying(bundle):
    os.truncate(bundle / "weights.bin", 1000)
    refused(bundle, r"weights.bin: wrong size .found 1000 bytes, expected \d+")


def test_a_missing_file_is_found_without_verifying(bundle):
    (bundle / "vision.onnx").unlink()
    refused(bundle, "vision.onnx: missing from the bundle")


def test_a_newer_format_says_to_upgrade(bundle):
    edit(bundle, lambda m: m.update(format_version=2))
    assert "upgrade" in refused(bundle, "format version 2; this embernet reads up to 1").hint


def test_unknown_names_list_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("sprak", "sprak: no bundle of this name .known: ")
    refused("models/mine.ember", "no such bundle")


def test_a_bundle_in_the_users_folder_has_a_name(bundle, monkeypatch):
    monkeypatch.setenv("EMBERNET_HOME", str(bundle.parent))
    assert bundle_names()["copy"] == bundle
    assert load("copy").manifest.name == "tiny"


def test_things_that_are_not_bundles(tmp_path):
    refused(tmp_path, "not a bundle .it holds no manifest.json")
    (tmp_path / "photo.png").write_bytes(b"png")
    refused(tmp_path / "photo.png", "a bundle is a directory")
    for content in ("{", "\xff", "[" * 100_000):
        (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
        refused(tmp_path, "not readable as JSON")
    for content in ("[]", "null"):
        (tmp_path / "manifest.json").write_text(content)
        refused(tmp_path, "expected an object")
    (tmp_path / "manifest.json").write_text("{}")
    refused(tmp_path, "not an embernet bundle")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", "a\\b", "manifest.json"])
def test_files_outside_the_bundle_are_never_touched(bundle, name):
    edit(bundle, lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    refused(bundle, "is not a plain file name")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.pop("config"), "config is missing or wrong"),
        (lambda m: m.update(format_version="1"), "format_version is missing or wrong"),
        (lambda m: m.update(format_version=True), "format_version is missing or wrong"),
        (lambda m: m.update(family="gpt"), "unknown model family 'gpt'"),
        (lambda m: m["files"].update({"weights.bin": 3}), "files.weights.bin: expected an object"),
        (lambda m: m["files"]["weights.bin"].update(bytes=-1), "bytes is -1"),
        (lambda m: m["image"].update(size=10**9), "size is 1000000000"),
        (lambda m: m["image"].update(mean=[0.5]), "mean must hold 3 numbers"),
        (lambda m: m["image"].update(resample="magic"), "resample is 'magic'"),
        (lambda m: m.update(experts=[1, 2]), "experts must hold texts"),
        (lambda m: m["prompt"].update(template="hello"), "template must hold .prompt. exactly once"),
        (lambda m: m["config"].update(num_layers="2"), "config.num_layers must be a positive whole number"),
        (lambda m: m["config"].update(num_layers=3), "do not belong to its configuration"),
        (lambda m: m["tokens"].update(vocab_size=200), "do not belong to its configuration"),
        (lambda m: m["image"].update(size=32), "do not belong to its configuration"),
        (lambda m: m["files"].pop("decoder.onnx"), "holds no decoder.onnx"),
    ],
)
def test_a_wrong_manifest_names_the_key(bundle, change, match):
    edit(bundle, change)
    with pytest.raises(Exception, match=match) as caught:
        load(bundle)
    assert caught.value.exit_code in (3, 4)


def test_a_broken_graph_is_one_sentence(bundle):
    size = (bundle / "vision.onnx").stat().st_size
    (bundle / "vision.onnx").write_bytes(b"\x08" * size)
    refused(bundle, "vision.onnx: ONNX Runtime cannot load it")


def test_a_tokenizer_with_too_many_words_is_refused(bundle):
    values = json.loads((bundle / "tokenizer.json").read_text())
    values["model"]["vocab"]["far"] = 100_000
    text = json.dumps(values)
    (bundle / "tokenizer.json").write_text(text)
    edit(bundle, lambda m: m["files"]["tokenizer.json"].update(bytes=len(text)))
    with pytest.raises(BundleError, match="its ids reach 100000"):
        _ = load(bundle).codec
