"""Reading every published form of EmberNet checkpoints: key dialects, configuration dialects, inferred sizes.

Sizes come from the tensors' shapes; what shapes cannot tell comes from a configuration file or the caller, and is
otherwise asked for. A configuration that contradicts the tensors is refused.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from embernet.checkpoints import Overrides, RawCheckpoint, require_usable
from embernet.errors import InputError
from embernet.models.embernet.config import EMBEDDING_CLIP, EXPERT_DOMAINS, VISION_RMS_EPS, EmberNetConfig
from embernet.models.embernet.model import EmberNet
from embernet.quantization import ACTIVATION_BITS, WEIGHT_QUANTIZERS

TOWER = "vision_encoder.encoder"
_PUBLISHED_HEAD_DIM = 64
# Derived from the configuration, or statistics of training.
_BUFFERS = re.compile(r"\.rotary_emb\.(inv_freq|cos_cache|sin_cache)$|\.moe\.expert_usage$")
_STEM = re.compile(r"vision_encoder\.stem\.(\d{1,2})\.weight")
_UNUSED = re.compile(r"^image_newline$|^vision_encoder\.encoder\.head\.")


def read_checkpoint(
    raw: RawCheckpoint, overrides: Overrides
) -> tuple[EmberNetConfig, dict[str, Any], list[str]] | None:
    """Return configuration, tensors by canonical name, and warnings; None if this is another family's checkpoint."""
    tensors = _canonical(raw.tensors)
    if "decoder.embed_tokens.weight" not in tensors or "decoder.layers.0.moe.router.weight" not in tensors:
        return None
    if "decoder.layers.0.attention.q_proj.norm.weight" not in tensors:
        raise InputError(
            f"{raw.path}: its BitLinear layers have no norm: a checkpoint of before 2026-02-18 15:04 UTC, whose "
            "architecture was another one"
        )
    require_usable(raw.tensors, raw.path)
    _check_tied_head(raw, tensors)
    warnings: list[str] = []
    inferred = _infer(tensors, raw)
    given: dict[str, Any] = {}
    if raw.config is not None:
        given = _read_config(raw.config, str(raw.config_path), warnings)
        for name in inferred.keys() & given.keys():
            if inferred[name] != given[name]:
                raise InputError(
                    f"{raw.config_path}: {name} contradicts {raw.path.name} "
                    f"(found {given[name]!r:.80}, expected {inferred[name]})"
                )
    values = _published_defaults(tensors, raw) | inferred | given | overrides.given()
    _require_heads(values, tensors, raw)
    if "expert_domains" not in given and values["num_experts"] != len(EXPERT_DOMAINS):
        values["expert_domains"] = [f"expert_{i}" for i in range(values["num_experts"])]
    config = EmberNetConfig.from_dict(values, str(raw.config_path or raw.path))
    if not config.unused_parameters:
        tensors = {name: value for name, value in tensors.items() if not _UNUSED.search(name)}
    _check_shapes(config, tensors, raw)
    return config, tensors, warnings


