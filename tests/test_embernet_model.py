"""The EmberNet torch model against the published implementation's numbers."""

import dataclasses

import numpy as np
import pytest
import torch

from embernet.errors import InputError
from embernet.models.embernet.config import EmberNetConfig
from embernet.models.embernet.decoder import KVCache, apply_rope, rope_tables
from embernet.models.embernet.model import EmberNet, expert_supervision_loss, router_balance_loss
from tests import tolerances
from tests.conftest import IMAGE_TOKEN


def build(checkpoint, **changes) -> EmberNet:
    model = EmberNet(dataclasses.replace(checkpoint.config, **changes))
    tensors = {name: torch.from_numpy(checkpoint.tensors[name]) for name in checkpoint.tensors}
    for name, shape in EmberNet.tensor_shapes(model.config).items():
        tensors.setdefault(name, torch.ones(shape))  # the expert norms of one variant
    model.load_state_dict(tensors)
    return model.eval()


@pytest.fixture(scope="module")
def model(tiny_checkpoint) -> EmberNet:
    return build(tiny_checkpoint)


@pytest.fixture(scope="module")
def golden(io) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in io.items()}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def close(actual, expected, atol=tolerances.FLOAT32) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=atol, rtol=0)


def same_up_to_a_flip(actual: torch.Tensor, expected: torch.Tensor) -> None:
    cosine = torch.cosine_similarity(actual.flatten().double(), expected.flatten().double(), dim=0)
    assert cosine > tolerances.FLIPPED_COSINE
    close(actual, expected, tolerances.FLIPPED_LOGITS)


def test_every_stage_of_the_vision_encoder(model, golden):
    vision = model.vision_encoder
    x = vision.encoder(golden["pixel_values"]).last_hidden_state
    close(x, golden["siglip_last_hidden_state"])
    x = vision.compressor(x)
    close(x, golden["compressor_out"])
    x = vision.pooler(x)
    close(x, golden["pooler_out"])
    close(vision(golden["pixel_values"]), golden["image_embeds_raw"])
    close(model.encode_image(golden["pixel_values"]), golden["image_embeds_scaled"])


def test_image_and_text(model, golden):
    output = model(golden["input_ids"], golden["pixel_values"])
    close(output.logits, golden["logits_image_text"], tolerances.LOGITS)
    close(output.logits, golden["logits_trial_quant"], tolerances.LOGITS)
    close(torch.cat(output.hidden_states), golden["hidden_states_image_text"])
    close(output.routing.logits[:, 0], golden["router_logits_image_text"])
    assert torch.equal(output.routing.experts[:, 0], golden["selected_experts_image_text"])
    close(output.routing.weights[:, 0], golden["expert_weights_image_text"])


def test_text_alone(model, golden):
    output = model(golden["text_input_ids"])
    close(output.logits, golden["logits_text_only"], tolerances.LOGITS)
    close(output.logits, golden["logits_text_only_trial_quant"], tolerances.LOGITS)
    close(output.routing.logits[:, 0], golden["router_logits_text_only"])
    assert torch.equal(output.routing.experts[:, 0], golden["selected_experts_text_only"])


def test_merged_embeddings(model, golden):
    merged = model.merge(golden["input_ids"], model.encode_image(golden["pixel_values"]))
    close(merged, golden["merged_embeds"])


def test_cached_prefill_and_decode(model, golden):
    output = model(golden["input_ids"], golden["pixel_values"], use_cache=True)
    close(output.logits[:, -1], golden["prefill_logits_cache_last"], tolerances.LOGITS)
    key, value = output.cache.layers[0]
    close(key, golden["kv_cache_layer0_k_prefill"])
    close(value, golden["kv_cache_layer0_v_prefill"])
    for step, token in enumerate(golden["greedy_ids"][:-1]):
        logits, routing, _ = model.decoder(model.decoder.embed_tokens(token.view(1, 1)), cache=output.cache)
        close(logits[0], golden["decode_logits"][step : step + 1], tolerances.LOGITS)
        close(routing.logits[:, 0, 0], golden["router_logits_decode"][step])
        assert torch.equal(routing.experts[:, 0, 0], golden["selected_experts_decode"][step])


def test_greedy_ids(model, golden):
    assert model.generate(golden["input_ids"], golden["pixel_values"], 7) == golden["greedy_ids"].tolist()


def test_hit_counts_of_the_published_routing_report(model, golden):
    # The published report counts the prefill's last position and each of the 7 tokens it fed.
    output = model(golden["input_ids"], golden["pixel_values"], use_cache=True)
    chosen = [output.routing.experts[:, 0, -1]]
    for token in golden["greedy_ids"]:
        _, routing, _ = model.decoder(model.decoder.embed_tokens(token.view(1, 1)), cache=output.cache)
        chosen.append(routing.experts[:, 0, 0])
    counts = torch.bincount(torch.stack(chosen).flatten(), minlength=4)
    assert counts.tolist() == golden["routing_hit_counts"].tolist()


def test_right_padded_batch_and_losses(model, golden):
    output = model(
        golden["batch_input_ids"],
        golden["batch_pixel_values"],
        golden["batch_attention_mask"],
        golden["batch_labels"],
    )
    close(output.logits, golden["batch_logits"], tolerances.LOGITS)
    close(output.routing.logits.flatten(1, 2), golden["batch_router_logits"])
    balance = router_balance_loss(output.routing.logits)
    close(output.loss, golden["batch_ce_loss"][0])
    close(balance, golden["batch_router_aux_loss"][0])
    close(output.loss + 0.01 * balance, golden["batch_loss"][0])


