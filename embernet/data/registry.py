"""The datasets that the published EmberNet was trained on, and those that its later releases added.

Samples and sizes are what the publishers of EmberNet state; `embernet data prepare` asks the hub for the real size.
A licence is the one on the dataset's page on the hub unless a comment says otherwise; it is about the annotations, and
images may have others.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from embernet.data.domains import DOMAINS
from embernet.data.example import GENERAL
from embernet.data.records import Columns
from embernet.errors import EmbernetError

PRIORITIES = ("critical", "recommended", "optional")
GROUPS = ("minimal", "critical", "recommended", "all")
UNKNOWN_LICENCE = "unknown"

_MINIMAL = ("llava_instruct_150k", "textvqa", "chartqa", "vqav2")
_PARQUET = ("*.parquet",)


@dataclass(frozen=True)
class HubFiles:
    """Files of a dataset repository on the hub.

    files: patterns, * stands for slashes too. unpack_into: where in the dataset's folder archives are unpacked.
    """

    repository: str
    files: tuple[str, ...] = _PARQUET
    unpack_into: str = ""


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset: what it is for, where it is, and how its records are read.

    hub_id: as published. alternate_id: a copy that later releases of EmberNet use, or that has the same data in a form
    that can be read without running its code. config: part of the repository. samples, size_gb: as published.
    separate_images: records name image files that are not part of the dataset. sources: what is fetched where the
    parquet files of `config` are not all. image_files: parquet files of images by id, which records share.
    train_split: which split is trained on where none is called train.
    """

    key: str
    hub_id: str
    stage: int
    domain: str
    samples: int
    size_gb: float
    priority: str
    licence: str
    description: str
    alternate_id: str | None = None
    config: str | None = None
    separate_images: bool = False
    dropped: bool = False  # by later releases of EmberNet, most often because the id led nowhere
    added: bool = False  # by later releases
    sources: tuple[HubFiles, ...] = ()
    image_files: HubFiles | None = None
    columns: Columns = field(default_factory=Columns)
    train_split: str | None = None

    @property
    def expert(self) -> int | None:
        """Index of the expert it is for; None = the projector, which stage 1 trains."""
        return None if self.domain == GENERAL else DOMAINS[self.domain].expert

    @property
    def downloads(self) -> tuple[HubFiles, ...]:
        """What is fetched from the hub, besides `image_files`."""
        files = (f"{self.config}/*.parquet",) if self.config else _PARQUET
        return self.sources or (HubFiles(self.alternate_id or self.hub_id, files),)


