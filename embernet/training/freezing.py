"""Which parameters a stage trains.

                stage 1                            stage 2
    promised    compressor, pooler, projector      routers, experts, shared experts
    reference   the same                           everything but SigLIP and the embedding

`promised` is what the published documents say, `reference` what the published code does. SigLIP and the embedding are
frozen in all of them.
"""

import re
from collections.abc import Container

_STAGE_1 = re.compile(r"^vision_encoder\.(compressor|pooler|projector)\.")
_STAGE_2 = re.compile(r"\.moe\.(router|experts|shared_expert)\.")
_FROZEN = re.compile(r"^vision_encoder\.(stem|encoder)\.|^decoder\.embed_tokens\.|^image_newline$")
_EXPERT = re.compile(r"\.moe\.experts\.(\d+)\.")


def is_trained(name: str, stage: int, freeze: str, experts: Container[int] | None = None) -> bool:
    """Whether a stage trains the parameter called `name`; experts: these and nothing else."""
    if experts is not None:
        match = _EXPERT.search(name)
        return match is not None and int(match[1]) in experts
    if stage == 1:
        return _STAGE_1.search(name) is not None
    if freeze == "promised":
        return _STAGE_2.search(name) is not None
    return _FROZEN.search(name) is None
