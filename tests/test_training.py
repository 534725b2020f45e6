"""Drawings, the word tokenizer, packed conversations, the written-out gradient, and a training run in miniature."""

import copy
import dataclasses
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tokenizers.decoders import DecodeStream

from embernet.checkpoints import open_checkpoint
from embernet.data.scores import items_of, total
from embernet.data.synth import ATTRIBUTES, corpus
from embernet.data.synth.drawing import Question, Text
from embernet.data.tokenizer import BOS, EOS, IMAGE, PAD, UNKNOWN, build_tokenizer
from embernet.errors import InputError
from embernet.families import get_family
from embernet.initial import initial_tensors
from embernet.layers.bitlinear import BitLinear
from embernet.models.embernet.config import EmberNetConfig
from embernet.models.embernet.model import IGNORED_LABEL, EmberNet
from embernet.models.embernet.vision import build_stem
from embernet.quantization import WEIGHT_QUANTIZERS, get_quantizer
from embernet.training import loop
from embernet.training.batches import ConversationEncoder
from embernet.training.curriculum import Curriculum
from embernet.training.evaluation import generate_batch
from embernet.training.forward import packed_forward
from embernet.training.fused import FusedBitLinear, fuse_bitlinears
from embernet.training.loop import Phase, Progress, SavedRun
from embernet.training.muon import orthogonalize
from embernet.training.patches import PatchHead
from embernet.training.spark import Recipe, train_spark
from embernet.training.stem import add_norms, fold_norms
from tests.tolerances import FLOAT32

TOKENIZER = build_tokenizer(corpus())
CONFIG = EmberNetConfig.preset("spark")
ENCODER = ConversationEncoder(TOKENIZER, CONFIG)


@pytest.fixture(scope="module")
def model() -> EmberNet:
    model = EmberNet(dataclasses.replace(CONFIG, max_new_tokens=5)).eval()
    tensors = initial_tensors(get_family("embernet"), CONFIG, 0)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors})
    return model


# --- words --------------------------------------------------------------------------------------------------------


def test_the_preset_fits_the_tokenizer() -> None:
    assert CONFIG.vocab_size == TOKENIZER.get_vocab_size()
    ids = [CONFIG.pad_token_id, CONFIG.bos_token_id, CONFIG.eos_token_id, *CONFIG.image_token_ids]
    assert [TOKENIZER.token_to_id(token) for token in (PAD, BOS, EOS, IMAGE)] == ids
    prompts = [CONFIG.prompt_template.replace("{prompt}", prompt) for prompt in CONFIG.prompts.values()]
    assert all(TOKENIZER.token_to_id(UNKNOWN) not in TOKENIZER.encode(prompt).ids for prompt in prompts)


def test_spelling_case_and_space_do_not_matter() -> None:
    assert TOKENIZER.encode(" What COLOUR\n is it?").ids == TOKENIZER.encode("what color is it?").ids


def test_a_number_streams_as_it_is_written() -> None:
    stream = DecodeStream(skip_special_tokens=True)
    pieces = [stream.step(TOKENIZER, token) or "" for token in TOKENIZER.encode("the number 374").ids]
    assert "".join(pieces) == "the number 374"


# --- patches --------------------------------------------------------------------------------------------------------


def test_a_patch_head_reads_a_token_for_the_patches_of_its_cell() -> None:
    head = PatchHead(hidden_size=64, num_tokens=16, num_patches=64, attributes=ATTRIBUTES)
    labels = torch.zeros(1, 4, 64, dtype=torch.long)
    labels[0, 0, 8 * 3 + 5] = 4  # row 3, column 5: cell (1, 2), there row 1, column 1
    tokens = torch.zeros(1, 16, 64)
    tokens[0, 1 * 4 + 2, 0] = 1.0
    classes = sum(head.sizes)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.zero_()
        base = head(tokens, labels)
        head.linear.weight[(1 * 2 + 1) * classes + 4, 0] = 5.0
        assert head(tokens, labels) < base
        head.linear.weight[(1 * 2 + 1) * classes + 4, 0] = 0.0
        head.linear.weight[(0 * 2 + 1) * classes + 4, 0] = 5.0
        assert head(tokens, labels) > base


# --- conversations --------------------------------------------------------------------------------------------------


def test_long_texts_are_not_kept() -> None:
    encoder = ConversationEncoder(TOKENIZER, CONFIG)
    encoder.answer("star")
    tracemalloc.start()
    for number in range(500):
        encoder.answer(f"{number} " + "a red star " * 50)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000  # a tenth of their tokens


