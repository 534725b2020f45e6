"""Write a model of a bundle's shapes, with random ternary weights, for llama.cpp.

    python -m benchmarks.write_gguf --model full.ember

The architecture is qwen2moe: the same matrices, grouped-query attention and a mixture with a shared expert; it has a
gate on the shared expert besides, and no clips or inner norms. Matrices become TQ2_0 in one file and Q4_0 in another,
from the same weights; embedding and head become Q8_0, routers and norms float32. Needs the package `gguf`.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import BUILD, say
from benchmarks.shapes import Shapes, read_shapes

TYPES = ("TQ2_0", "Q4_0")


def gguf_path(model: Path, kind: str) -> Path:
    """Where the file of a bundle's shapes lies."""
    return BUILD / f"{model.resolve().stem}-{kind}.gguf"


def tensor_shapes(s: Shapes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, rows first, as numpy writes them."""
    H, F, E = s.hidden_size, s.intermediate_size, s.num_experts
    kv = s.num_kv_heads * s.head_dim
    yield "token_embd", (s.vocab_size, H)
    for layer in range(s.num_layers):
        block = {
            "attn_norm": (H,),
            "attn_q": (H, H),
            "attn_k": (kv, H),
            "attn_v": (kv, H),
            "attn_output": (H, H),
            "ffn_norm": (H,),
            "ffn_gate_inp": (E, H),
            "ffn_gate_exps": (E, F, H),
            "ffn_up_exps": (E, F, H),
            "ffn_down_exps": (E, H, F),
            "ffn_gate_inp_shexp": (H,),
            "ffn_gate_shexp": (F, H),
            "ffn_up_shexp": (F, H),
            "ffn_down_shexp": (H, F),
        }
        yield from ((f"blk.{layer}.{name}", shape) for name, shape in block.items())
    yield "output_norm", (H,)
    yield "output", (s.vocab_size, H)


def storage(name: str, kind: str) -> str:
    """The type a tensor is stored in."""
    if name in ("token_embd", "output"):
        return "Q8_0"
    part = name.rpartition(".")[2]
    is_matrix = part in ("attn_q", "attn_k", "attn_v", "attn_output") or part.endswith(("_exps", "_shexp"))
    return kind if is_matrix and "_inp" not in part else "F32"


def write(path: Path, shapes: Shapes, kind: str, seed: int = 0) -> None:
    """Write one file; `kind` is the type of the matrices. A tensor depends on the seed and its name alone."""
    import gguf
    from gguf import GGMLQuantizationType, quants

    part = path.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(part, "qwen2moe")
    writer.add_name(path.stem)
    writer.add_block_count(shapes.num_layers)
    writer.add_context_length(shapes.max_position_embeddings)
    writer.add_embedding_length(shapes.hidden_size)
    writer.add_feed_forward_length(shapes.intermediate_size)
    writer.add_expert_feed_forward_length(shapes.intermediate_size)
    writer.add_expert_shared_feed_forward_length(shapes.intermediate_size)
    writer.add_expert_count(shapes.num_experts)
    writer.add_expert_used_count(shapes.num_experts_per_tok)
    writer.add_head_count(shapes.num_attention_heads)
    writer.add_head_count_kv(shapes.num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(shapes.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, shape in tensor_shapes(shapes):
        stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        rng = np.random.default_rng([seed, stream])
        type_name = storage(name, kind)
        if name.endswith("norm"):
            values = np.ones(shape, np.float32)
        elif type_name == kind:  # ternary, of a size that keeps what flows through it
            values = rng.integers(-1, 2, shape, np.int8) * np.float32((1.5 / shape[-1]) ** 0.5)
        else:
            values = rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)
        if type_name == "F32":
            writer.add_tensor(f"{name}.weight", values)
        else:
            dtype = GGMLQuantizationType[type_name]
            writer.add_tensor(f"{name}.weight", quants.quantize(values, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="bundle with the shapes")
    arguments = parser.parse_args()
    shapes = read_shapes(arguments.model)
    for kind in TYPES:
        path = gguf_path(arguments.model, kind)
        write(path, shapes, kind)
        say(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