def test_left_padding_changes_neither_the_others_nor_the_row_itself(model, ops):
    ids, mask = torch.from_numpy(ops["leftpad_input_ids"]), torch.from_numpy(ops["leftpad_attention_mask"])
    logits = model(ids, attention_mask=mask).logits
    close(logits[:1], ops["leftpad_row0_alone_logits"], tolerances.LOGITS)
    padding = int((mask[1] == 0).sum())
    assert padding > 0
    close(logits[1:, padding:], model(ids[1:, padding:]).logits, tolerances.LOGITS)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("changes", "variant"),
    [
        ({"weight_quantizer": "absmean"}, "absmean_a8"),
        ({"weight_quantizer": "absmean", "activation_bits": 4}, "absmean_a4"),
        # The code of 2026-02-20 did not scale the image embeddings.
        (
            {"weight_quantizer": "absmean", "activation_bits": 4, "expert_norm": True, "image_embed_scale": 1.0},
            "commit_2026_02_20_a4",
        ),
    ],
)
def test_other_quantisers(tiny_checkpoint, golden, changes, variant):
    model = build(tiny_checkpoint, **changes)
    output = model(golden["input_ids"], golden["pixel_values"])
    same_up_to_a_flip(output.logits, golden[f"logits_{variant}"])
    same_up_to_a_flip(model(golden["text_input_ids"]).logits, golden[f"logits_text_only_{variant}"])


def test_single_modules(model, ops):
    block = model.decoder.layers[0]
    x = torch.from_numpy(ops["moe0_x"])
    y, logits, _, _ = block.moe(x)
    close(y, ops["moe0_y"])
    close(logits.flatten(0, 1), ops["moe0_router_logits"])
    close(block.moe.experts[0](x), ops["expert00_y"])
    close(block.moe.shared_expert(x), ops["shared0_y"])
    cos, sin = rope_tables(16, torch.arange(x.shape[1]), 10000.0)
    causal = torch.ones(x.shape[1], x.shape[1]).tril().bool()[None, None]
    close(block.attention(x, cos, sin, causal, None), ops["attn0_causal_y"])


def test_rotary_embedding(ops):
    cos, sin = rope_tables(16, torch.arange(64), 10000.0)
    close(cos, ops["rope_cos_hd16"])
    close(sin, ops["rope_sin_hd16"])
    cos, sin = rope_tables(16, torch.arange(7, 12), 10000.0)
    for part in "qk":
        close(apply_rope(torch.from_numpy(ops[f"rope_{part}"]), cos, sin), ops[f"rope_{part}_out_pos7"])


def test_router_losses(ops):
    close(router_balance_loss(torch.from_numpy(ops["aux_router_logits"])), ops["aux_loss"][0])
    logits = torch.from_numpy(ops["aux_router_logits"]).view(3, 2, 15, 4)
    close(expert_supervision_loss(logits, torch.from_numpy(ops["sup_targets"])), ops["sup_loss"][0])


def test_several_images_are_joined(model, golden):
    one = golden["pixel_values"]
    two = torch.stack([one, -one], dim=1)
    tokens = model.encode_image(two)
    close(tokens, torch.cat([model.encode_image(one), model.encode_image(-one)], dim=1))


def test_cache_in_pieces_equals_one_pass(model, golden):
    ids = golden["text_input_ids"]
    whole = model(ids).logits
    cache = KVCache()
    parts = [model.decoder(model.decoder.embed_tokens(piece), cache=cache)[0] for piece in ids.split(4, dim=1)]
    close(torch.cat(parts, dim=1), whole, tolerances.LOGITS)


def test_a_token_outside_the_vocabulary_is_refused_in_a_text_and_clamped_beside_an_image(model, golden):
    outside = torch.tensor([[1, 300]])
    with pytest.raises(InputError, match="300 is outside the vocabulary"):
        model(outside)
    inside = model(torch.tensor([[1, 299]]), golden["pixel_values"]).logits
    close(model(outside, golden["pixel_values"]).logits, inside)


def test_the_placeholder_is_read_as_padding_only_beside_an_image(model, golden):
    placeholder, padding = torch.tensor([[1, IMAGE_TOKEN]]), torch.tensor([[1, 0]])
    close(model(placeholder, golden["pixel_values"]).logits, model(padding, golden["pixel_values"]).logits)
    assert not torch.equal(model(placeholder).logits, model(padding).logits)


def test_the_full_size_has_exactly_the_published_parameters():
    config = EmberNetConfig.preset("embernet")
    with torch.device("meta"):
        model = EmberNet(config)
    assert sum(p.numel() for p in model.parameters()) == 840_804_992
    assert sum(p.numel() for p in model.decoder.parameters()) == 733_055_360


def test_initial_values_have_the_scale_of_their_fan_in():
    rng = np.random.default_rng(0)
    norm = EmberNet.initial_value("decoder.layers.0.attention.q_proj.norm.weight", (64,), rng)
    assert (norm == 1).all()
    assert not EmberNet.initial_value("decoder.layers.0.moe.router.bias", (8,), rng).any()
    weight = EmberNet.initial_value("decoder.layers.0.attention.q_proj.weight", (128, 400), rng)
    assert abs(weight.std() - 0.05) < 0.001
    assert abs(EmberNet.initial_value("decoder.embed_tokens.weight", (300, 64), rng).std() - 0.02) < 0.001
