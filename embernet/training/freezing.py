"""Which parameters a stage trains.

                stage 1                            stage 2
    promised    compressor, pooler, projector      routers, experts, shared experts
    reference   the same                           everything but SigLIP and the embedding
    none        everything                         everything

`promised` is what the published documents say, `reference` what the published code does; both keep SigLIP and the
embedding as they are. `none` is for a model that begins without SigLIP's weights, or whose images look like no others.
"""

import re
from collections.abc import Container

_STAGE_1 = re.compile(r"^vision_encoder\.(compressor|pooler|projector)\.")
_STAGE_2 = re.compile(r"\.moe\.(router|experts|shared_expert)\.")
_FROZEN = re.compile(r"^vision_encoder\.(stem|encoder)\.|^decoder\.embed_tokens\.|^image_newline$")
# Published checkpoints hold them, no code reads them: they have no gradient.
_UNUSED = re.compile(r"^image_newline$|^vision_encoder\.encoder\.head\.")
_EXPERT = re.compile(r"\.moe\.experts\.(\d+)\.")


def is_trained(name: str, stage: int, freeze: str, experts: Container[int] | None = None) -> bool:
    """Whether a stage trains the parameter called `name`; experts: these and nothing else."""
    if experts is not None:
        match = _EXPERT.search(name)
        return match is not None and int(match[1]) in experts
    if freeze == "none":
        return _UNUSED.search(name) is None
    if stage == 1:
        return _STAGE_1.search(name) is not None
    if freeze == "promised":
        return _STAGE_2.search(name) is not None
    return _FROZEN.search(name) is None
