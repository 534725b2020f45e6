"""Configuration of the EmberNet family, its presets, and the published forms it can be read from. No torch here."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from embernet.errors import InputError
from embernet.quantization import Quantizer, get_quantizer

EXPERT_DOMAINS = (
    "vision_ocr",
    "vision_diagram",
    "code_math_chart",
    "code_math_formula",
    "spatial_scene",
    "spatial_reasoning",
    "agentic_knowledge",
    "agentic_reasoning",
)

# Numbers of the architecture that no configuration changes.
VISION_RMS_EPS = 1e-5
EMBEDDING_CLIP = 10.0

PROMPTS = {
    "caption": "Describe this image.",
    "describe": "Describe this image in detail, including the objects, people, text, colours and the overall scene.",
    "ocr": "Extract and transcribe all visible text in this image, keeping its format and structure.",
    "chart": "Analyse this chart or graph: what it shows, its key data points, labels and values, and any trends or "
    "notable patterns.",
}


@dataclass(frozen=True)
class EmberNetConfig:
    """Every number of an EmberNet model. The defaults are the published full-size model's.

    Vision: a square image of `image_size` pixels is cut into patches of `patch_size`, encoded by a SigLIP tower, then
    `shuffle_factor`^2 neighbours are joined, and `num_image_tokens` queries read the result.
    Decoder: `num_layers` blocks of attention and `num_experts` experts; `num_experts_per_tok` act on a token, and a
    shared one.
    """

    family: ClassVar[str] = "embernet"

    # vision tower
    image_size: int = 224
    patch_size: int = 16
    # Channels of the convolutions that the patches are cut from; each halves the sides. None: patches of pixels.
    stem_channels: tuple[int, ...] = ()
    vision_hidden_size: int = 768
    vision_intermediate_size: int = 3072
    vision_num_layers: int = 12
    vision_num_heads: int = 12
    vision_norm_eps: float = 1e-6
    # compressor, pooler, projector
    shuffle_factor: int = 2
    num_image_tokens: int = 64
    resampler_num_heads: int = 8
    num_cross_attention_layers: int = 2
    image_embed_scale: float = 0.1
    # decoder
    vocab_size: int = 32002
    hidden_size: int = 768
    intermediate_size: int = 2048
    num_layers: int = 16
    num_attention_heads: int = 12
    num_kv_heads: int = 6
    max_position_embeddings: int = 4096
    num_experts: int = 8
    num_experts_per_tok: int = 2
    use_shared_expert: bool = True
    expert_domains: tuple[str, ...] = EXPERT_DOMAINS
    rms_norm_eps: float = 1e-6
    bitlinear_norm_eps: float = 1e-5
    rope_base: float = 10000.0
    # An RMSNorm between an expert's activation and its down projection (published code of 2026-02-20 to 02-22).
    expert_norm: bool = False
    # SigLIP's pooling head and `image_newline`: published checkpoints hold them, no code reads them.
    unused_parameters: bool = False
    # quantiser
    weight_quantizer: str = "absmean"
    activation_bits: int = 8
    # text
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    image_token_ids: tuple[int, ...] = (32000, 32001)
    prompt_template: str = "User: <image>\n{prompt}\nAssistant:"
    turn_template: str = "\nUser: {prompt}\nAssistant:"
    prompts: Mapping[str, str] = field(default_factory=lambda: dict(PROMPTS))
    max_new_tokens: int = 512
    top_k: int = 50
    top_p: float = 0.9
    # image
    resample: str = "bicubic"

    def __post_init__(self) -> None:
        _check_types(self)
        for name, (low, high) in _LIMITS.items():
            _check_range(name, getattr(self, name), low, high)
        for f in dataclasses.fields(self):
            if f.type is float:  # JSON's 1 is a float here, as what reads it expects
                object.__setattr__(self, f.name, float(getattr(self, f.name)))
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            _check_range(name, getattr(self, name), 0, self.vocab_size - 1)
        for channels in self.stem_channels:
            _check_range("stem_channels", channels, *_SIZE)
        if self.patch_size % 2 ** len(self.stem_channels):
            raise InputError(
                f"patch_size must be a multiple of 2 for each of stem_channels "
                f"(found {self.patch_size} and {len(self.stem_channels)} of them)"
            )
        for token in self.image_token_ids:
            _check_range("image_token_ids", token, 0, self.vocab_size - 1)
        _check_range("num_layers x num_experts", self.num_layers * self.num_experts, 1, _MAX_EXPERTS)
        for whole, part in _MULTIPLES:
            if getattr(self, whole) % getattr(self, part):
                raise InputError(
                    f"{whole} must be a multiple of {part} (found {getattr(self, whole)} and {getattr(self, part)})"
                )
        if self.num_experts_per_tok > self.num_experts:
            raise InputError(
                f"num_experts_per_tok is {self.num_experts_per_tok}, but there are {self.num_experts} experts"
            )
        if len(self.expert_domains) != self.num_experts:
            raise InputError(
                f"expert_domains names {len(self.expert_domains)} experts, num_experts is {self.num_experts}"
            )
        if self.head_dim % 2:
            raise InputError(f"hidden_size / num_attention_heads must be even for RoPE (found {self.head_dim})")
        if self.resample not in ("bicubic", "bilinear"):
            raise InputError(f"resample must be 'bicubic' or 'bilinear' (found {self.resample!r:.80})")
        for name in ("prompt_template", "turn_template"):
            if getattr(self, name).count("{prompt}") != 1:
                raise InputError(f"{name} must hold {{prompt}} exactly once")
        _ = self.quantizer

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def quantizer(self) -> Quantizer:
        return get_quantizer(self.weight_quantizer, self.activation_bits)

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def to_dict(self) -> dict[str, Any]:
        """The flat, JSON-ready form that our checkpoints and bundles store."""
        values = dataclasses.asdict(self)
        return {"family": self.family} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> "EmberNetConfig":
        """Read the form that `to_dict` writes; InputError begins with `where` and names an unknown or wrong key."""
        values = dict(values)
        family = values.pop("family", cls.family)
        if family != cls.family:
            raise InputError(f"{where}: wrong family (found {family!r:.80}, expected {cls.family!r})")
        known = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise InputError(f"{where}: unknown key {name!r:.80}")
        for name in ("stem_channels", "expert_domains", "image_token_ids"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        if "image_token_ids" not in values and type(values.get("vocab_size")) is int:
            # The default names ids of the published vocabulary, which a smaller one does not have.
            values["image_token_ids"] = tuple(i for i in cls.image_token_ids if i < values["vocab_size"])
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where}: {error}", error.hint) from None

    @classmethod
    def presets(cls) -> list[str]:
        """Names of the presets."""
        return list(_PRESETS)

    @classmethod
    def preset(cls, name: str) -> "EmberNetConfig":
        """The preset called `name`; KeyError if there is none."""
        return cls.from_dict(_PRESETS[name])


# Far above any EmberNet, and low enough that no product of sizes overflows and every float is one in single precision.
_SIZE, _DEPTH, _EPS = (1, 2**20), (1, 4096), (1e-12, 1)
_MAX_EXPERTS = 2**13  # in all layers together

_LIMITS: dict[str, tuple[float, float]] = {
    "image_size": (1, 4096),
    "patch_size": (1, 4096),
    "vision_hidden_size": _SIZE,
    "vision_intermediate_size": _SIZE,
    "vision_num_layers": _DEPTH,
    "vision_num_heads": _SIZE,
    "vision_norm_eps": _EPS,
    "shuffle_factor": (1, 64),
    "num_image_tokens": _SIZE,
    "resampler_num_heads": _SIZE,
    "num_cross_attention_layers": _DEPTH,
    "image_embed_scale": (1e-6, 1e6),
    "vocab_size": _SIZE,
    "hidden_size": _SIZE,
    "intermediate_size": _SIZE,
    "num_layers": _DEPTH,
    "num_attention_heads": _SIZE,
    "num_kv_heads": _SIZE,
    "max_position_embeddings": _SIZE,
    "num_experts": _DEPTH,
    "num_experts_per_tok": _DEPTH,
    "rms_norm_eps": _EPS,
    "bitlinear_norm_eps": _EPS,
    "rope_base": (1, 1e12),
    "max_new_tokens": _SIZE,
    "top_k": (0, 2**20),
    "top_p": (1e-6, 1),
}

_MULTIPLES = [
    ("image_size", "patch_size"),
    ("vision_hidden_size", "vision_num_heads"),
    ("vision_hidden_size", "resampler_num_heads"),
    ("hidden_size", "resampler_num_heads"),
    ("hidden_size", "num_attention_heads"),
    ("num_attention_heads", "num_kv_heads"),
]


def _is_text(value: Any) -> bool:
    """A text that UTF-8 can hold: JSON can also say half of a surrogate pair."""
    return type(value) is str and not any("\ud800" <= character <= "\udfff" for character in value)


_TYPE_CHECKS: dict[Any, Callable[[Any], bool]] = {
    int: lambda v: type(v) is int,
    float: lambda v: type(v) in (int, float),
    bool: lambda v: type(v) is bool,
    str: _is_text,
    tuple[str, ...]: lambda v: type(v) is tuple and all(map(_is_text, v)),
    tuple[int, ...]: lambda v: type(v) is tuple and all(type(item) is int for item in v),
    Mapping[str, str]: lambda v: isinstance(v, Mapping) and all(_is_text(item) for kv in v.items() for item in kv),
}


def _check_types(config: EmberNetConfig) -> None:
    """Refuse a value whose JSON type is not the field's: a file from a stranger must not reach the arithmetic."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if not _TYPE_CHECKS[f.type](value):
            kind = getattr(f.type, "__name__", str(f.type))
            raise InputError(f"{f.name} has the wrong type (found {value!r:.80}, expected {kind})")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # so that NaN is refused too
        raise InputError(f"{name} must lie between {low} and {high} (found {value!r:.80})")


_PRESETS: dict[str, dict[str, Any]] = {
    # The published model, with everything its checkpoints hold: 840,804,992 parameters.
    "embernet": {"weight_quantizer": "sign_mean", "unused_parameters": True},
    # The small model that comes with the package (`training.spark`): 25 cells of 24 pixels are enough to read.
    "spark": {
        "image_size": 120,
        "patch_size": 12,
        "stem_channels": [24, 48],
        "vision_hidden_size": 128,
        "vision_intermediate_size": 384,
        "vision_num_layers": 3,
        "vision_num_heads": 4,
        "num_image_tokens": 25,  # one for each cell of 2 x 2 patches
        "resampler_num_heads": 4,
        "image_embed_scale": 1.0,
        "vocab_size": 467,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_layers": 4,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "max_position_embeddings": 512,
        "image_token_ids": [3],
        "prompt_template": "{prompt} answer:",
        "turn_template": "{prompt} answer:",
        "prompts": {"caption": "describe the image", "describe": "describe this image.", "ocr": "what does it say?"},
        "max_new_tokens": 24,
    },
}
