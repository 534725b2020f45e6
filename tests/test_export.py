"""Checkpoint -> bundle -> answers, against the published implementation's numbers."""

import errno
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tokenizers import Tokenizer, models

from embernet.checkpoints import Overrides, open_checkpoint
from embernet.errors import EmbernetError, InputError
from embernet.export import weights as weights_module
from embernet.export.bundle import ExportOptions, export_bundle
from embernet.export.check import check_bundle, require_passed
from embernet.families import get_family
from embernet.initial import write_initial_checkpoint
from embernet.models.embernet.config import EmberNetConfig
from embernet.runtime import load
from embernet.runtime.bundle import open_bundle
from tests import tolerances
from tests.conftest import IMAGE_TOKEN, TINY
from tests.test_checkpoints import small_config

EXACT = ExportOptions(vision="float32", embedding="float32")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.ravel() @ b.ravel()) / (np.linalg.norm(a) * np.linalg.norm(b)))


# --- the same numbers -----------------------------------------------------------------------------------------------


def test_exact_bundle_reproduces_logits_choices_and_greedy_ids(engine, exact_bundle, io):
    model = load(exact_bundle)
    ids, pixels = io["input_ids"][0].tolist(), io["pixel_values"]
    result = model.forward(ids, pixels)
    np.testing.assert_allclose(result.logits, io["logits_image_text"][0], atol=tolerances.LOGITS)
    np.testing.assert_array_equal(result.experts, io["selected_experts_image_text"])
    np.testing.assert_allclose(result.weights, io["expert_weights_image_text"], atol=tolerances.FLOAT32)
    result = model.forward(io["text_input_ids"][0].tolist())
    np.testing.assert_allclose(result.logits, io["logits_text_only"][0], atol=tolerances.LOGITS)
    np.testing.assert_array_equal(result.experts, io["selected_experts_text_only"])
    assert model.generate_ids(ids, pixels, max_new_tokens=7) == io["greedy_ids"].tolist()


def test_exact_bundle_reproduces_every_decode_step(engine, exact_bundle, io):
    model = load(exact_bundle)
    features = model._pipeline.encode(io["pixel_values"])
    np.testing.assert_allclose(features, io["image_embeds_scaled"], atol=tolerances.FLOAT32)
    context = model.new_context(11, features, room=7)
    first = context.feed(io["input_ids"][0].tolist(), features)
    np.testing.assert_allclose(first.logits, io["prefill_logits_cache_last"], atol=tolerances.LOGITS)
    for step, token in enumerate(io["greedy_ids"][:-1].tolist()):
        result = context.feed([token])
        np.testing.assert_allclose(result.logits[0], io["decode_logits"][step], atol=tolerances.LOGITS)
        np.testing.assert_array_equal(result.experts[:, 0], io["selected_experts_decode"][step])


@pytest.mark.parametrize(("bits", "variant"), [(8, "absmean_a8"), (4, "absmean_a4")])
def test_other_quantisers(tmp_path, io, bits, variant):
    overrides = Overrides(weight_quantizer="absmean", activation_bits=bits)
    checkpoint = open_checkpoint(TINY / "checkpoint.pt", TINY / "config.json", overrides)
    export_bundle(checkpoint, tmp_path / "x.ember", EXACT)
    model = load(tmp_path / "x.ember")
    for ids, pixels, name in (
        ("input_ids", io["pixel_values"], "logits"),
        ("text_input_ids", None, "logits_text_only"),
    ):
        logits, expected = model.forward(io[ids][0].tolist(), pixels).logits, io[f"{name}_{variant}"][0]
        np.testing.assert_allclose(logits, expected, atol=tolerances.FLIPPED_LOGITS)
        assert cosine(logits, expected) > tolerances.FLIPPED_COSINE


def test_extra_expert_norms(tmp_path, tiny_checkpoint, io):
    import torch

    state = torch.load(TINY / "checkpoint.pt", weights_only=True)["model_state_dict"]
    for layer in range(2):
        for expert in ("experts.0", "experts.1", "experts.2", "experts.3", "shared_expert"):
            state[f"decoder.layers.{layer}.moe.{expert}.norm.weight"] = torch.ones(96)
    torch.save(state, tmp_path / "window.pt")
    export_bundle(open_checkpoint(tmp_path / "window.pt", overrides=Overrides(4, 4)), tmp_path / "x.ember", EXACT)
    logits = load(tmp_path / "x.ember").forward(io["text_input_ids"][0].tolist()).logits
    np.testing.assert_allclose(logits, io["logits_text_only_commit_2026_02_20_a4"][0], atol=tolerances.LOGITS)


