"""The domains of the experts: what examples are tagged with, and how often each is drawn in stage 2.

Tags and shares are those of the published training code; the order of the domains is the order of the experts.
"""

from dataclasses import dataclass

from embernet.data.example import GENERAL
from embernet.models.embernet.config import EXPERT_DOMAINS


@dataclass(frozen=True)
class Domain:
    """What training knows of a domain.

    tag: as in the published tag [DOMAIN: ...]. expert: index of the expert that its examples are meant for.
    curriculum_share, plain_share: part of stage 2's draws with the published curriculum, and without; each sums to 1.
    """

    tag: str
    expert: int
    curriculum_share: float
    plain_share: float


# What belongs to no expert has the index of the first, as published; training does not supervise it.
DOMAINS = {
    GENERAL: Domain("General", 0, 0.20, 0.10),
    "vision_ocr": Domain("OCR/Text Recognition", EXPERT_DOMAINS.index("vision_ocr"), 0.15, 0.20),
    "vision_diagram": Domain("Diagram Understanding", EXPERT_DOMAINS.index("vision_diagram"), 0.05, 0.20),
    "code_math_chart": Domain("Chart Analysis", EXPERT_DOMAINS.index("code_math_chart"), 0.08, 0.15),
    "code_math_formula": Domain("Math/Formula", EXPERT_DOMAINS.index("code_math_formula"), 0.05, 0.15),
    "spatial_scene": Domain("Scene Understanding", EXPERT_DOMAINS.index("spatial_scene"), 0.25, 0.05),
    "spatial_reasoning": Domain("Spatial Reasoning", EXPERT_DOMAINS.index("spatial_reasoning"), 0.15, 0.05),
    "agentic_knowledge": Domain("Knowledge Grounding", EXPERT_DOMAINS.index("agentic_knowledge"), 0.04, 0.05),
    "agentic_reasoning": Domain("Multi-step Reasoning", EXPERT_DOMAINS.index("agentic_reasoning"), 0.03, 0.05),
}
