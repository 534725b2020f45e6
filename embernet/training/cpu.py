"""What this CPU multiplies fast, as far as torch tells: an older one does not, and its float32 is right everywhere."""

from collections.abc import Mapping

import torch

_CAPABILITIES: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()

HAS_BFLOAT16: bool = _CAPABILITIES.get("avx512_bf16", False)
HAS_BYTE_PRODUCTS: bool = _CAPABILITIES.get("avx512_vnni", False)