def test_int8_bundle_stays_close(engine, tiny_bundle, io):
    logits = load(tiny_bundle).forward(io["input_ids"][0].tolist(), io["pixel_values"]).logits
    np.testing.assert_allclose(logits, io["logits_image_text"][0], atol=tolerances.INT8_LOGITS)
    assert cosine(logits, io["logits_image_text"][0]) > tolerances.INT8_COSINE


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_patches_may_be_cut_from_the_features_of_a_stem(tmp_path, precision):
    config = EmberNetConfig.from_dict(small_config(stem_channels=[6, 12]))
    write_initial_checkpoint(tmp_path / "stem", get_family("embernet"), config, 0)
    checkpoint = open_checkpoint(tmp_path / "stem")
    assert checkpoint.config == config
    assert checkpoint.tensors["vision_encoder.stem.2.weight"].shape == (12, 6, 4, 4)
    export_bundle(checkpoint, tmp_path / "x.ember", ExportOptions(vision=precision, embedding=precision))
    require_passed(check_bundle(tmp_path / "x.ember", checkpoint))


def test_image_features_of_several_images_are_those_of_each(exact_bundle, io):
    pipeline = load(exact_bundle)._pipeline
    both = np.concatenate([io["pixel_values"], io["batch_pixel_values"][:1]])
    features = pipeline.encode(both)
    for i in range(2):
        np.testing.assert_allclose(features[i], pipeline.encode(both[i : i + 1])[0], atol=tolerances.FLOAT32)


# --- the files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["vision", "embedding", "decoder"])
def test_graphs_pass_the_onnx_checker(tiny_bundle, graph):
    onnx.checker.check_model(str(tiny_bundle / f"{graph}.onnx"), full_check=True)


def test_a_plain_session_runs_the_bundle_with_no_code_of_ours(exact_bundle, io):
    def session(name: str) -> ort.InferenceSession:
        return ort.InferenceSession(str(exact_bundle / f"{name}.onnx"), providers=["CPUExecutionProvider"])

    (features,) = session("vision").run(["image_features"], {"pixel_values": io["pixel_values"]})
    inputs = {"input_ids": io["input_ids"], "image_features": features}
    (embeds,) = session("embedding").run(["inputs_embeds"], inputs)
    np.testing.assert_allclose(embeds, io["merged_embeds"], atol=tolerances.FLOAT32)
    feeds = {"inputs_embeds": embeds, "attention_mask": np.ones(embeds.shape[:2], np.int64)}
    for layer in range(2):
        for part in ("key", "value"):
            feeds[f"past_key_values.{layer}.{part}"] = np.zeros((1, 2, 0, 16), np.float32)
    logits, key = session("decoder").run(["logits", "present.0.key"], feeds)
    np.testing.assert_allclose(logits, io["logits_image_text"], atol=tolerances.LOGITS)
    np.testing.assert_allclose(key, io["kv_cache_layer0_k_prefill"], atol=tolerances.FLOAT32)


def test_the_embedding_table_is_stored_once_and_in_int8(tiny_bundle):
    def place(graph: str) -> dict[str, str]:
        model = onnx.load(tiny_bundle / f"{graph}.onnx", load_external_data=False)
        (table,) = [t for t in model.graph.initializer if t.name == "decoder.embed_tokens.weight"]
        assert table.data_type == onnx.TensorProto.INT8
        return {entry.key: entry.value for entry in table.external_data}

    assert place("embedding") == place("decoder")


def test_experts_begin_on_a_page_and_nothing_overlaps(tiny_bundle):
    regions = {}
    for graph in ("vision", "embedding", "decoder"):
        for tensor in onnx.load(tiny_bundle / f"{graph}.onnx", load_external_data=False).graph.initializer:
            if tensor.external_data:
                entry = {e.key: e.value for e in tensor.external_data}
                assert entry["location"] == "weights.bin"
                regions[int(entry["offset"])] = int(entry["length"])
                assert int(entry["offset"]) % 64 == 0
                if tensor.name.endswith(".experts"):
                    assert int(entry["offset"]) % 4096 == 0
                    assert tensor.dims[1] % 4096 == 0
    end = 0
    for offset, length in sorted(regions.items()):
        assert offset >= end
        end = offset + length
    assert end == (tiny_bundle / "weights.bin").stat().st_size


def test_manifest_says_what_was_folded(tiny_bundle, tiny_checkpoint):
    manifest = open_bundle(tiny_bundle).manifest
    assert manifest.family == "embernet"
    assert manifest.name == "tiny"
    assert dict(manifest.config) == tiny_checkpoint.config.to_dict()
    assert manifest.parameters["total"] == 361_192
    levels = manifest.quantizer["levels"]
    assert sum(levels.values()) == manifest.parameters["ternary"] == 243_712
    # Only the k projection of the first layer has weights that equal the mean (fixture notes).
    k_codes = np.load(TINY / "io.npz")["wq_int8/decoder.layers.0.attention.k_proj"]
    assert levels["zero"] == int((k_codes == 0).sum()) > 0
    assert manifest.provenance["checkpoint_values"]["global_step"] == 41


