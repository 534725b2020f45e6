"""Every published form of checkpoint, and every way in which a file can be wrong."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from embernet.checkpoints import Overrides, open_checkpoint, save_checkpoint
from embernet.errors import EmbernetError, InputError
from embernet.families import find_preset, get_family
from embernet.initial import initial_tensors, write_initial_checkpoint
from embernet.models.embernet.config import EmberNetConfig
from tests.conftest import TINY

CONFIG = TINY / "config.json"


@pytest.fixture(scope="module")
def published() -> dict:
    """The training checkpoint, as its file has it."""
    return torch.load(TINY / "checkpoint.pt", weights_only=True)


def equals_tiny(checkpoint, tiny_checkpoint) -> None:
    assert checkpoint.config == tiny_checkpoint.config
    assert set(checkpoint.tensors) == set(tiny_checkpoint.tensors)
    for name in checkpoint.tensors:
        np.testing.assert_array_equal(checkpoint.tensors[name], tiny_checkpoint.tensors[name])


# --- forms ----------------------------------------------------------------------------------------------------------


def test_training_checkpoint(tiny_checkpoint):
    config = tiny_checkpoint.config
    assert tiny_checkpoint.family.name == "embernet"
    assert (config.num_attention_heads, config.vision_num_heads, config.num_kv_heads) == (4, 4, 2)
    assert (config.image_size, config.num_image_tokens, config.vocab_size) == (64, 16, 300)
    assert (config.weight_quantizer, config.activation_bits) == ("sign_mean", 8)
    assert config.image_token_ids == (298,)
    assert config.max_position_embeddings == 256
    assert tiny_checkpoint.metadata == {"global_step": 41, "stage": 2, "learning_rate": 0.0003}


def test_bare_state_dict_of_data_parallel_training_with_recent_siglip_names(tmp_path, published, tiny_checkpoint):
    state = {f"module.{k.replace('.vision_model.', '.')}": v for k, v in published["model_state_dict"].items()}
    torch.save(state, tmp_path / "bare.pt")
    equals_tiny(open_checkpoint(tmp_path / "bare.pt", CONFIG), tiny_checkpoint)


def test_hub_upload_with_its_own_config(tmp_path, published, tiny_checkpoint):
    model = json.loads(CONFIG.read_text())["model"]
    hub = {
        "model_type": "embernet_vlm",
        "vision_encoder": {"model_name": "google/siglip", "num_image_tokens": 16, "freeze_vision": True},
        "language_decoder": {**model, "activation_bits": 4, "quantisation": "ternary"},
    }
    (tmp_path / "config.json").write_text(json.dumps(hub))
    upload = {"model_state_dict": published["model_state_dict"], "global_step": 7, "stage": 2, "epoch": 1}
    torch.save(upload, tmp_path / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path, overrides=Overrides(vision_num_heads=4))
    assert checkpoint.config.activation_bits == 8
    assert "quantization fields are ignored" in checkpoint.warnings[0]
    assert checkpoint.config.expert_domains == ("expert_0", "expert_1", "expert_2", "expert_3")
    np.testing.assert_array_equal(
        checkpoint.tensors["decoder.norm.weight"], tiny_checkpoint.tensors["decoder.norm.weight"]
    )


def test_saved_directory_with_a_flat_field_dump(tmp_path, published, tiny_checkpoint):
    flat = json.loads(CONFIG.read_text())["model"] | {"vision_model_name": "google/siglip"}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    torch.save(published["model_state_dict"], tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path, overrides=Overrides(vision_num_heads=4))
    assert checkpoint.config.num_attention_heads == tiny_checkpoint.config.num_attention_heads


def test_our_own_directory(tmp_path, tiny_checkpoint):
    tensors = tiny_checkpoint.tensors
    shapes = {name: tensors.shape(name) for name in tensors}
    save_checkpoint(tmp_path / "ours", tiny_checkpoint.config, shapes, ((n, tensors[n]) for n in shapes), "{}")
    checkpoint = open_checkpoint(tmp_path / "ours")
    equals_tiny(checkpoint, tiny_checkpoint)
    assert checkpoint.tokenizer_path == tmp_path / "ours" / "tokenizer.json"


def test_head_counts_from_flags_instead_of_a_config(tiny_checkpoint):
    checkpoint = open_checkpoint(TINY / "checkpoint.pt", overrides=Overrides(4, 4))
    assert checkpoint.config.num_kv_heads == 2
    assert checkpoint.config.image_token_ids == ()  # the published ids are not in a vocabulary of 300
    assert checkpoint.config.hidden_size == tiny_checkpoint.config.hidden_size


def test_published_head_size_is_assumed_where_it_fits(tmp_path):
    config = EmberNetConfig.from_dict(
        small_config(hidden_size=128, num_attention_heads=2, num_kv_heads=1, vision_hidden_size=64, vision_num_heads=1)
    )
    write_initial_checkpoint(tmp_path / "new", get_family("embernet"), config, seed=0)
    found = open_checkpoint(tmp_path / "new" / "model.safetensors").config
    assert (found.num_attention_heads, found.num_kv_heads, found.vision_num_heads) == (2, 1, 1)


def test_expert_norms_mean_four_bit_absmean(tmp_path, published):
    state = dict(published["model_state_dict"])
    for layer in range(2):
        for expert in ("experts.0", "experts.1", "experts.2", "experts.3", "shared_expert"):
            state[f"decoder.layers.{layer}.moe.{expert}.norm.weight"] = torch.ones(96)
    torch.save(state, tmp_path / "window.pt")
    config = open_checkpoint(tmp_path / "window.pt", overrides=Overrides(4, 4)).config
    assert (config.expert_norm, config.weight_quantizer, config.activation_bits) == (True, "absmean", 4)


def test_parameters_that_nothing_reads_may_be_missing(tmp_path, published):
    state = {k: v for k, v in published["model_state_dict"].items() if k != "image_newline"}
    torch.save(state, tmp_path / "less.pt")
    checkpoint = open_checkpoint(tmp_path / "less.pt", overrides=Overrides(4, 4))
    assert not checkpoint.config.unused_parameters
    assert not any("encoder.head" in name for name in checkpoint.tensors)


def test_overrides_choose_the_quantiser():
    overrides = Overrides(weight_quantizer="absmean", activation_bits=4)
    config = open_checkpoint(TINY / "checkpoint.pt", CONFIG, overrides).config
    assert (config.weight_quantizer, config.activation_bits) == ("absmean", 4)


def test_half_precision_tensors_are_widened(tmp_path, published):
    state = {k: v.bfloat16() for k, v in published["model_state_dict"].items()}
    torch.save(state, tmp_path / "half.pt")
    tensors = open_checkpoint(tmp_path / "half.pt", CONFIG).tensors
    assert tensors["decoder.norm.weight"].dtype == np.float32


def test_legacy_files_are_read_without_mapping(tmp_path, published, tiny_checkpoint):
    torch.save(published, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    equals_tiny(open_checkpoint(tmp_path / "legacy.pt", CONFIG), tiny_checkpoint)


def test_values_beside_the_tensors_are_fit_for_json(tmp_path, published):
    values = {"avg_loss": float("nan"), ("a", "tuple"): 1, "best": float("inf"), "bad": "\ud800"}
    torch.save(published | values, tmp_path / "values.pt")
    metadata = open_checkpoint(tmp_path / "values.pt", CONFIG).metadata
    unknown = {"avg_loss": None, "best": None, "bad": None}
    assert metadata == {"global_step": 41, "stage": 2, "learning_rate": 0.0003} | unknown


# --- files that are wrong -------------------------------------------------------------------------------------------


def refused(match: str, path: Path, config: Path | None = CONFIG, overrides: Overrides | None = None) -> InputError:
    with pytest.raises(InputError, match=match) as caught:
        open_checkpoint(path, config, overrides)
    assert "\n" not in str(caught.value)
    return caught.value


def test_missing(tmp_path):
    refused("no such checkpoint", tmp_path / "nothing.pt")


def test_empty_directory(tmp_path):
    refused("not a checkpoint .it holds none of", tmp_path, None)


@pytest.mark.parametrize("keep", [0, 10, 100_000])
def test_cut_file(tmp_path, keep):
    path = tmp_path / "cut.pt"
    path.write_bytes((TINY / "checkpoint.pt").read_bytes()[:keep])
    refused("cut.pt: not a (whole )?PyTorch checkpoint", path)


def test_cut_safetensors(tmp_path, tiny_checkpoint):
    tensors = tiny_checkpoint.tensors
    shapes = {name: tensors.shape(name) for name in tensors}
    save_checkpoint(tmp_path / "ours", tiny_checkpoint.config, shapes, ((n, tensors[n]) for n in shapes))
    path = tmp_path / "ours" / "model.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    refused("not a whole safetensors file", tmp_path / "ours", None)


def test_a_picture_is_not_a_checkpoint(tmp_path):
    (tmp_path / "photo.pt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    error = refused("photo.pt: not a PyTorch checkpoint", tmp_path / "photo.pt")
    assert "mmap" not in str(error)
    assert "weights_only" not in str(error)


def test_another_family(tmp_path):
    torch.save({"transformer.wte.weight": torch.zeros(4, 4)}, tmp_path / "gpt.pt")
    refused("not a checkpoint of a known family", tmp_path / "gpt.pt", None)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    torch.save({"model_state_dict": {}, "config": Bomb()}, tmp_path / "bomb.pt")
    error = refused("holds pickled Python objects", tmp_path / "bomb.pt")
    assert "weights_only=False" in error.hint
    with open(tmp_path / "plain.pt", "wb") as file:
        pickle.dump(Bomb(), file)
    refused("plain.pt", tmp_path / "plain.pt")
    legacy = {"model_state_dict": {}, "config": Bomb()}
    torch.save(legacy, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    refused("holds pickled Python objects", tmp_path / "legacy.pt")
    assert not marker.exists()


def test_an_old_checkpoint_with_a_pickled_config_says_how_to_convert(tmp_path, published):
    class TrainingConfig:
        stage = 1

    TrainingConfig.__module__ = "__main__"
    TrainingConfig.__qualname__ = "TrainingConfig"
    import __main__

    __main__.TrainingConfig = TrainingConfig
    try:
        torch.save(published | {"config": TrainingConfig()}, tmp_path / "old.pt")
    finally:
        del __main__.TrainingConfig
    error = refused("holds pickled Python objects", tmp_path / "old.pt")
    assert "torch.save(c['model_state_dict'], 'converted.pt')" in error.hint


def test_an_architecture_of_before_the_norms(tmp_path, published):
    state = {k: v for k, v in published["model_state_dict"].items() if not k.endswith("_proj.norm.weight")}
    torch.save(state, tmp_path / "older.pt")
    refused("before 2026-02-18", tmp_path / "older.pt")


def test_a_head_that_is_not_the_embedding(tmp_path, published):
    state = published["model_state_dict"] | {"decoder.lm_head.weight": torch.zeros(300, 64)}
    torch.save(state, tmp_path / "untied.pt")
    refused("head is tied", tmp_path / "untied.pt")


def test_missing_unexpected_and_misshapen_tensors(tmp_path, published):
    state = published["model_state_dict"]
    name = "decoder.layers.1.moe.experts.3.up_proj.weight"
    for label, changed, match in (
        ("missing", {k: v for k, v in state.items() if k != name}, rf"1 tensors missing, the first is {name}"),
        ("unexpected", state | {"decoder.extra": torch.zeros(1)}, "1 tensors unexpected, the first is decoder.extra"),
        ("misshapen", state | {name: torch.zeros(2, 2)}, rf"{name} has the wrong shape .found \(2, 2\)"),
    ):
        torch.save(changed, tmp_path / f"{label}.pt")
        refused(match, tmp_path / f"{label}.pt")


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: torch.eye(64).to_sparse(), "sparse_coo float32"),
        (lambda: torch.eye(64).to_sparse_csr(), "sparse_csr float32"),
        (lambda: torch.zeros(64, dtype=torch.complex64), "complex64"),
        (lambda: torch.zeros(64, dtype=torch.bool), "bool"),
        (lambda: torch.zeros(64, dtype=torch.int8), "int8"),
        (lambda: torch.empty(64, device="meta"), "on meta"),
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
        (lambda: torch.quantize_per_tensor(torch.zeros(64), 1.0, 0, torch.qint8), "qint8"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's own, about its rarer kinds of tensor
def test_tensors_that_are_not_plain_floats(tmp_path, published, make, found):
    torch.save(published["model_state_dict"] | {"decoder.norm.weight": make()}, tmp_path / "odd.pt")
    refused(rf"odd.pt: tensor decoder.norm.weight cannot be used .found .*{found}", tmp_path / "odd.pt")


@pytest.mark.parametrize("name", ["decoder.embed_tokens.weight", "decoder.layers.0.moe.router.weight"])
def test_tensors_that_pretend_to_be_larger_than_their_file(tmp_path, published, name):
    state = published["model_state_dict"] | {name: torch.zeros(1, 64).expand(10**8, 64)}
    del state["decoder.lm_head.weight"]
    torch.save(state, tmp_path / "expanded.pt")
    refused(rf"tensor {name} is larger than its storage", tmp_path / "expanded.pt")


def test_negated_views_are_read_as_what_they_mean(tmp_path, published):
    ones = torch._neg_view(-torch.ones(64))
    torch.save(published["model_state_dict"] | {"decoder.norm.weight": ones}, tmp_path / "negated.pt")
    tensors = open_checkpoint(tmp_path / "negated.pt", CONFIG).tensors
    np.testing.assert_array_equal(tensors["decoder.norm.weight"], np.ones(64, np.float32))


@pytest.mark.parametrize("number", ["1000000000", "9" * 5000, "3", "01"])
@pytest.mark.parametrize(
    "prefix", ["decoder.layers", "decoder.layers.0.moe.experts", "vision_encoder.projector.cross_attn_layers"]
)
def test_numbers_of_layers_and_experts_have_no_gaps(tmp_path, published, prefix, number):
    state = {k: v for k, v in published["model_state_dict"].items() if not k.startswith(f"{prefix}.1.")}
    torch.save(state | {f"{prefix}.{number}.x": torch.zeros(1)}, tmp_path / "stray.pt")
    error = refused(f"stray.pt: {prefix} is numbered with gaps .found {number[:20]}", tmp_path / "stray.pt", None)
    assert len(str(error)) < 400


@pytest.mark.parametrize("config", [None, CONFIG])
def test_keys_that_are_missing_or_a_single_number(tmp_path, published, config):
    name = "decoder.layers.0.attention.k_proj.weight"
    state = dict(published["model_state_dict"])
    torch.save(state | {name: torch.tensor(1.0)}, tmp_path / "number.pt")
    refused(rf"number.pt: tensor {name} has the wrong shape", tmp_path / "number.pt", config)
    del state[name]
    torch.save(state, tmp_path / "less.pt")
    refused(f"less.pt: tensor {name} is missing", tmp_path / "less.pt", config)


def test_a_rotary_table_that_is_a_single_number(tmp_path, published):
    name = "decoder.layers.0.attention.rotary_emb.cos_cache"
    torch.save(published["model_state_dict"] | {name: torch.tensor(1.0)}, tmp_path / "number.pt")
    refused(rf"tensor {name} has the wrong shape", tmp_path / "number.pt", None)


def test_nan_weights(tmp_path, published):
    state = dict(published["model_state_dict"])
    state["decoder.norm.weight"] = torch.full((64,), torch.nan)
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(InputError, match=r"decoder.norm.weight holds NaN"):
        _ = open_checkpoint(tmp_path / "nan.pt", CONFIG).tensors["decoder.norm.weight"]


def test_head_counts_are_asked_for():
    error = refused("num_attention_heads cannot be told", TINY / "checkpoint.pt", None, Overrides(None, 4))
    assert error.hint == "add --heads N or --config config.json"
    error = refused("vision_num_heads cannot be told", TINY / "checkpoint.pt", None, Overrides(4, None))
    assert error.hint == "add --vision-heads N or --config config.json"
    refused("3 attention heads do not fit keys of width 32", TINY / "checkpoint.pt", None, Overrides(3, 4))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not readable as JSON"),
        ("[1]", "expected a JSON object"),
        ('{"hello": 1}', "not a configuration of the embernet family"),
        ('{"family": "embernet", "hidden_sise": 64}', "unknown key 'hidden_sise'"),
        ('{"family": "bitgen"}', "wrong family .found 'bitgen', expected 'embernet'"),
        ('{"model": {"hidden_size": 128}}', "hidden_size contradicts checkpoint.pt .found 128, expected 64"),
        ('{"model": {"hidden_size": "big"}}', "hidden_size contradicts checkpoint.pt .found 'big'"),
        ('{"num_experts": 4, "hidden_size": 64, "num_attention_heads": 0}', "num_attention_heads must lie between 1"),
        ('{"num_experts": 4, "hidden_size": 64, "num_attention_heads": "4"}', "num_attention_heads has the wrong type"),
        (
            '{"num_experts": 4, "hidden_size": 64, "num_attention_heads": 4, "expert_domains": 4}',
            "expert_domains has the wrong type",
        ),
        ('{"model": {}, "decoder": 3}', "decoder must be an object"),
        ('{"model": {}, "projector": {"num_heads": 4}}', "projector.num_heads is fixed .found 4, expected 8"),
        ('{"model": {}, "projector": {"type": "mlp"}}', "projector.type is fixed .found 'mlp', expected 'cross_modal'"),
        (
            '{"model": {}, "compressor": {"norm_eps": 1e-6}}',
            "compressor.norm_eps is fixed .found 1e-06, expected 1e-05",
        ),
        ('{"model": {}, "vision_config": {"hidden_act": "relu"}}', "vision_config.hidden_act is fixed"),
        ('{"model": {}, "embed_clamp": 5}', "config.json: embed_clamp is fixed .found 5, expected 10.0"),
        ('{"model": {}, "bitlinear": {"weight_quant": 5}}', "bitlinear.weight_quant is unknown .found 5"),
        ('{"model": {}, "bitlinear": {"activation_quant": "int2"}}', "bitlinear.activation_quant is unknown"),
    ],
)
def test_wrong_config(tmp_path, content, match):
    (tmp_path / "config.json").write_text(content)
    error = refused(match, TINY / "checkpoint.pt", tmp_path / "config.json", Overrides(vision_num_heads=4))
    assert str(error).startswith(f"{tmp_path / 'config.json'}: ")


def test_sectioned_config_chooses_heads_and_quantiser(tmp_path):
    values = json.loads(CONFIG.read_text())
    values["pooler"]["num_heads"] = values["projector"]["num_heads"] = 4
    values["bitlinear"] |= {"weight_quant": "absmean", "activation_quant": "int4"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = open_checkpoint(TINY / "checkpoint.pt", tmp_path / "config.json").config
    assert (config.resampler_num_heads, config.weight_quantizer, config.activation_bits) == (4, "absmean", 4)


def test_missing_config(tmp_path):
    refused("config.json: no such file", TINY / "checkpoint.pt", tmp_path / "config.json")


# --- configurations -------------------------------------------------------------------------------------------------


def small_config(**changes) -> dict:
    values = {
        "image_size": 32,
        "patch_size": 8,
        "vision_hidden_size": 16,
        "vision_intermediate_size": 32,
        "vision_num_layers": 1,
        "vision_num_heads": 2,
        "num_image_tokens": 4,
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_layers": 1,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "max_position_embeddings": 64,
    }
    return values | changes


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_size": -1}, "config: hidden_size must lie between 1 and 1048576 .found -1"),
        ({"hidden_size": 2**40}, "hidden_size must lie between"),
        ({"shuffle_factor": 10**400}, "shuffle_factor must lie between"),
        ({"stem_channels": [0]}, "stem_channels must lie between"),
        ({"stem_channels": [4] * 4}, "patch_size must be a multiple of 2 for each of stem_channels .found 8 and 4"),
        ({"max_position_embeddings": 2**21}, "max_position_embeddings must lie between"),
        ({"num_layers": 10**9}, "num_layers must lie between 1 and 4096"),
        ({"num_layers": 4096, "num_experts": 4096, "expert_domains": [""] * 4096}, "num_layers x num_experts"),
        ({"rope_base": 10**400}, "rope_base must lie between"),
        ({"image_embed_scale": 1e39}, "image_embed_scale must lie between"),
        ({"rms_norm_eps": 1e39}, "rms_norm_eps must lie between"),
        ({"bitlinear_norm_eps": 1e-50}, "bitlinear_norm_eps must lie between"),
        ({"top_k": -1}, "top_k must lie between 0"),
        ({"top_p": 0.0}, "top_p must lie between"),
        ({"top_p": 1.5}, "top_p must lie between"),
        ({"pad_token_id": 50}, "pad_token_id must lie between 0 and 49 .found 50"),
        ({"eos_token_id": -1}, "eos_token_id must lie between 0 and 49"),
        ({"image_token_ids": [3, 50]}, "image_token_ids must lie between 0 and 49 .found 50"),
        ({"prompt_template": "{prompt}\ud800"}, "prompt_template has the wrong type"),
        ({"prompts": {"\ud800": "x"}}, "prompts has the wrong type"),
        ({"expert_domains": ["\ud800"] * 8}, "expert_domains has the wrong type"),
        ({"hidden_size": 32.0}, "hidden_size has the wrong type"),
        ({"use_shared_expert": 1}, "use_shared_expert has the wrong type"),
        ({"rope_base": float("nan")}, "rope_base must lie between 1 and .* .found nan"),
        ({"num_attention_heads": 3}, "hidden_size must be a multiple of num_attention_heads"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9"),
        ({"expert_domains": ["a"]}, "expert_domains names 1 experts"),
        ({"hidden_size": 24, "num_attention_heads": 8, "num_kv_heads": 8}, "must be even"),
        ({"weight_quantizer": "int2"}, "unknown weight quantizer 'int2'"),
        ({"activation_bits": 5}, "activation_bits must be 8 or 4"),
        ({"prompt_template": "hello"}, "prompt_template must hold"),
        ({"resample": "nearest"}, "resample must be"),
    ],
)
def test_impossible_configurations_are_refused(changes, match):
    with pytest.raises(InputError, match=match):
        EmberNetConfig.from_dict(small_config(**changes))


def test_the_largest_sizes_make_shapes_without_making_tensors():
    large = dict.fromkeys(("vision_hidden_size", "hidden_size", "vocab_size", "num_image_tokens"), 2**20)
    config = EmberNetConfig.from_dict(small_config(**large, image_size=4096, patch_size=1, shuffle_factor=64))
    assert get_family("embernet").part("model").tensor_shapes(config)["decoder.norm.weight"] == (2**20,)


def test_whole_numbers_are_floats_where_floats_are_expected():
    config = EmberNetConfig.from_dict(small_config(vision_norm_eps=1, image_embed_scale=1, rope_base=10000))
    values = (config.vision_norm_eps, config.image_embed_scale, config.rope_base)
    assert [type(value) for value in values] == [float] * 3
    get_family("embernet").part("model").tensor_shapes(config)


def test_a_smaller_vocabulary_has_no_published_placeholders():
    assert EmberNetConfig.from_dict(small_config()).image_token_ids == ()
    assert EmberNetConfig.from_dict(small_config(vocab_size=32001)).image_token_ids == (32000,)
    assert EmberNetConfig.preset("embernet").image_token_ids == (32000, 32001)


def test_configuration_survives_json():
    config = EmberNetConfig.preset("embernet")
    assert EmberNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


# --- new checkpoints ------------------------------------------------------------------------------------------------


def test_a_new_checkpoint_depends_on_its_seed_alone(tmp_path):
    config = EmberNetConfig.from_dict(small_config())
    family = get_family("embernet")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_initial_checkpoint(tmp_path / name, family, config, seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    checkpoint = open_checkpoint(tmp_path / "a")
    assert checkpoint.config == config
    for name, array in initial_tensors(family, config, 0):
        np.testing.assert_array_equal(checkpoint.tensors[name], array)


def test_an_existing_folder_is_not_overwritten(tmp_path):
    config = EmberNetConfig.from_dict(small_config())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="exists already"):
        write_initial_checkpoint(tmp_path / "mine", get_family("embernet"), config, 0)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    config = EmberNetConfig.from_dict(small_config())

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EmbernetError, match="new: could not be written .the disk is full.; nothing was left behind"):
        write_initial_checkpoint(tmp_path / "new", get_family("embernet"), config, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named_as_given(tmp_path):
    config = EmberNetConfig.from_dict(small_config())
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "new", tmp_path / "file" / "deep" / "new"):
        with pytest.raises(InputError, match=r"new: .*/file is not a folder$"):
            write_initial_checkpoint(folder, get_family("embernet"), config, 0)
    with pytest.raises(EmbernetError, match=rf"{tmp_path}/n{{250}}: could not be written .File name too long"):
        write_initial_checkpoint(tmp_path / ("n" * 250), get_family("embernet"), config, 0)


def test_a_link_to_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    config = EmberNetConfig.from_dict(small_config())
    write_initial_checkpoint(tmp_path / "link", get_family("embernet"), config, 0)
    assert open_checkpoint(tmp_path / "empty").config == config
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "link"}


def test_presets_and_config_files_are_found(tmp_path):
    family, config = find_preset("embernet")
    assert family.name == "embernet"
    (tmp_path / "mine.json").write_text(json.dumps(config.to_dict()))
    assert find_preset(str(tmp_path / "mine.json")) == (family, config)
    with pytest.raises(InputError, match="unknown preset 'huge'"):
        find_preset("huge")
    shutil.rmtree(tmp_path)
