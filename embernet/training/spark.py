"""The recipe of `spark`, the small model that comes with the package: from nothing, on drawings, on a CPU.

Three phases:
    see      tower and compressor learn what is on every patch of a drawing (`patches`)
    gather   pooler and projector join; their queries start aligned with the image's cells (`_align_queries`)
    speak    the decoder joins; drawings are described and asked about
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from embernet.checkpoints import require_new, save_checkpoint
from embernet.data.scores import Item, Score, best_guesses, items_of
from embernet.data.synth import SynthDrawings, corpus
from embernet.data.synth.drawing import DESCRIBE, Attributes, Text
from embernet.data.tokenizer import build_tokenizer
from embernet.families import get_family
from embernet.initial import initial_tensors
from embernet.models.embernet.config import EmberNetConfig
from embernet.models.embernet.model import EmberNet, expert_supervision_loss, router_balance_loss
from embernet.models.embernet.vision import VisionEncoder
from embernet.training.batches import Conversation, ConversationEncoder, Turn
from embernet.training.cpu import HAS_BFLOAT16
from embernet.training.curriculum import Curriculum
from embernet.training.evaluation import evaluate
from embernet.training.forward import packed_forward
from embernet.training.fused import fuse_bitlinears
from embernet.training.loop import Phase, Progress, Report, SavedRun, Task, ignore_progress, run_tasks
from embernet.training.muon import Muon
from embernet.training.parallel import run_parallel
from embernet.training.patches import PatchHead
from embernet.training.pool import open_pool, render_pool
from embernet.training.stem import add_norms, fold_norms

PRESET = "spark"


@dataclass(frozen=True)
class Rates:
    """Learning rates of Muon and AdamW; those of the vision encoder are multiplied with `vision`."""

    muon: float
    adamw: float
    vision: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """How long and how fast. Batch sizes are drawings per process."""

    drawings: int = 240_000
    see: Phase = field(default=Phase("see", steps=4800, warmup_steps=80))
    see_rates: Rates = field(default=Rates(muon=1.2e-2, adamw=2e-3))
    gather: Phase = field(default=Phase("gather", steps=500, warmup_steps=80))
    gather_rates: Rates = field(default=Rates(muon=1.0e-2, adamw=2e-3))
    vision_batch: int = 48
    # How many times as often as others the drawings of a domain are shown in the phases of the vision encoder: print is
    # learnt last. When all is trained a `Curriculum` chooses.
    vision_shares: Mapping[str, float] = field(
        default_factory=lambda: {
            "vision_ocr": 4.0,
            "code_math_formula": 2.0,
            "agentic_reasoning": 2.0,
            "vision_diagram": 1.5,
        }
    )
    speak: Phase = field(default=Phase("speak", steps=4000, warmup_steps=80, clip_norm=2.0))
    speak_rates: Rates = field(default=Rates(muon=8e-3, adamw=3e-3, vision=0.4))
    speak_batch: int = 32
    speak_patch_weight: float = 0.3
    # Text tokens per drawing: its caption and questions are packed until they are used up.
    text_tokens: int = 56
    # How often a turn continues a conversation, so that chats are learnt too.
    continued: float = 0.2
    validation_drawings: int = 1600


def train_spark(
    output: str | os.PathLike[str],
    seed: int = 0,
    recipe: Recipe | None = None,
    processes: int = 2,
    report: Report = ignore_progress,
) -> dict[str, dict[str, Score]]:
    """Train spark, write its checkpoint to `output`, and return its scores on validation drawings by domain and kind.

    A training that was broken off is gone on with: until it is done, the folder `output`.training holds it. The
    result depends on the seed and the number of processes, not on the speed of the machine or on breaks. Two
    processes on two cores need hours (docs/spark.md) and 12 GB on disk.
    """
    recipe = recipe or Recipe()
    output = Path(output)
    require_new(output)
    tokenizer = build_tokenizer(corpus())
    config = EmberNetConfig.preset(PRESET)
    folder = output.with_name(f"{output.name}.training")
    settings = f"{recipe} {config} {SynthDrawings('train', seed).identity} {processes}"
    saved = SavedRun(folder / "run.pt", settings)
    saved.load()  # a folder of another run is refused before anything is drawn

    def rendered(done: int) -> None:
        report(Progress("draw", done, recipe.drawings, {}))

    pool = render_pool(folder, SynthDrawings("train", seed), recipe.drawings, config, processes, rendered)
    model = run_parallel(_train, processes, config, tokenizer.to_str(), saved, recipe, seed, report=report)
    validation = render_pool(folder, SynthDrawings("validation"), recipe.validation_drawings, config, processes)
    scores = evaluate(model, ConversationEncoder(tokenizer, config), validation, best_guesses(pool.texts))
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    save_checkpoint(output, config, shapes, tensors.items(), tokenizer.to_str())
    shutil.rmtree(folder)
    return scores


# Where a CPU multiplies bfloat16, it does so several times as fast as float32.
_DTYPE = torch.bfloat16 if HAS_BFLOAT16 else torch.float32


class _Trainee(nn.Module):
    """The model with what only training needs: heads, batch norm in the stem, faster BitLinears, what to show."""

    def __init__(self, config: EmberNetConfig, attributes: Attributes, texts: Sequence[Text], seed: int) -> None:
        super().__init__()
        self.model = EmberNet(config)
        _initialize(self.model, seed)
        add_norms(self.model.vision_encoder.stem)
        # torch's fused attention has a slow backward pass in bfloat16.
        self.model.vision_encoder.encoder.set_attn_implementation("eager")
        fuse_bitlinears(self.model, _DTYPE)
        patches, cells = config.num_patches, config.num_image_tokens
        self.tower_head = PatchHead(config.vision_hidden_size, patches, patches, attributes)
        self.compressor_head = PatchHead(config.vision_hidden_size, cells, patches, attributes)
        self.projector_head = PatchHead(config.hidden_size, cells, patches, attributes)
        self.curriculum = Curriculum(texts)

    def see(self, pixel_values: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The compressor's tokens (B, N, C), and the losses of the heads up to there."""
        encoder = self.model.vision_encoder
        with torch.autocast("cpu", _DTYPE, enabled=HAS_BFLOAT16):
            patches = encoder.patches(pixel_values)
            tokens = encoder.compressor(patches)
            losses = {"tower": self.tower_head(patches, labels), "compressor": self.compressor_head(tokens, labels)}
        return tokens.float(), losses

    def gather(self, pixel_values: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The projector's tokens (B, I, H), and the losses of all heads."""
        encoder = self.model.vision_encoder
        encoder.stem.eval()
        tokens, losses = self.see(pixel_values, labels)
        tokens = encoder.projector(encoder.pooler(tokens))
        return tokens, losses | {"projector": self.projector_head(tokens, labels)}


class _Sample(NamedTuple):
    """The drawings of one process and step: pixel values (B, 3, S, S), patch labels (B, 4, patches)."""

    texts: list[Text]
    pixel_values: Tensor
    labels: Tensor


def _train(
    config: EmberNetConfig,
    tokenizer_json: str,
    saved: SavedRun,
    recipe: Recipe,
    seed: int,
    report: Report = ignore_progress,
) -> EmberNet:
    """What each process does, on the drawings beside the file of the run."""
    drawings = SynthDrawings("train", seed)
    pool = open_pool(saved.path.parent, drawings, recipe.drawings, config)
    encoder = ConversationEncoder(Tokenizer.from_str(tokenizer_json), config)
    torch.manual_seed(seed)
    trainee = _Trainee(config, drawings.attributes, pool.texts, seed)

    vision_chances = _chances(pool.texts, recipe.vision_shares)

    def sample(indices: NDArray[np.int64], rng: np.random.Generator) -> _Sample:
        pixel_values = _shifted(pool.pixel_values(indices), rng)
        return _Sample([pool.texts[i] for i in indices], pixel_values, pool.labels(indices))

    def vision_sample(phase: int, step: int) -> _Sample:
        rng = np.random.default_rng([seed, phase, step, dist.get_rank()])
        return sample(np.sort(np.searchsorted(vision_chances, rng.random(recipe.vision_batch))), rng)

    def see(step: int) -> dict[str, Tensor]:
        drawn = vision_sample(0, step)
        return trainee.see(drawn.pixel_values, drawn.labels)[1]

    def gather(step: int) -> dict[str, Tensor]:
        drawn = vision_sample(1, step)
        return trainee.gather(drawn.pixel_values, drawn.labels)[1]

    def speak(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, 2, step, dist.get_rank()])
        drawn = sample(trainee.curriculum.choose_drawings(recipe.speak_batch, rng), rng)
        image_tokens, patch_losses = trainee.gather(drawn.pixel_values, drawn.labels)
        turns = [_turns(text, encoder, recipe, trainee.curriculum, rng) for text in drawn.texts]
        rows = [_conversations(row, recipe, rng) for row in turns]
        output = packed_forward(trainee.model, image_tokens * config.image_embed_scale, encoder.pack(rows))
        items = [item for row in turns for item in row]
        trainee.curriculum.update(items, [len(encoder.answer(item.answer)) for item in items], output.losses)
        experts = torch.tensor([config.expert_domains.index(text.domain) for text in drawn.texts])
        return {
            "text": output.loss,
            "balance": 0.01 * router_balance_loss(output.router_logits),
            "experts": 0.1 * expert_supervision_loss(output.router_logits[:, :, None], experts[output.rows]),
            **{name: recipe.speak_patch_weight * loss for name, loss in patch_losses.items()},
        }

    def align() -> None:
        # From here on the stem is what it will be without batch norm, and the same in all processes.
        stem = trainee.model.vision_encoder.stem.eval()
        for buffer in stem.buffers():
            dist.broadcast(buffer, 0)
        _align_queries(trainee.model.vision_encoder, pool.pixel_values(range(min(1024, len(pool)))))

    vision = "model.vision_encoder."
    seeing = (vision + "stem", vision + "encoder", vision + "compressor", "tower_head", "compressor_head")
    gathering = (vision, "tower_head", "compressor_head", "projector_head")
    tasks = (
        Task(recipe.see, see, lambda: _optimizers(trainee, seeing, recipe.see_rates)),
        Task(recipe.gather, gather, lambda: _optimizers(trainee, gathering, recipe.gather_rates), align),
        Task(recipe.speak, speak, lambda: _optimizers(trainee, ("",), recipe.speak_rates)),
    )
    run_tasks(trainee, tasks, saved, report)
    fold_norms(trainee.model.vision_encoder.stem)
    return trainee.model.eval()