def test_exports_are_reproducible_to_the_byte(tmp_path, tiny_checkpoint):
    for name in ("a", "b"):
        export_bundle(tiny_checkpoint, tmp_path / name / "x.ember", ExportOptions())
    for path in (tmp_path / "a" / "x.ember").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "x.ember" / path.name).read_bytes()


# --- tokenizers -----------------------------------------------------------------------------------------------------


def save_tokenizer(path: Path, size: int, **extra: int) -> str:
    vocab = {f"w{i}": i for i in range(size)} | extra
    Tokenizer(models.WordLevel(vocab, unk_token="w0")).save(str(path))
    return str(path)


def test_the_placeholder_is_added_to_a_tokenizer_that_lacks_it(tmp_path, tiny_checkpoint):
    source = save_tokenizer(tmp_path / "tokenizer.json", IMAGE_TOKEN)
    export_bundle(tiny_checkpoint, tmp_path / "x.ember", ExportOptions(tokenizer=source))
    tokenizer = Tokenizer.from_file(str(tmp_path / "x.ember" / "tokenizer.json"))
    assert tokenizer.token_to_id("<image>") == IMAGE_TOKEN


@pytest.mark.parametrize(
    ("size", "match"), [(290, "<image> would get id 290 .expected 298"), (1000, "ids reach 999.*another model")]
)
def test_a_tokenizer_of_another_model_is_refused(tmp_path, tiny_checkpoint, size, match):
    extra = {"<image>": 999} if size == 1000 else {}
    source = save_tokenizer(tmp_path / "tokenizer.json", min(size, 999), **extra)
    with pytest.raises(InputError, match=match):
        export_bundle(tiny_checkpoint, tmp_path / "x.ember", ExportOptions(tokenizer=source))
    assert not (tmp_path / "x.ember").exists()