_ENTRIES = (
    DatasetEntry(
        "llava_instruct_150k",
        "liuhaotian/LLaVA-Instruct-150K",
        stage=1,
        domain=GENERAL,
        samples=150_000,
        size_gb=5,
        priority="critical",
        licence="cc-by-4.0",  # and the terms of OpenAI, whose GPT-4 wrote the text
        description="Conversations about COCO photos, written by GPT-4",
        alternate_id="adamo1139/llava-instruct-150k-with-images",
        sources=(
            HubFiles("liuhaotian/LLaVA-Instruct-150K", ("llava_instruct_150k.json",)),
            HubFiles("adamo1139/llava-instruct-150k-with-images", ("train2017.zip",)),
        ),
    ),
    DatasetEntry(
        "sharegpt4v",
        "Lin-Chen/ShareGPT4V",
        stage=1,
        domain=GENERAL,
        samples=100_000,
        size_gb=8,
        priority="critical",
        licence="cc-by-nc-4.0",
        description="Detailed descriptions, written by GPT-4V",
        config="ShareGPT4V",
        separate_images=True,
        sources=(HubFiles("Lin-Chen/ShareGPT4V", ("sharegpt4v_instruct_gpt4-vision_cap100k.json",)),),
    ),
    DatasetEntry(
        "allava_instruct",
        "FreedomIntelligence/ALLaVA-4V",
        stage=1,
        domain=GENERAL,
        samples=700_000,
        size_gb=6,
        priority="recommended",
        licence="apache-2.0",
        description="Diverse instructions and answers, written by GPT-4V",
        config="allava_vflan",
        sources=(
            HubFiles("FreedomIntelligence/ALLaVA-4V", ("allava_vflan/ALLaVA-Instruct-VFLAN-4V.json",)),
            HubFiles("Vision-Flan/vision-flan_191-task_1k", ("image_191-task_1k.zip",), "allava_vflan/images"),
        ),
    ),
    DatasetEntry(
        "coco_captions",
        "lmms-lab/COCO-Caption",
        stage=1,
        domain=GENERAL,
        samples=81_000,
        size_gb=13.3,
        priority="optional",
        licence=UNKNOWN_LICENCE,
        description="Short captions of photos",
        added=True,
    ),
    DatasetEntry(
        "conceptual_captions",
        "google-research-datasets/conceptual_captions",
        stage=1,
        domain=GENERAL,
        samples=3_300_000,
        size_gb=12,
        priority="optional",
        licence="other",  # free for any purpose; Google asks to be named
        description="Captions of images on the web, of which it holds only the addresses",
        config="unlabeled",
        separate_images=True,
        added=True,
        columns=Columns(images=("image_url",)),
    ),
    DatasetEntry(
        "textvqa",
        "textvqa",
        stage=2,
        domain="vision_ocr",
        samples=45_000,
        size_gb=2,
        priority="critical",
        licence="cc-by-4.0",  # of facebook/textvqa
        description="Questions about text in photos",
        alternate_id="lmms-lab/textvqa",
    ),
    DatasetEntry(
        "docvqa",
        "lmms-lab/DocVQA",
        stage=2,
        domain="vision_ocr",
        samples=50_000,
        size_gb=3,
        priority="critical",
        licence="apache-2.0",
        description="Questions about scanned documents",
        config="DocVQA",
    ),
    DatasetEntry(
        "ocrvqa",
        "howard-hou/OCR-VQA",
        stage=2,
        domain="vision_ocr",
        samples=200_000,
        size_gb=4,
        priority="recommended",
        licence=UNKNOWN_LICENCE,
        description="Questions about book covers",
        dropped=True,
    ),
    DatasetEntry(
        "ai2d",
        "lmms-lab/ai2d",
        stage=2,
        domain="vision_diagram",
        samples=15_000,
        size_gb=1.5,
        priority="critical",
        licence=UNKNOWN_LICENCE,
        description="Multiple-choice questions about diagrams in school books",
        columns=Columns(correct="answer"),
    ),
    DatasetEntry(
        "infovqa",
        "lmms-lab/InfographicVQA",
        stage=2,
        domain="vision_diagram",
        samples=30_000,
        size_gb=2.5,
        priority="recommended",
        licence="apache-2.0",
        description="Questions about infographics",
        alternate_id="lmms-lab/DocVQA",
        config="InfographicVQA",
        dropped=True,
    ),
    DatasetEntry(
        "chartqa",
        "ahmed-masry/ChartQA",
        stage=2,
        domain="code_math_chart",
        samples=32_000,
        size_gb=1,
        priority="critical",
        licence="gpl-3.0",
        description="Questions about bar, line and pie charts",
        alternate_id="HuggingFaceM4/ChartQA",
    ),
    DatasetEntry(
        "plotqa",
        "lmms-lab/PlotQA",
        stage=2,
        domain="code_math_chart",
        samples=224_000,
        size_gb=8,
        priority="recommended",
        licence="cc",
        description="Scientific plots with the data they show",
        alternate_id="achang/plot_qa",
        columns=Columns(prompt="Which data does this plot show?"),
    ),
    DatasetEntry(
        "figureqa",
        "lmms-lab/FigureQA",
        stage=2,
        domain="code_math_chart",
        samples=180_000,
        size_gb=5,
        priority="recommended",
        licence=UNKNOWN_LICENCE,
        description="Yes/no questions about drawn figures",
        dropped=True,
    ),
    DatasetEntry(
        "dvqa",
        "lmms-lab/DVQA",
        stage=2,
        domain="code_math_chart",
        samples=300_000,
        size_gb=3,
        priority="optional",
        licence=UNKNOWN_LICENCE,
        description="Questions about drawn bar charts",
        dropped=True,
    ),
    DatasetEntry(
        "mathvista",
        "AI4Math/MathVista",
        stage=2,
        domain="code_math_formula",
        samples=6_000,
        size_gb=1,
        priority="critical",
        licence="cc-by-sa-4.0",
        description="Mathematical questions about figures",
        columns=Columns(images=("decoded_image",)),
        train_split="testmini",  # the split whose answers are published
    ),
    DatasetEntry(
        "vqav2",
        "HuggingFaceM4/VQAv2",
        stage=2,
        domain="spatial_scene",
        samples=1_100_000,
        size_gb=25,
        priority="critical",
        licence="cc-by-4.0",
        description="Questions about photos",
        alternate_id="lmms-lab/VQAv2",
        sources=(HubFiles("lmms-lab/VQAv2", ("data/train-*", "data/validation-*")),),  # tests have no answers
    ),
    DatasetEntry(
        "visual_genome",
        "visual_genome",
        stage=2,
        domain="spatial_scene",
        samples=108_000,
        size_gb=15,
        priority="optional",
        licence="cc-by-4.0",  # of ranjaykrishna/visual_genome
        description="Regions of photos, described",
        dropped=True,
    ),
    DatasetEntry(
        "refcoco",
        "lmms-lab/RefCOCO",
        stage=2,
        domain="spatial_scene",
        samples=142_000,
        size_gb=2.3,
        priority="optional",
        licence=UNKNOWN_LICENCE,
        description="Phrases that point at one thing in a photo",
        added=True,
    ),
    DatasetEntry(
        "gqa",
        "lmms-lab/GQA",
        stage=2,
        domain="spatial_reasoning",
        samples=22_000_000,
        size_gb=15,
        priority="recommended",
        licence="mit",
        description="Questions made from scene graphs; fetched is the balanced part",
        config="train_balanced_instructions",
        image_files=HubFiles("lmms-lab/GQA", ("train_balanced_images/*.parquet",)),
        columns=Columns(image_key="imageId"),
    ),
    DatasetEntry(
        "nlvr2",
        "lmms-lab/NLVR2",
        stage=2,
        domain="spatial_reasoning",
        samples=107_000,
        size_gb=3,
        priority="optional",
        licence="cc-by-4.0",  # of HuggingFaceM4/NLVR2
        description="Statements about two photos, true or false",
        added=True,
        columns=Columns(images=("left_image", "right_image")),
        train_split="balanced_dev",
    ),
    DatasetEntry(
        "vsr",
        "cambridgeltl/vsr_random",
        stage=2,
        domain="spatial_reasoning",
        samples=10_000,
        size_gb=0.5,
        priority="optional",
        licence="apache-2.0",  # of its repository
        description="Statements about where things are in COCO photos, true or false",
        separate_images=True,
        added=True,
        sources=(HubFiles("cambridgeltl/vsr_random", ("*.jsonl",)),),
        columns=Columns(
            question="caption",
            answer="label",
            labels=("false", "true"),
            prompt="{question} Is this true or false?",
            image_folder="coco/train2017",
        ),
    ),
    DatasetEntry(
        "okvqa",
        "lmms-lab/OK-VQA",
        stage=2,
        domain="agentic_knowledge",
        samples=14_000,
        size_gb=1,
        priority="recommended",
        licence=UNKNOWN_LICENCE,
        description="Questions about photos that need general knowledge",
    ),
    DatasetEntry(
        "aokvqa",
        "lmms-lab/A-OKVQA",
        stage=2,
        domain="agentic_knowledge",
        samples=25_000,
        size_gb=1.5,
        priority="recommended",
        licence=UNKNOWN_LICENCE,
        description="Multiple-choice questions about photos that need knowledge",
        alternate_id="HuggingFaceM4/A-OKVQA",
    ),
    DatasetEntry(
        "scienceqa",
        "derek-thomas/ScienceQA",
        stage=2,
        domain="agentic_reasoning",
        samples=21_000,
        size_gb=2,
        priority="critical",
        licence="cc-by-sa-4.0",
        description="Multiple-choice questions of school science, half of them with an image",
    ),
    DatasetEntry(
        "clevr",
        "lmms-lab/CLEVR",
        stage=2,
        domain="agentic_reasoning",
        samples=850_000,
        size_gb=18,
        priority="optional",
        licence="cc-by-4.0",  # of the original
        description="Questions about rendered solids that need several steps",
        dropped=True,
    ),
    DatasetEntry(
        "winoground",
        "facebook/winoground",
        stage=2,
        domain="agentic_reasoning",
        samples=800,
        size_gb=0.2,
        priority="optional",
        licence=UNKNOWN_LICENCE,  # the hub asks to agree to terms
        description="Pairs of photos whose captions have the same words; fetched with an account, the first is read",
        added=True,
        columns=Columns(images=("image_0",), answer="caption_0"),
        train_split="test",
    ),
)

DATASETS = {entry.key: entry for entry in _ENTRIES}


def group(name: str) -> list[DatasetEntry]:
    """The datasets of "minimal", "critical", "recommended" (with the critical ones) or "all"."""
    if name == "minimal":
        return [DATASETS[key] for key in _MINIMAL]
    wanted = {"critical": PRIORITIES[:1], "recommended": PRIORITIES[:2], "all": PRIORITIES}[name]
    return [entry for entry in DATASETS.values() if entry.priority in wanted]


def total_size_gb(entries: Iterable[DatasetEntry]) -> float:
    """Sum of the published sizes."""
    return round(sum(entry.size_gb for entry in entries), 1)


def find_dataset(key: str) -> DatasetEntry:
    """The dataset of a name; EmbernetError that lists the nearest names, then all."""
    if key in DATASETS:
        return DATASETS[key]
    near = difflib.get_close_matches(key.lower(), DATASETS, n=3)
    guess = f"perhaps {' or '.join(near)}; " if near else ""
    raise EmbernetError(f"{key}: no such dataset ({guess}known: {', '.join(DATASETS)})")
