"""Opening bundles: names, and every way in which a bundle can be wrong."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from embernet.errors import BundleError, OutOfMemoryError
from embernet.runtime import load, session
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


def test_a_folder_of_the_same_name_does_not_hide_the_built_in_model(tmp_path, monkeypatch, bundle):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spark").mkdir()
    assert open_bundle("spark").manifest.name == "spark"
    shutil.copytree(bundle, tmp_path / "spark", dirs_exist_ok=True)  # but a bundle there is what is meant
    assert open_bundle("spark").manifest.name == open_bundle(bundle).manifest.name


def test_a_bundle_in_the_users_folder_has_a_name(bundle, monkeypatch):
    monkeypatch.setenv("EMBERNET_HOME", str(bundle.parent))
    assert bundle_names()["copy"] == bundle
    assert load("copy").manifest.name == "tiny"


def test_a_user_without_a_home_has_the_built_in_models(monkeypatch):
    """As a service may be: HOME is not set, and no user has this number."""

    def fail(name: str) -> None:
        raise KeyError(name)

    for name in ("HOME", "EMBERNET_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", fail)
    assert open_bundle("spark").manifest.name == "spark"


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


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/b", "..", "", "a\\b", "manifest.json", "a\nb", "a\0b", "\ud800", 300 * "a"]
)
def test_files_outside_the_bundle_are_never_touched(bundle, name):
    edit(bundle, lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    refused(bundle, "is not a plain file name")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.pop("config"), "config is missing or wrong"),
        # A terminal is not to be told what to do by a name.
        (lambda m: m.update(name="\x1b[2J"), "name must be one line of printable text .found '.x1b"),
        (lambda m: m.update(name="\ud800"), "name must be one line of printable text"),
        (lambda m: m["quantizer"].update(weights="a\nb"), "weights must be one line of printable text"),
        (lambda m: m["parameters"]["parts"].update({"\x1b[2J": 1}), "parts: a key must be one line of printable text"),
        (lambda m: m["bytes"].update({"\ud800": 1}), "bytes: a key must be one line of printable text"),
        (lambda m: m["experts"].__setitem__(0, "\x1b[2J"), "experts must hold printable texts"),
        (lambda m: m["prompt"]["prompts"].update({"\n": "what"}), "prompts: a key must be one line of printable text"),
        (lambda m: m.update(format_version="1"), "format_version is missing or wrong"),
        (lambda m: m.update(format_version=True), "format_version is missing or wrong"),
        (lambda m: m.update(family="gpt"), "copy.ember: unknown model family 'gpt'"),
        (lambda m: m["files"].update({"weights.bin": 3}), "files.weights.bin: expected an object"),
        (lambda m: m["files"]["weights.bin"].update(bytes=-1), "bytes is -1"),
        (lambda m: m["image"].update(size=10**9), "size is 1000000000"),
        (lambda m: m["image"].update(mean=[0.5]), "mean must hold 3 numbers"),
        (lambda m: m["image"].update(mean=[True, 0, 0]), "mean must hold 3 numbers"),
        (lambda m: m["image"].update(mean=[10**400, 0, 0]), "mean must hold 3 numbers"),
        (lambda m: m["image"].update(std=[0.5, 0, 0.5]), "std must hold 3 numbers from 1e-06"),
        (lambda m: m["tokens"].update(eos_token_id=300), "eos_token_id is 300 .expected 0 to 299"),
        (lambda m: m["tokens"].update(bos_token_id=-1), "bos_token_id is -1"),
        (lambda m: m["tokens"].update(context_length=2**30), "context_length is 1073741824"),
        (lambda m: m["generation"].update(temperature=-1), "temperature is -1"),
        (lambda m: m["generation"].update(temperature=10**400), "temperature is 1000"),
        (lambda m: m["generation"].update(top_p=0), "top_p is 0"),
        (lambda m: m["generation"].update(top_p=1.5), "top_p is 1.5"),
        (lambda m: m["prompt"]["prompts"].update(caption=3), "prompts: caption is missing or wrong"),
        (lambda m: m["bytes"].update(ternary="many"), "bytes: ternary is missing or wrong"),
        (lambda m: m["bytes"].update(ternary=-1), "bytes: ternary is -1"),
        (lambda m: m["parameters"].update(total=1.5), "parameters: total is missing or wrong"),
        (lambda m: m["parameters"]["parts"].update(decoder=[]), "parts: decoder is missing or wrong"),
        (lambda m: m["config"].update(num_layers=10**6), "num_layers must be a whole number from 1 to 4096"),
        (lambda m: m["config"].update(num_kv_heads=10**30), "num_kv_heads must be a whole number"),
        (lambda m: m["image"].update(resample="magic"), "resample is 'magic'"),
        (lambda m: m.update(experts=[1, 2]), "experts must hold printable texts"),
        (lambda m: m["prompt"].update(template="hello"), "template must hold .prompt. exactly once"),
        (lambda m: m["config"].update(num_layers="2"), "config.num_layers must be a whole number"),
        (lambda m: m["config"].update(num_layers=3), "do not belong to its configuration"),
        (lambda m: m["tokens"].update(vocab_size=200), "do not belong to its configuration"),
        (lambda m: m["image"].update(size=32), "do not belong to its configuration"),
        (lambda m: m["files"].pop("decoder.onnx"), "files lists no decoder.onnx"),
        (lambda m: m["files"].pop("weights.bin"), "files lists no weights.bin"),
    ],
)
def test_a_wrong_manifest_names_the_key(bundle, change, match):
    edit(bundle, change)
    refused(bundle, match)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_manifest_holds_only_what_json_can_say(bundle, constant):
    path = bundle / "manifest.json"
    edit(bundle, lambda m: m["provenance"].update(loss="here"))
    path.write_text(path.read_text().replace('"here"', constant))
    refused(bundle, f"not readable as JSON .{constant} is not JSON")


def test_a_model_card_may_lie_in_a_bundle(bundle):
    (bundle / "README.md").write_text("# A card")
    open_bundle(bundle).verify()


def test_a_file_that_is_not_listed_does_not_verify(bundle):
    (bundle / "extra.bin").write_bytes(b"?")
    with pytest.raises(BundleError, match=r"extra.bin: not a file of this bundle"):
        open_bundle(bundle).verify()
    assert load(bundle).manifest.name == "tiny"


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


# --- graphs that lie ------------------------------------------------------------------------------------------------


def change_output(bundle: Path, name: str, op: str, *values: object, cast: int | None = None, **attributes) -> None:
    """Let the decoder compute op(output, values...) in place of one of its outputs."""
    path = bundle / "decoder.onnx"
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    for node in graph.node:
        node.output[:] = [f"true_{name}" if output == name else output for output in node.output]
    for index, value in enumerate(values):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"value_{index}"))
    inputs = [f"true_{name}", *(f"value_{index}" for index in range(len(values)))]
    graph.node.append(helper.make_node(op, inputs, [name], **attributes))
    if cast is not None:
        (output,) = (output for output in graph.output if output.name == name)
        output.type.tensor_type.elem_type = cast
    onnx.save(model, path)
    edit(bundle, lambda m: m["files"]["decoder.onnx"].update(bytes=path.stat().st_size))


def test_experts_that_do_not_exist(bundle):
    change_output(bundle, "selected_experts", "Add", np.int64(100))
    with pytest.raises(BundleError, match=r"decoder.onnx: chooses experts that do not exist .found 10\d to 10\d"):
        load(bundle).forward([1, 5])


def test_logits_that_are_not_finite(bundle):
    change_output(bundle, "logits", "Mul", np.float32("nan"))
    with pytest.raises(BundleError, match=r"decoder.onnx: computes logits that are not finite"):
        load(bundle).generate_ids([1, 5], max_new_tokens=1)


def test_outputs_of_another_type(bundle):
    change_output(bundle, "selected_experts", "Cast", cast=TensorProto.FLOAT, to=TensorProto.FLOAT)
    refused(bundle, r"selected_experts: found tensor.float. .*expected tensor.int64.")


def test_outputs_of_another_shape_than_declared(bundle):
    change_output(bundle, "logits", "Concat", np.zeros((1, 1, 300), np.float32), axis=1)
    with pytest.raises(BundleError, match="decoder.onnx: ONNX Runtime cannot run it"):
        load(bundle).forward([1, 5])


def test_a_cache_that_does_not_fit_in_memory(bundle, monkeypatch):
    def fail(*args: object) -> None:
        raise MemoryError

    model = load(bundle)
    monkeypatch.setattr("embernet.runtime.pipelines.embernet.np.zeros", fail)
    with pytest.raises(OutOfMemoryError, match="a context of 3 positions does not fit in memory") as caught:
        model.forward([1, 2, 3])
    assert caught.value.exit_code == 5


def test_an_engine_that_runs_out_of_memory(bundle, monkeypatch):
    class Session:
        def run(self, *args: object) -> None:
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")

    model = load(bundle)
    size = model.manifest.image.size
    monkeypatch.setattr(model._pipeline.vision, "session", Session())
    with pytest.raises(OutOfMemoryError, match="vision.onnx: does not fit in memory"):
        model.forward([1, 2, 3], np.zeros((1, 3, size, size), np.float32))


def test_folding_is_decided_by_the_weights_not_by_the_manifest(bundle, monkeypatch):
    monkeypatch.setenv("EMBERNET_ISA", "none")  # native operators leave nothing to fold
    monkeypatch.setattr("embernet.runtime.session.FOLD_BELOW_BYTES", 1000)
    edit(bundle, lambda m: m["bytes"].update(ternary=0))
    seen = []
    original = session.ort.InferenceSession

    def watch(*args, disabled_optimizers, **options):
        seen.append(disabled_optimizers)
        return original(*args, disabled_optimizers=disabled_optimizers, **options)

    monkeypatch.setattr(session.ort, "InferenceSession", watch)
    load(bundle)
    assert seen == [["ConstantFolding"]] * 3