def _initialize(model: EmberNet, seed: int) -> None:
    tensors = {name: torch.from_numpy(a) for name, a in initial_tensors(get_family("embernet"), model.config, seed)}
    # In a tower this narrow, a place must weigh as much as what is there.
    positions = tensors["vision_encoder.encoder.embeddings.position_embedding.weight"]
    positions /= positions.std()
    model.load_state_dict(tensors)


# Muon is for matrices that multiply; tables, routers and heads are none. Orthogonalising the many small matrices of
# the experts costs more than it brings.
_NOT_FOR_MUON = re.compile(r"position_embedding|queries|query_tokens|embed_tokens|router|\.experts\.|_head\.")


def _optimizers(trainee: _Trainee, prefixes: tuple[str, ...], rates: Rates) -> list[torch.optim.Optimizer]:
    """Muon and AdamW over the parameters whose names start with one of `prefixes`."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trainee.named_parameters():
        if name.startswith(prefixes):
            is_matrix = parameter.ndim >= 2 and not _NOT_FOR_MUON.search(name)
            groups.setdefault((is_matrix, "vision_encoder" in name), []).append(parameter)

    def with_rate(rate: float, for_muon: bool) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "lr": rate * (rates.vision if is_vision else 1.0)}
            for (is_matrix, is_vision), parameters in groups.items()
            if is_matrix == for_muon
        ]

    return [
        Muon(with_rate(rates.muon, for_muon=True), lr=rates.muon, dtype=_DTYPE),
        torch.optim.AdamW(with_rate(rates.adamw, for_muon=False), lr=rates.adamw, betas=(0.9, 0.98), fused=True),
    ]


@torch.no_grad()
def _align_queries(vision: VisionEncoder, pixel_values: Tensor) -> None:
    """Start query i of the pooler and of the projector as what tells cell i from the others.

    That is the mean over images of the cell's token, less the mean over cells. With equal query and key weights a
    query then finds its own cell from the first step; from random queries the two stages take very long to agree.
    """

    def places(tokens: Tensor) -> Tensor:
        mean = tokens.mean(dim=0)
        mean = mean - mean.mean(dim=0)
        return mean / mean.square().mean(dim=1, keepdim=True).sqrt()

    def tie(attention: nn.Module) -> None:
        query, key, _ = attention.get_parameter("in_proj_weight").chunk(3)
        key.copy_(query)

    tokens = vision.compressor(vision.patches(pixel_values))
    vision.pooler.queries.copy_(places(tokens)[None])
    tie(vision.pooler.attn)
    tokens = vision.projector.vision_proj(vision.pooler(tokens))
    vision.projector.query_tokens.copy_(places(tokens)[None])
    for attention in vision.projector.cross_attn_layers:
        tie(attention)


def _chances(texts: Sequence[Text], shares: Mapping[str, float]) -> NDArray[np.float64]:
    """Cumulative probability of every drawing; shares: by domain, 1 where there is none."""
    chances = np.cumsum([shares.get(text.domain, 1.0) for text in texts])
    return chances / chances[-1]


_MAX_SHIFT = 2  # pixels, of which a patch has six times as many


def _shifted(pixel_values: Tensor, rng: np.random.Generator) -> Tensor:
    """Each image moved a little, as a drawing is seen several times; the pixels at the edges are repeated."""
    size = pixel_values.shape[-1]
    padded = F.pad(pixel_values, (_MAX_SHIFT,) * 4, mode="replicate")
    places = rng.integers(0, 2 * _MAX_SHIFT, (len(padded), 2), endpoint=True).tolist()
    moved = [image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, places, strict=True)]
    return torch.stack(moved).contiguous(memory_format=torch.channels_last)


def _turns(
    text: Text, encoder: ConversationEncoder, recipe: Recipe, curriculum: Curriculum, rng: np.random.Generator
) -> list[Item]:
    """The caption and the questions of a drawing, in any order, as many as there is room for."""
    turns, room = [], recipe.text_tokens
    for item in curriculum.shuffled(items_of([text]), rng):
        # Half of the captions are asked for in the words of `embernet caption`.
        reworded = item.kind == text.kind and rng.random() < 0.5
        turn = (str(rng.choice(DESCRIBE)) if reworded else item.prompt, item.answer)
        length = len(encoder.conversation([turn])[0])
        if length <= room:
            turns.append(replace(item, prompt=turn[0]))
            room -= length
    return turns


def _conversations(turns: Sequence[Item], recipe: Recipe, rng: np.random.Generator) -> list[Conversation]:
    """Some turns continue a conversation, the others begin one."""
    conversations: list[list[Turn]] = []
    for item in turns:
        if conversations and rng.random() < recipe.continued:
            conversations[-1].append((item.prompt, item.answer))
        else:
            conversations.append([(item.prompt, item.answer)])
    return [*conversations]