def test_a_conversation_is_encoded_as_the_runtime_feeds_it() -> None:
    ids, targets = ENCODER.conversation([("what is this?", "a red star"), ("how many shapes are there?", "one")])
    text = "<bos> what is this? answer: a red star <eos> how many shapes are there? answer: one"
    assert ids == TOKENIZER.encode(text).ids
    learnt = [ids[i + 1] if i + 1 < len(ids) else CONFIG.eos_token_id for i, t in enumerate(targets) if t >= 0]
    assert [t for t in targets if t != IGNORED_LABEL] == learnt
    assert TOKENIZER.decode(learnt, skip_special_tokens=False) == "a red star<eos> one<eos>"


def test_packed_conversations_are_computed_as_if_alone(model: EmberNet) -> None:
    conversations = [
        [("what is this?", "a red star")],
        [("where is the star?", "at the top"), ("what is this?", "a b")],
    ]
    image_tokens = torch.randn(1, CONFIG.num_image_tokens, CONFIG.hidden_size, generator=torch.manual_seed(0))
    together = packed_forward(model, image_tokens, ENCODER.pack([conversations]))
    alone = [packed_forward(model, image_tokens, ENCODER.pack([[c]])) for c in conversations]
    counts = [sum(t >= 0 for t in ENCODER.conversation(c)[1]) for c in conversations]
    expected = sum(output.loss * count for output, count in zip(alone, counts, strict=True)) / sum(counts)
    assert together.loss.item() == pytest.approx(expected.item(), abs=1e-4)
    ids, targets = (torch.tensor([part]) for part in ENCODER.conversation(conversations[1]))
    logits, _, _ = model.decoder(model.merge(ids, image_tokens))
    loss = torch.nn.functional.cross_entropy(logits[0, CONFIG.num_image_tokens :], targets[0])
    assert alone[1].loss.item() == pytest.approx(loss.item(), abs=1e-4)


def test_padding_changes_nothing(model: EmberNet) -> None:
    rows = [[[("what is this?", "a red star")]], [[("where is the star?", "at the top")], [("what is this?", "a b")]]]
    image_tokens = torch.randn(2, CONFIG.num_image_tokens, CONFIG.hidden_size, generator=torch.manual_seed(0))
    output = packed_forward(model, image_tokens, ENCODER.pack(rows))
    single = packed_forward(model, image_tokens[:1], ENCODER.pack(rows[:1]))
    torch.testing.assert_close(output.router_logits[:, output.rows == 0], single.router_logits, atol=1e-3, rtol=0)