def _canonical(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Our names: no DataParallel prefix, transformers-5 SigLIP names, no buffers."""
    named = {}
    for found, tensor in tensors.items():
        name = found.removeprefix("module.").replace(f"{TOWER}.vision_model.", f"{TOWER}.")
        if not _BUFFERS.search(name):
            named[name] = tensor
    return named


def _check_tied_head(raw: RawCheckpoint, tensors: dict[str, Any]) -> None:
    """Drop the head's tensor, which is the embedding's."""
    head = tensors.pop("decoder.lm_head.weight", None)
    embedding = tensors["decoder.embed_tokens.weight"]
    if head is not None and not (head.shape == embedding.shape and bool((head == embedding).all())):
        raise InputError(f"{raw.path}: decoder.lm_head.weight differs from the embedding; EmberNet's head is tied")


def _shape(tensors: Mapping[str, Any], name: str, dimensions: int, raw: RawCheckpoint) -> tuple[int, ...]:
    """Shape of a tensor that must be there."""
    if name not in tensors:
        raise InputError(f"{raw.path}: tensor {name} is missing")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions:
        raise InputError(
            f"{raw.path}: tensor {name} has the wrong shape (found {shape}, expected {dimensions} dimensions)"
        )
    return shape


def _infer(tensors: Mapping[str, Any], raw: RawCheckpoint) -> dict[str, Any]:
    """Every size that shapes tell."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        return _shape(tensors, name, dimensions, raw)

    def count(prefix: str) -> int:
        """How many parts are numbered under a name. The numbers are compared as text: one may have any length."""
        found = {m[1] for name in tensors if (m := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
        expected = {str(i) for i in range(len(found))}
        if found != expected:
            raise InputError(
                f"{raw.path}: {prefix} is numbered with gaps "
                f"(found {min(found - expected):.20}, expected 0 to {len(found) - 1})"
            )
        return len(found)

    patch = shape(f"{TOWER}.embeddings.patch_embedding.weight", 4)
    stem_layers = sorted((int(m[1]), name) for name in tensors if (m := _STEM.fullmatch(name)))
    stem = [shape(name, 4)[0] for _, name in stem_layers]
    reduction = 2 ** len(stem)
    num_patches = shape(f"{TOWER}.embeddings.position_embedding.weight", 2)[0]
    fc1 = shape(f"{TOWER}.encoder.layers.0.mlp.fc1.weight", 2)
    joined = shape("vision_encoder.compressor.pre_norm.weight", 1)[0]
    queries = shape("vision_encoder.projector.query_tokens", 3)
    embedding = shape("decoder.embed_tokens.weight", 2)
    gate = shape("decoder.layers.0.moe.experts.0.gate_proj.weight", 2)
    unused = any(_UNUSED.search(name) for name in tensors)
    return {
        "patch_size": patch[2] * reduction,
        "image_size": math.isqrt(num_patches) * patch[2] * reduction,
        "stem_channels": stem,
        "vision_hidden_size": patch[0],
        "vision_intermediate_size": fc1[0],
        "vision_num_layers": count(f"{TOWER}.encoder.layers"),
        "shuffle_factor": math.isqrt(joined // max(patch[0], 1)),
        "num_image_tokens": queries[1],
        "num_cross_attention_layers": count("vision_encoder.projector.cross_attn_layers"),
        "vocab_size": embedding[0],
        "hidden_size": embedding[1],
        "intermediate_size": gate[0],
        "num_layers": count("decoder.layers"),
        "num_experts": count("decoder.layers.0.moe.experts"),
        "use_shared_expert": "decoder.layers.0.moe.shared_expert.gate_proj.weight" in tensors,
        "expert_norm": "decoder.layers.0.moe.experts.0.norm.weight" in tensors,
        # All of them or none: a checkpoint that lost some is read as one without.
        "unused_parameters": unused and "image_newline" in tensors and f"{TOWER}.head.probe" in tensors,
    }


def _published_defaults(tensors: Mapping[str, Any], raw: RawCheckpoint) -> dict[str, Any]:
    """What published checkpoints mean where nothing says otherwise (docs/families/embernet.md, quantisers)."""
    four_bit = "decoder.layers.0.moe.experts.0.norm.weight" in tensors
    rope = next((name for name in raw.tensors if name.endswith("rotary_emb.cos_cache")), None)
    return {
        "weight_quantizer": "absmean" if four_bit else "sign_mean",
        "activation_bits": 4 if four_bit else 8,
        "max_position_embeddings": 4096 if rope is None else _shape(raw.tensors, rope, 2, raw)[0],
    }


def _require_heads(values: dict[str, Any], tensors: Mapping[str, Any], raw: RawCheckpoint) -> None:
    """Head counts: given, or the published head size of 64 where it fits, or asked for."""
    kv_width = _shape(tensors, "decoder.layers.0.attention.k_proj.weight", 2, raw)[0]
    for name, widths, flag in (
        ("num_attention_heads", (values["hidden_size"], kv_width), "--heads N"),
        ("vision_num_heads", (values["vision_hidden_size"],), "--vision-heads N"),
    ):
        if name not in values:
            if any(width % _PUBLISHED_HEAD_DIM for width in widths):
                raise InputError(
                    f"{raw.path}: {name} cannot be told from the tensors (widths {', '.join(map(str, widths))})",
                    hint=f"add {flag} or --config config.json",
                )
            values[name] = widths[0] // _PUBLISHED_HEAD_DIM
    heads = values["num_attention_heads"]
    if "num_kv_heads" not in values and type(heads) is int and heads > 0:  # a wrong value is named by the config
        head_dim = values["hidden_size"] // heads
        if not head_dim or kv_width % head_dim:
            raise InputError(
                f"{raw.path}: {heads} attention heads do not fit keys of width {kv_width}",
                hint="add --heads N or --config config.json",
            )
        values["num_kv_heads"] = kv_width // head_dim


def _check_shapes(config: EmberNetConfig, tensors: Mapping[str, Any], raw: RawCheckpoint) -> None:
    """Compare with what the configuration asks for, before anything is computed."""
    expected = EmberNet.tensor_shapes(config)
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    for problem, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            raise InputError(f"{raw.path}: {len(names)} tensors {problem}, the first is {names[0]}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise InputError(
                f"{raw.path}: tensor {name} has the wrong shape (found {tuple(tensors[name].shape)}, expected {shape})"
            )


# --- configuration dialects -----------------------------------------------------------------------------------------


def _read_config(values: Mapping[str, Any], where: str, warnings: list[str]) -> dict[str, Any]:
    """Values of a configuration file in our names; InputError if it is none of the known forms."""
    if "family" in values:
        config = EmberNetConfig.from_dict(values, where).to_dict()
        del config["family"]
        return config
    sections: list[tuple[Mapping[str, Any], dict[str, str]]]
    result: dict[str, Any] = {}
    if isinstance(values.get("language_decoder"), Mapping):
        if "activation_bits" in values["language_decoder"]:
            warnings.append(f"{where}: its quantization fields are ignored, they do not describe published weights")
        sections = [(values["language_decoder"], _MODEL_KEYS), (_section(values, "vision_encoder", where), _MODEL_KEYS)]
    elif isinstance(values.get("model"), Mapping):
        sections = [(_section(values, section, where), keys) for section, keys in _SECTIONS.items()]
        sections.append((values, {"image_embed_scale": "image_embed_scale"}))
        _check_fixed(values, where)
        result = _read_quantizer(_section(values, "bitlinear", where), where)
    elif "num_experts" in values and "hidden_size" in values:
        sections = [(values, _MODEL_KEYS)]
    else:
        raise InputError(f"{where}: not a configuration of the embernet family")
    for section, keys in sections:
        result |= {ours: section[theirs] for theirs, ours in keys.items() if theirs in section}
    if "image_token_id" in result:
        token = result.pop("image_token_id")
        # Both ids of the default have stood for the image in published checkpoints, whatever their configuration says.
        if token not in EmberNetConfig.image_token_ids:
            result["image_token_ids"] = [token]
    return result


def _read_quantizer(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The quantiser that the texts of a `bitlinear` section name."""
    result: dict[str, Any] = {}
    for key, ours, known in (
        ("weight_quant", "weight_quantizer", {name: name for name in WEIGHT_QUANTIZERS}),
        ("activation_quant", "activation_bits", {f"int{bits}": bits for bits in ACTIVATION_BITS}),
    ):
        if key in section:
            named = [value for name, value in known.items() if name in str(section[key])]
            if len(named) != 1:
                raise InputError(
                    f"{where}: bitlinear.{key} is unknown (found {section[key]!r:.80}, expected {' or '.join(known)})"
                )
            result[ours] = named[0]
    return result


def _check_fixed(values: Mapping[str, Any], where: str) -> None:
    """Refuse a sectioned configuration that asks for what no EmberNet does."""
    pooler_heads = _section(values, "pooler", where).get("num_heads", EmberNetConfig.resampler_num_heads)
    for section, key, expected in (
        ("vision_config", "hidden_act", "gelu_pytorch_tanh"),
        ("vision_config", "num_channels", 3),
        ("compressor", "norm_eps", VISION_RMS_EPS),
        ("pooler", "norm_eps", VISION_RMS_EPS),
        ("projector", "norm_eps", VISION_RMS_EPS),
        ("projector", "type", "cross_modal"),
        ("projector", "num_heads", pooler_heads),
        ("", "embed_clamp", EMBEDDING_CLIP),
    ):
        found = (_section(values, section, where) if section else values).get(key, expected)
        if found != expected:
            name = f"{section}.{key}".lstrip(".")
            raise InputError(f"{where}: {name} is fixed (found {found!r:.80}, expected {expected!r:.80})")


def _section(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise InputError(f"{where}: {name} must be an object")
    return section


_MODEL_KEYS = {
    name: name
    for name in (
        "num_image_tokens",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_layers",
        "num_attention_heads",
        "num_kv_heads",
        "max_position_embeddings",
        "num_experts",
        "num_experts_per_tok",
        "use_shared_expert",
        "expert_domains",
        "max_new_tokens",
        "top_p",
        "top_k",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "image_token_id",
    )
}

# The sectioned form: section -> its name of a value -> ours.
_SECTIONS = {
    "model": _MODEL_KEYS,
    "decoder": {"rms_norm_eps": "rms_norm_eps", "rope_base": "rope_base", "expert_domains": "expert_domains"},
    "vision_config": {
        "hidden_size": "vision_hidden_size",
        "intermediate_size": "vision_intermediate_size",
        "num_hidden_layers": "vision_num_layers",
        "num_attention_heads": "vision_num_heads",
        "image_size": "image_size",
        "patch_size": "patch_size",
        "layer_norm_eps": "vision_norm_eps",
    },
    "compressor": {"shuffle_factor": "shuffle_factor"},
    "pooler": {"num_heads": "resampler_num_heads"},
    "projector": {"num_cross_attn_layers": "num_cross_attention_layers"},
    "bitlinear": {"norm_eps": "bitlinear_norm_eps"},
}