def test_an_unfit_tokenizer_beside_the_weights_is_ignored_with_a_warning(tmp_path):
    import torch

    torch.save(torch.load(TINY / "checkpoint.pt", weights_only=True), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((TINY / "config.json").read_text())
    save_tokenizer(tmp_path / "tokenizer.json", 999)
    report = export_bundle(open_checkpoint(tmp_path), tmp_path / "x.ember", ExportOptions())
    assert any("is ignored" in warning for warning in report.warnings)
    assert not (tmp_path / "x.ember" / "tokenizer.json").exists()


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_broken_tokenizer_is_refused(tmp_path, tiny_checkpoint, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="not a tokenizer"):
        export_bundle(tiny_checkpoint, tmp_path / "x.ember", ExportOptions(tokenizer=str(tmp_path)))


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing_behind(tmp_path, tiny_checkpoint, monkeypatch):
    written = []

    def write(self, name, array, kind):
        written.append(name)
        if len(written) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, name, array, kind)

    original = weights_module.WeightsWriter.add
    monkeypatch.setattr(weights_module.WeightsWriter, "add", write)
    with pytest.raises(EmbernetError, match="the disk is full.; nothing was left behind"):
        export_bundle(tiny_checkpoint, tmp_path / "x.ember", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_keeps_the_old_bundle(tmp_path, tiny_checkpoint, monkeypatch):
    output = tmp_path / "x.ember"
    export_bundle(tiny_checkpoint, output, ExportOptions())
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def interrupt(self, name, array, kind):
        raise KeyboardInterrupt

    monkeypatch.setattr(weights_module.WeightsWriter, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(tiny_checkpoint, output, ExportOptions(force=True))
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.ember"]


def test_an_existing_bundle_is_replaced_only_by_force(tmp_path, tiny_checkpoint):
    output = tmp_path / "x.ember"
    export_bundle(tiny_checkpoint, output, ExportOptions())
    with pytest.raises(InputError, match="exists already") as caught:
        export_bundle(tiny_checkpoint, output, EXACT)
    assert "--force" in caught.value.hint
    export_bundle(tiny_checkpoint, output, ExportOptions(vision="float32", force=True))
    assert open_bundle(output).manifest.precision["vision"] == "float32"


def test_a_bundle_behind_a_link_is_replaced_and_the_link_kept(tmp_path, tiny_checkpoint):
    output, link = tmp_path / "x.ember", tmp_path / "link"
    export_bundle(tiny_checkpoint, output, ExportOptions())
    link.symlink_to("x.ember")
    report = export_bundle(tiny_checkpoint, link, ExportOptions(vision="float32", force=True))
    assert report.path == link
    assert open_bundle(output).manifest.precision["vision"] == "float32"
    assert open_bundle(link).manifest.name == "x"
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"x.ember", "link"}


def test_an_output_that_cannot_be_made_is_named_as_given(tmp_path, tiny_checkpoint):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/x.ember: .*/file is not a folder$"):
        export_bundle(tiny_checkpoint, tmp_path / "file" / "x.ember", ExportOptions())
    with pytest.raises(EmbernetError, match=rf"{tmp_path}/n{{250}}: could not be written .File name too long"):
        export_bundle(tiny_checkpoint, tmp_path / ("n" * 250), ExportOptions())


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2J", "\udcff"])
def test_a_name_that_no_reader_takes_is_refused(tmp_path, tiny_checkpoint, name):
    with pytest.raises(InputError, match="no name for a bundle"):
        export_bundle(tiny_checkpoint, tmp_path / "x.ember", ExportOptions(name=name))
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_is_json_whatever_stood_beside_the_tensors(tmp_path):
    import torch

    state = torch.load(TINY / "checkpoint.pt", weights_only=True)
    torch.save(state | {"avg_loss": float("nan")}, tmp_path / "nan.pt")
    export_bundle(open_checkpoint(tmp_path / "nan.pt", TINY / "config.json"), tmp_path / "x.ember", ExportOptions())

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (tmp_path / "x.ember" / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse)["provenance"]["checkpoint_values"]["avg_loss"] is None


def test_a_model_without_placeholders_is_exported(tmp_path, io):
    checkpoint = open_checkpoint(TINY / "checkpoint.pt", overrides=Overrides(4, 4))
    assert checkpoint.config.image_token_ids == ()
    export_bundle(checkpoint, tmp_path / "x.ember", EXACT)
    assert check_bundle(tmp_path / "x.ember", checkpoint).passed


def test_something_that_is_not_a_bundle_is_never_replaced(tmp_path, tiny_checkpoint):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(InputError, match="is not a bundle"):
        export_bundle(tiny_checkpoint, tmp_path / "photos", ExportOptions(force=True))
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"meow"


def test_heads_the_engine_cannot_rotate_are_refused_before_anything_is_written(tmp_path):
    from embernet.families import get_family
    from embernet.initial import write_initial_checkpoint
    from embernet.models.embernet.config import EmberNetConfig
    from tests.test_checkpoints import small_config

    config = EmberNetConfig.from_dict(small_config(num_attention_heads=4))
    write_initial_checkpoint(tmp_path / "new", get_family("embernet"), config, seed=0)
    with pytest.raises(InputError, match=r"must be a multiple of 16 .*found 8"):
        export_bundle(open_checkpoint(tmp_path / "new"), tmp_path / "x.ember", ExportOptions())
    assert not (tmp_path / "x.ember").exists()


# --- the check ------------------------------------------------------------------------------------------------------


def test_check_passes_for_a_true_bundle(exact_bundle, tiny_bundle, tiny_checkpoint):
    report = check_bundle(exact_bundle, tiny_checkpoint)
    assert report.passed
    for case in report.cases:
        # torch adds up in another order on every kind of CPU, so a rounding tie may fall the other way.
        assert case.max_difference < tolerances.FLIPPED_LOGITS
        assert case.cosine > tolerances.FLIPPED_COSINE
        assert case.greedy_agreement == case.expert_agreement == 1
    assert check_bundle(tiny_bundle, tiny_checkpoint).passed


def test_check_fails_for_weights_of_another_model(exact_bundle, tmp_path, tiny_checkpoint):
    import shutil

    shutil.copytree(exact_bundle, tmp_path / "wrong.ember")
    data = np.fromfile(tmp_path / "wrong.ember" / "weights.bin", np.uint8)
    for graph in ("decoder",):
        model = onnx.load(tmp_path / "wrong.ember" / f"{graph}.onnx", load_external_data=False)
        (experts,) = [t for t in model.graph.initializer if t.name == "decoder.layers.1.moe.experts"]
        entry = {e.key: int(e.value) for e in experts.external_data if e.key != "location"}
        region = slice(entry["offset"], entry["offset"] + entry["length"])
        data[region] = np.roll(data[region], 64)
    data.tofile(tmp_path / "wrong.ember" / "weights.bin")
    report = check_bundle(tmp_path / "wrong.ember", tiny_checkpoint)
    assert not report.passed
    with pytest.raises(EmbernetError, match="does not match its checkpoint"):
        require_passed(report)


def test_a_failed_check_leaves_no_bundle(tmp_path, tiny_checkpoint):
    def refuse(path: Path) -> None:
        assert json.loads((path / "manifest.json").read_text())["family"] == "embernet"
        raise EmbernetError("no")

    with pytest.raises(EmbernetError, match="no"):
        export_bundle(tiny_checkpoint, tmp_path / "x.ember", ExportOptions(), inspect=refuse)
    assert list(tmp_path.iterdir()) == []