def test_batched_greedy_answers_are_those_of_generate(model: EmberNet) -> None:
    prompts = torch.tensor([ENCODER.prompt("what is this?"), ENCODER.prompt("what do you see?")[:-1]])
    pixels = torch.rand(2, 3, CONFIG.image_size, CONFIG.image_size, generator=torch.manual_seed(0)) * 2 - 1
    with torch.no_grad():
        answers = generate_batch(model, model.encode_image(pixels), prompts)
    assert answers == [model.generate(prompts[i : i + 1], pixels[i : i + 1]) for i in range(2)]


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", WEIGHT_QUANTIZERS)
@pytest.mark.parametrize("bits", [8, 4])
def test_the_fused_bitlinear_is_the_plain_one(quantizer: str, bits: int) -> None:
    torch.manual_seed(0)
    plain = BitLinear(48, 40, get_quantizer(quantizer, bits))
    with torch.no_grad():
        plain.norm.weight.add_(torch.randn(48) * 0.3)
    fused = copy.deepcopy(plain)
    fuse_bitlinears(fused)
    assert isinstance(fused, FusedBitLinear)
    x = torch.randn(3, 7, 48)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(value) for layer, value in zip((plain, fused), inputs, strict=True)]
    assert torch.equal(*outputs)
    gradient = torch.randn(3, 7, 40)
    for output in outputs:
        output.backward(gradient)
    pairs = [(inputs[0].grad, inputs[1].grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(plain.parameters(), fused.parameters(), strict=True)]
    for expected, found in pairs:
        assert expected is not None
        assert found is not None
        torch.testing.assert_close(found, expected, atol=FLOAT32 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("shape", [(3, 20, 50), (3, 50, 20)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.shape == (3, 20)
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_folded_batch_norm_is_a_convolution_that_gives_the_same() -> None:
    config = dataclasses.replace(EmberNetConfig.preset("spark"), stem_channels=(4, 6))
    torch.manual_seed(0)
    stem = build_stem(config)
    names = list(stem.state_dict())
    add_norms(stem)
    pixels = torch.rand(4, 3, 24, 24) * 2 - 1
    for _ in range(3):
        stem(pixels)  # running mean and variance
    with torch.no_grad():
        for name, parameter in stem.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    expected = stem.eval()(pixels).detach()
    fold_norms(stem)
    assert list(stem.state_dict()) == names
    torch.testing.assert_close(stem(pixels), expected, atol=FLOAT32 * float(expected.abs().max()), rtol=0)


def test_gradients_in_bfloat16_are_nearly_those_in_float32() -> None:
    torch.manual_seed(0)
    exact = BitLinear(48, 40, get_quantizer("absmean", 8))
    rounded = copy.deepcopy(exact)
    fuse_bitlinears(exact)
    fuse_bitlinears(rounded, torch.bfloat16)
    x = torch.randn(70, 48)
    outputs = [layer(x) for layer in (exact, rounded)]
    assert torch.equal(*outputs)
    gradient = torch.randn(70, 40)
    for output in outputs:
        output.backward(gradient)
    assert exact.weight.grad is not None
    largest = float(exact.weight.grad.abs().max())
    torch.testing.assert_close(rounded.weight.grad, exact.weight.grad, atol=0.01 * largest, rtol=0)


# --- what is shown --------------------------------------------------------------------------------------------------


def scene(number: int) -> Text:
    questions = (Question("color", "what color is it?", "red"), Question("exists", "is there a star?", "yes"))
    return Text("scene", f"scene {number}", questions, "spatial_scene")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=(tmp_path / "group").as_uri(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_what_is_learnt_least_is_shown_most(alone: None) -> None:
    texts = [*(scene(number) for number in range(50)), *(Text("sign", "stop", (), "agentic_knowledge"),) * 50]
    curriculum, rng = Curriculum(texts), np.random.default_rng(0)
    drawn = curriculum.choose_drawings(400, rng)
    assert sorted(drawn.tolist()) == drawn.tolist()
    assert 160 < (drawn < 50).sum() < 240  # nothing is known yet
    items = items_of(texts)
    for _ in range(10):  # a loss is left in one kind alone, in the second of its answer's two tokens
        losses = [(0.0, float(item.kind == "scene: exists")) for item in items]
        curriculum.update(items, [2] * len(items), torch.tensor(losses).flatten())
    assert dict(zip(curriculum.places, curriculum.nats.tolist(), strict=True)) == pytest.approx(
        {"scene": 0, "scene: color": 0, "scene: exists": 1, "sign": 0}, abs=1e-3
    )
    assert (curriculum.choose_drawings(400, rng) < 50).mean() > 0.65
    first = [curriculum.shuffled(items_of(texts[:1]), rng)[0].kind for _ in range(200)]
    assert first.count("scene: exists") > 130


def test_the_losses_of_all_processes_count(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as they are shown: two answers weigh as two steps of one."""
    texts = [scene(0)]
    once, twice = Curriculum(texts), Curriculum(texts)
    items = items_of(texts)[:1]
    twice.update(items, [1], torch.zeros(1))
    twice.update(items, [1], torch.zeros(1))
    monkeypatch.setattr(dist, "all_reduce", lambda sums: sums.mul_(2))  # another process has the same
    once.update(items, [1], torch.zeros(1))
    torch.testing.assert_close(once.nats, twice.nats)


# --- a training run in miniature ------------------------------------------------------------------------------------

RECIPE = Recipe(
    drawings=16,
    see=Phase("see", 2, 1),
    gather=Phase("gather", 1, 1),
    speak=Phase("speak", 3, 2),
    vision_batch=2,
    speak_batch=2,
    validation_drawings=1,
)


def small_run(folder: Path, report: Callable[[Progress], object]) -> dict[str, np.ndarray]:
    scores = train_spark(folder, 0, RECIPE, processes=2, report=report)
    assert list(scores) == ["vision_ocr"]
    assert total(scores["vision_ocr"].values()).count > 1
    return dict(open_checkpoint(folder).tensors)


def test_a_training_that_is_broken_off_ends_as_if_it_were_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_INTERVAL", 2)
    done: list[tuple[str, int]] = []
    whole = small_run(tmp_path / "whole", lambda p: done.append((p.phase, p.done)))
    assert done[-1] == ("speak", 3)
    assert {name: array.shape for name, array in whole.items()} == EmberNet.tensor_shapes(
        EmberNetConfig.preset("spark")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]

    def break_off(progress: Progress) -> None:
        if (progress.phase, progress.done) == ("speak", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "parts", break_off)
    done.clear()
    parts = small_run(tmp_path / "parts", lambda p: done.append((p.phase, p.done)))
    assert done == [("speak", 3)]
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    SavedRun(tmp_path / "run.pt", "one").save(task=0, step=1)
    assert SavedRun(tmp_path / "run.pt", "one").load() == {"settings": "one", "task": 0, "step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    with pytest.raises(InputError, match="other settings"):
        SavedRun(tmp_path / "run.pt", "another").load()
    (tmp_path / "run.pt").write_bytes(b"no such thing")
    with pytest.raises(InputError, match="not the file of a run"):
        SavedRun(tmp_path / "run.pt", "one").load()
