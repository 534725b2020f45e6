"""The verbs: caption, ask, encode, chat; and the loop below them on a stand-in model."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import tracemalloc
import weakref

import numpy as np
import pytest

from embernet.errors import BundleError, InputError, OutOfMemoryError
from embernet.runtime import load
from embernet.runtime.answer import Routing
from embernet.runtime.bundle import open_bundle
from embernet.runtime.generation import generate
from embernet.runtime.model import Model
from embernet.runtime.packing import expert_bytes, ternary_shape
from embernet.runtime.pipelines import embernet as embernet_pipeline
from embernet.runtime.pipelines.base import Step
from embernet.runtime.sampling import Sampler, Sampling
from embernet.runtime.text import TextCodec
from tests.test_cli import ROOT

EOS = 2


@pytest.fixture(scope="module")
def model(tiny_bundle) -> Model:
    return load(tiny_bundle)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)


class StandInContext:
    """A model that always continues n with n + 1, and chooses expert n % 4 in each of its two layers."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.seen: list[int] = []
        self.images = 0

    def feed(self, input_ids, image_features=None, all_logits=False) -> Step:
        if image_features is not None:
            self.images += 1
            self.length += image_features.shape[0] * image_features.shape[1]
        self.seen += input_ids
        self.length += len(input_ids)
        assert self.length <= self.capacity
        logits = np.zeros((1, 300), np.float32)
        logits[0, input_ids[-1] + 1] = 1
        experts = np.array([[[token % 4] for token in input_ids]] * 2)
        return Step(logits, experts, np.ones(experts.shape, np.float32))


class StandInPipeline:
    features_shape = (16, 64)

    def __init__(self) -> None:
        self.contexts: list[StandInContext] = []
        self.encoded = 0

    def encode(self, pixel_values):
        self.encoded += 1
        return np.zeros((1, 16, 64), np.float32)

    def new_context(self, capacity):
        self.contexts.append(StandInContext(capacity))
        return self.contexts[-1]


@pytest.fixture
def pipeline() -> StandInPipeline:
    return StandInPipeline()


@pytest.fixture
def stand_in(tiny_bundle, pipeline) -> Model:
    bundle = open_bundle(tiny_bundle)
    prompt = dataclasses.replace(bundle.manifest.prompt, template="w7 {prompt}", turn="w8 {prompt}")
    manifest = dataclasses.replace(bundle.manifest, prompt=prompt)
    return Model(dataclasses.replace(bundle, manifest=manifest), pipeline, context_length=64, load_ms=1.0)


# --- the loop -------------------------------------------------------------------------------------------------------


def ids_of(context, start: list[int], limit: int) -> list[int]:
    tokens = generate(context, context.feed(start), Sampler(Sampling()), EOS, limit)
    return [token for token, _ in tokens]


def test_generation_stops_after_the_end_token():
    assert ids_of(StandInContext(100), [0], 10) == [1, 2]


def test_generation_stops_at_the_limit_without_running_the_model_once_more():
    context = StandInContext(100)
    assert ids_of(context, [10], 3) == [11, 12, 13]
    assert context.seen == [10, 11, 12]


def test_generation_stops_when_the_context_is_full():
    assert ids_of(StandInContext(3), [10], 100) == [11, 12, 13]


# --- one answer -----------------------------------------------------------------------------------------------------


def test_an_answer_says_what_it_used(stand_in, photo):
    answer = stand_in.ask(photo, "w10", max_tokens=4)
    assert answer.text == "w11 w12 w13 w14"
    assert answer.finish_reason == "length"
    assert vars(answer.usage) == {"image_tokens": 16, "prompt_tokens": 3, "completion_tokens": 4}
    # w10 -> expert 2, w11 -> 3, w12 -> 0, w13 -> 1; once per generated token and layer.
    assert answer.routing.counts == ((1, 1, 1, 1), (1, 1, 1, 1))
    assert answer.routing.experts == stand_in.manifest.experts
    assert sum(answer.routing.share().values()) == pytest.approx(1)


def test_the_end_token_is_not_part_of_the_text(stand_in, photo):
    prompt = dataclasses.replace(stand_in.manifest.prompt, template="{prompt} <pad>")
    stand_in.manifest = dataclasses.replace(stand_in.manifest, prompt=prompt)
    answer = stand_in.ask(photo, "w10")
    assert (answer.text, answer.finish_reason, answer.token_ids) == ("", "stop", (1, 2))


def test_special_tokens_that_a_user_types_are_not_special(stand_in, pipeline, photo):
    chat = stand_in.chat(photo)
    chat.ask("w10 <image> w20 <eos>", max_tokens=1)
    chat.ask("<im<image>age> w30", max_tokens=1)
    (context,) = pipeline.contexts
    unknown = 299
    assert context.seen == [1, 7, 10, 20, 21, 8, unknown, unknown, 30]


def test_a_prompt_that_is_no_text(stand_in, photo):
    with pytest.raises(InputError, match="the prompt is not valid Unicode text .* at 4"):
        stand_in.ask(photo, "w10 \udcff")
    for empty in ("", " \n"):
        with pytest.raises(InputError, match="the prompt is empty"):
            stand_in.ask(photo, empty)


def test_timings_add_up(tiny_bundle, photo):
    answer = load(tiny_bundle).ask(photo, "w10 w11", max_tokens=3)
    t = answer.timings
    assert min(t.preprocess_ms, t.vision_ms, t.prefill_ms, t.decode_ms) > 0
    assert t.total_ms == t.preprocess_ms + t.vision_ms + t.prefill_ms + t.decode_ms
    assert answer.tokens_per_second > 0
    assert answer.to_dict()["timings"]["total_ms"] == t.total_ms


def test_an_image_that_was_encoded_before_takes_no_time(model, photo):
    model.encode(photo)
    assert model.encode(photo).vision_ms == 0
    assert model.ask(photo, "w10", max_tokens=1).timings.vision_ms == 0
    for answer in (model.ask(model.encode(photo), "w10", max_tokens=1), model.chat(photo).ask("w10", max_tokens=1)):
        assert answer.timings.preprocess_ms == answer.timings.vision_ms == 0


def test_streaming_gives_the_same_text_and_the_same_answer(model, photo):
    whole = model.ask(photo, "w20 w30", max_tokens=8)
    stream = model.ask(photo, "w20 w30", max_tokens=8, stream=True)
    assert "".join(stream) == whole.text
    assert stream.answer.token_ids == whole.token_ids
    assert stream.answer.routing == whole.routing
    assert stream.answer.finish_reason == whole.finish_reason


def test_a_stream_that_is_closed_is_interrupted(stand_in, photo):
    stream = stand_in.ask(photo, "w10", stream=True)
    assert next(stream) == "w11"
    stream.close()
    assert stream.answer.finish_reason == "interrupted"
    assert stream.answer.text == "w11"
    assert list(stream) == []


def test_caption_uses_the_models_own_prompt(model, photo):
    captioned = model.caption(photo, max_tokens=3)
    asked = model.ask(photo, "Describe this image.", max_tokens=3)
    assert captioned.token_ids == asked.token_ids
    assert "".join(model.caption(photo, max_tokens=3, stream=True)) == captioned.text


def test_sampling_is_repeatable_and_threads_do_not_change_the_text(tiny_bundle, model, photo):
    options = {"temperature": 1.0, "seed": 3, "max_tokens": 8}
    assert model.ask(photo, "w9", **options).token_ids == model.ask(photo, "w9", **options).token_ids
    one = load(tiny_bundle, threads=1)
    assert one.ask(photo, "w9", max_tokens=8).token_ids == model.ask(photo, "w9", max_tokens=8).token_ids


def test_generated_ids_of_the_numeric_layer_are_those_of_ask(model, photo):
    encoded = model.encode(photo)
    prompt = model.encode_first_turn("w20")
    context = model.new_context(len(prompt.ids), encoded.features, room=6)
    assert context.capacity == 16 + len(prompt.ids) + 6
    from embernet.runtime.image import load_image, preprocess

    pixels = preprocess(load_image(photo).rgb, model.manifest.image)
    ids = model.generate_ids(prompt.ids, pixels, max_new_tokens=6)
    assert ids == list(model.ask(encoded, "w20", max_tokens=6).token_ids)


def test_unknown_words_are_warned_about(stand_in, photo):
    assert stand_in.ask(photo, "zebra w10").warnings == ("tiny does not know 'zebra'",)
    assert stand_in.ask(photo, "w10").warnings == ()


# --- images ---------------------------------------------------------------------------------------------------------


def test_images_are_remembered_by_content_never_by_path(stand_in, pipeline, tmp_path, photo):
    from PIL import Image

    path = tmp_path / "camera.png"
    Image.fromarray(photo).save(path)
    stand_in.encode(path)
    stand_in.encode(photo)
    assert pipeline.encoded == 1
    Image.fromarray(255 - photo).save(path)
    stand_in.encode(path)
    assert pipeline.encoded == 2


def test_only_the_latest_images_are_remembered(stand_in, pipeline):
    for value in range(10):
        stand_in.encode(np.full((4, 4), value * 20, np.uint8))
    stand_in.encode(np.full((4, 4), 180, np.uint8))
    assert pipeline.encoded == 10
    stand_in.encode(np.full((4, 4), 0, np.uint8))
    assert pipeline.encoded == 11


def test_an_encoded_image_is_accepted_everywhere(stand_in, pipeline, photo):
    encoded = stand_in.encode(photo)
    assert (encoded.width, encoded.height, encoded.sha256) == (100, 80, None)
    stand_in.ask(encoded, "w10", max_tokens=1)
    stand_in.chat(encoded).ask("w10", max_tokens=1)
    assert stand_in.encode(encoded) is encoded
    assert pipeline.encoded == 1


def test_an_encoded_image_cannot_be_changed(model, photo):
    with pytest.raises(ValueError, match="read-only"):
        model.encode(photo).features[:] = 0


def test_an_image_that_another_model_encoded(stand_in, photo):
    features = np.zeros((1, 64, 768), np.float32)
    encoded = dataclasses.replace(stand_in.encode(photo), features=features, name="cat.png")
    for refused in (stand_in.encode, stand_in.chat, lambda image: stand_in.ask(image, "w10")):
        with pytest.raises(InputError, match=r"cat.png: was encoded by another model .found \(1, 64, 768\), expected"):
            refused(encoded)


# --- chat -----------------------------------------------------------------------------------------------------------


def test_a_conversation_stays_in_the_context(stand_in, pipeline, photo):
    chat = stand_in.chat(photo)
    assert chat.ask("w10", max_tokens=2).text == "w11 w12"
    assert chat.ask("w20", max_tokens=2).text == "w21 w22"
    (context,) = pipeline.contexts
    # bos, first template, answer (its last token fed late), second template
    assert context.seen == [1, 7, 10, 11, 12, 8, 20, 21]
    assert context.images == 1
    assert [turn.answer.usage.prompt_tokens for turn in chat.turns] == [3, 2]  # 12 is counted once


@pytest.mark.parametrize(
    ("question", "options"), [("w20 " * 100, {}), ("w20", {"top_p": 0.0}), ("w20", {"max_tokens": 0})]
)
def test_a_refused_question_forgets_nothing(stand_in, pipeline, photo, question, options):
    chat = stand_in.chat(photo)
    chat.ask("w10", max_tokens=2)
    for _ in range(2):
        with pytest.raises(InputError):
            chat.ask(question, **options)
    assert [turn.question for turn in chat.turns] == ["w10"]
    chat.ask("w20", max_tokens=1)
    assert pipeline.contexts[-1].seen == [1, 7, 10, 11, 12, 8, 20]


def test_a_finished_answer_gives_the_context_back(stand_in, pipeline, photo):
    chat = stand_in.chat(photo)
    chat.ask("w10", max_tokens=2)
    context = weakref.ref(pipeline.contexts.pop())
    turns = chat.turns
    chat.clear()
    assert (turns[0].answer.text, context()) == ("w11 w12", None)


def test_without_history_every_question_is_the_first(stand_in, pipeline, photo):
    chat = stand_in.chat(photo, history=False)
    chat.ask("w10", max_tokens=2)
    chat.ask("w20", max_tokens=2)
    assert [context.seen for context in pipeline.contexts] == [[1, 7, 10, 11], [1, 7, 20, 21]]


def test_the_oldest_turns_are_forgotten_when_the_context_is_full(stand_in, pipeline, photo):
    chat = stand_in.chat(photo)
    for turn in range(6):
        chat.ask(f"w{20 * turn + 10} w10 w10 w10 w{20 * turn + 11}", max_tokens=8)
    assert len(pipeline.contexts) > 1
    assert len(chat.turns) < 6
    last = pipeline.contexts[-1].seen
    assert last[:2] == [1, 7]  # what is left begins with a first turn
    assert 111 in last
    assert 10 + 20 * 0 not in last[:3]
    assert chat.turns[-1].question.startswith("w110")


def test_an_interrupted_answer_counts_as_far_as_it_came(stand_in, pipeline, photo):
    chat = stand_in.chat(photo)
    stream = chat.ask("w10", stream=True)
    next(stream)
    chat.ask("w20", max_tokens=1)
    assert pipeline.contexts[-1].seen == [1, 7, 10, 11, 8, 20]


def test_a_question_that_was_never_run_is_forgotten(stand_in, pipeline, photo):
    chat = stand_in.chat(photo)
    chat.ask("w10", stream=True)
    chat.ask("w20", max_tokens=1)
    assert pipeline.contexts[-1].seen == [1, 7, 20]


def test_clear_and_load_begin_anew(stand_in, pipeline, photo):
    chat = stand_in.chat(photo)
    chat.ask("w10", max_tokens=1)
    chat.clear()
    assert chat.turns == []
    chat.ask("w20", max_tokens=1)
    assert pipeline.contexts[-1].seen == [1, 7, 20]
    chat.load(255 - photo)
    assert chat.turns == []
    assert pipeline.encoded == 2


@pytest.mark.parametrize("question", ["w30", "<image> w30"])
def test_a_real_conversation_equals_its_whole_text_at_once(
    exact_bundle, tiny_tokenizer, tiny_checkpoint, tmp_path, photo, question
):
    from embernet.export.bundle import ExportOptions, export_bundle

    options = ExportOptions(vision="float32", embedding="float32", tokenizer=str(tiny_tokenizer))
    export_bundle(tiny_checkpoint, tmp_path / "x.ember", options)
    model = load(tmp_path / "x.ember")
    chat = model.chat(photo)
    first, second = (chat.ask(question, max_tokens=5) for question in ("w20 w21", question))
    ids = [*model.encode_first_turn("w20 w21").ids, *first.token_ids]
    ids += model.codec.encode(model.manifest.prompt.turn, question).ids
    from embernet.runtime.image import load_image, preprocess

    pixels = preprocess(load_image(photo).rgb, model.manifest.image)
    assert model.generate_ids(ids, pixels, max_new_tokens=5) == list(second.token_ids)


# --- what cannot be done --------------------------------------------------------------------------------------------


def test_a_question_that_is_too_long(stand_in, photo):
    with pytest.raises(InputError, match="does not fit the context .found 102 text and 16 image tokens"):
        stand_in.ask(photo, "w10 " * 100)
    with pytest.raises(InputError, match="does not fit the context"):
        stand_in.chat(photo).ask("w10 " * 100)


def test_an_answer_ends_where_the_context_ends(stand_in, photo):
    answer = stand_in.ask(photo, "w10 " * 40)
    assert answer.finish_reason == "length"
    assert answer.usage.completion_tokens == 64 - 16 - 42 + 1


def test_token_ids_outside_the_vocabulary(model):
    with pytest.raises(InputError, match="must be from 0 to 299"):
        model.forward([1, 300])
    with pytest.raises(InputError, match="must be from 0 to 299"):
        model.forward([-1])
    with pytest.raises(InputError, match="must be from 0 to 299"):
        model.forward([300], np.zeros((1, 3, 64, 64)))
    with pytest.raises(InputError, match="does not fit the context"):
        model.forward([])


@pytest.mark.parametrize("ids", [[1.5], [2**70], [[1, 2]], [[1], [1, 2]], [True], "12", None])
def test_token_ids_that_are_none(model, ids):
    with pytest.raises(InputError, match="token ids must be one row of whole numbers"):
        model.forward(ids)
    with pytest.raises(InputError, match="token ids must be one row of whole numbers"):
        model.generate_ids(ids)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 3, 32, 64), (0, 3, 64, 64), ()])
def test_pixel_values_of_another_shape(model, shape):
    with pytest.raises(InputError, match=r"pixel_values must be numbers of the shape .N, 3, 64, 64."):
        model.forward([1], np.zeros(shape, np.float32))


def test_pixel_values_are_any_finite_numbers(model):
    pixels = np.random.default_rng(0).integers(0, 2, (1, 3, 64, 64))
    expected = model.forward([1, 5], pixels.astype(np.float32)).logits
    for values in (pixels, pixels.astype(np.float64)):
        np.testing.assert_array_equal(model.forward(np.array([1, 5], np.int32), values).logits, expected)
    with pytest.raises(InputError, match="must be numbers"):
        model.forward([1], pixels.astype(str))
    for value in (np.nan, np.inf, 1e300):
        with pytest.raises(InputError, match="must be finite"):
            model.forward([1], np.full((1, 3, 64, 64), value))


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"max_tokens": 1.5}, {"temperature": -1.0}, {"top_p": 2.0}])
def test_impossible_options_are_refused_before_the_image_is_looked_at(model, options):
    with pytest.raises(InputError, match="must be"):
        model.ask("nothing.jpg", "w10", **options)


def test_misspelt_options_name_the_known_ones(model, photo):
    for call in (model.caption, model.chat(photo).ask, lambda image, **options: model.generate_ids([1], **options)):
        with pytest.raises(TypeError, match="unknown option 'temprature' .known: max_tokens, seed, temperature, top_k"):
            call(photo, temprature=None)


def test_impossible_contexts_and_threads(tiny_bundle):
    for context in (0, 257, 1.5, True, 10**30):
        with pytest.raises(InputError, match="context must be from 1 to 256, a whole number"):
            load(tiny_bundle, context=context)
    assert load(tiny_bundle, context=40).context_length == 40
    for threads in (0, 257, -1, 1.5, 10**30):
        with pytest.raises(InputError, match="threads must be from 1 to 256, a whole number"):
            load(tiny_bundle, threads=threads)


def test_a_task_the_model_has_not_learnt(stand_in):
    with pytest.raises(InputError, match="has not learnt 'sing'"):
        stand_in.prompt("sing")


def test_a_bundle_without_tokenizer_runs_ids_but_says_why_it_cannot_talk(exact_bundle, photo, io):
    model = load(exact_bundle)
    assert model.generate_ids(io["input_ids"][0].tolist(), io["pixel_values"], 2) == io["greedy_ids"][:2].tolist()
    with pytest.raises(BundleError, match="holds no tokenizer") as caught:
        model.ask(photo, "hello")
    assert "--tokenizer" in caught.value.hint


def test_a_character_of_several_tokens_is_never_cut(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    text = "a \N{SNOWMAN}!"
    alphabet = {chr(c): i for i, c in enumerate(range(33, 400))} | {"Ġ": 500}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet | {"\u0120": 500}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    codec = TextCodec(tmp_path / "tokenizer.json", 1000)
    ids = codec.encode("{prompt}", text).ids
    assert len(ids) > len(text)
    stream = codec.stream()
    pieces = [stream.feed(token) for token in ids]
    assert "".join(pieces) == stream.text == text
    assert "" in pieces
    assert stream.flush() == ""
    # An answer may end inside a character; what can be said of it is said.
    stream = codec.stream()
    assert "".join(stream.feed(token) for token in ids[:-2]) == "a "
    assert stream.flush() == "\ufffd"
    assert stream.text == "a \ufffd"


def save_tokenizer(path, tokenizer_path, **changes) -> TextCodec:
    values = json.loads(tokenizer_path.read_text()) | changes
    path.write_text(json.dumps(values))
    return TextCodec(path, 300)


def test_a_tokenizers_own_truncation_and_padding_are_off(tiny_tokenizer, tmp_path):
    codec = save_tokenizer(
        tmp_path / "tokenizer.json",
        tiny_tokenizer,
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
    )
    assert codec.encode("w8 {prompt}", "w9 w10").ids == [8, 9, 10]


def test_a_tokenizer_that_fails_on_a_text(tiny_tokenizer, tmp_path):
    model = {"type": "WordLevel", "vocab": {"w3": 3}, "unk_token": "<nothing>"}
    codec = save_tokenizer(tmp_path / "tokenizer.json", tiny_tokenizer, model=model, added_tokens=[])
    with pytest.raises(BundleError, match="tokenizer.json: the tokenizer fails .*UNK"):
        codec.encode("{prompt}", "zebra")


def test_shares_of_experts():
    names = tuple(map(str, range(4)))
    assert Routing.count(names, [np.array([[0, 1], [1, 1]])]).share() == {"0": 0.25, "1": 0.75, "2": 0, "3": 0}
    assert set(Routing.count(names, []).share().values()) == {0}


# --- bytes of weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny_bundle", "exact_bundle"])
def test_the_weights_of_a_token_are_those_in_the_graph(name, request):
    """Counted the other way round: from the tensors of the decoder's graph."""
    import onnx

    path = request.getfixturevalue(name)
    model = load(path)
    config = model.manifest.config
    decoder = onnx.load(path / "decoder.onnx", load_external_data=False)
    used, experts = config["num_experts_per_tok"] + 1, config["num_experts"] + 1
    assert config["use_shared_expert"]
    total = 0
    for tensor in decoder.graph.initializer:
        size = math.prod(tensor.dims) * {onnx.TensorProto.FLOAT: 4}.get(tensor.data_type, 1)
        part = tensor.name.rsplit(".", 1)[-1]
        if part == "experts":
            F, H = config["intermediate_size"], config["hidden_size"]
            assert size == experts * expert_bytes(H, F)
            total += used * (2 * math.prod(ternary_shape(F, H)) + math.prod(ternary_shape(H, F)))
        elif ".moe." in tensor.name and part in ("gate_norm", "up_norm", "hidden_norm", "down_norm", "scales"):
            total += size * used // experts
        elif tensor.name.startswith("decoder."):
            total += size
    row = config["hidden_size"] * 4 if name == "exact_bundle" else config["hidden_size"] + 4
    bias_of_the_head = 4 * (name == "tiny_bundle")
    assert model.decode_weight_bytes == total + row - bias_of_the_head


def test_a_configuration_without_sizes_is_a_broken_bundle(tiny_bundle, tmp_path):
    broken = tmp_path / "broken.ember"
    shutil.copytree(tiny_bundle, broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    del manifest["config"]["intermediate_size"]
    (broken / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="config.intermediate_size must be a whole number"):
        load(broken)


@pytest.mark.parametrize("piece", [5, 20, 41])
def test_a_prompt_that_is_read_in_pieces_gives_the_same_bits(model, photo, monkeypatch, piece):
    ids = np.random.default_rng(0).integers(5, 40, 60).tolist()
    features = model.encode(photo).features

    def feed(all_logits: bool) -> Step:
        return model.new_context(len(ids), features, room=0).feed(ids, features, all_logits)

    whole = {all_logits: feed(all_logits) for all_logits in (False, True)}
    monkeypatch.setattr(embernet_pipeline, "PREFILL_PIECE", piece)
    for all_logits, expected in whole.items():
        step = feed(all_logits)
        assert step.logits.shape == expected.logits.shape
        for name in ("logits", "experts", "weights"):
            np.testing.assert_array_equal(getattr(step, name), getattr(expected, name))


def test_a_prompt_that_fails_after_a_piece_leaves_no_trace(model, monkeypatch):
    monkeypatch.setattr(embernet_pipeline, "PREFILL_PIECE", 4)
    context = model.new_context(9, None, room=0)
    decoder, runs = context._decoder.run, []

    def fail_the_second_time(*, shrink: bool) -> None:
        runs.append(shrink)
        if len(runs) == 2:
            raise KeyboardInterrupt
        decoder(shrink=shrink)

    monkeypatch.setattr(context._decoder, "run", fail_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        context.feed([*range(5, 14)])
    assert context.length == 0
    expected = model.new_context(9, None, room=0).feed([*range(5, 14)])
    np.testing.assert_array_equal(context.feed([*range(5, 14)]).logits, expected.logits)


def test_the_logits_of_a_prompt_in_pieces_are_held_once(model, monkeypatch):
    monkeypatch.setattr(embernet_pipeline, "PREFILL_PIECE", 8)
    context = model.new_context(200, None, room=0)
    tracemalloc.start()
    try:
        step = context.feed([7] * 200, all_logits=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert step.logits.nbytes < peak < 1.5 * step.logits.nbytes


def test_a_prompt_whose_results_do_not_fit_leaves_no_trace(model, monkeypatch):
    def answer(fail: bool) -> np.ndarray:
        context = model.new_context(2, None, room=8)
        context.feed([1, 5])
        context.feed([7])
        if fail:
            monkeypatch.setattr(embernet_pipeline, "np", Full())
            with pytest.raises(OutOfMemoryError, match="the results of 3 positions do not fit"):
                context.feed([8, 9, 10])
            monkeypatch.undo()
        return context.feed([11]).logits.copy()

    class Full:
        """NumPy without room for logits."""

        def __getattr__(self, name: str) -> object:
            return getattr(np, name)

        def empty(self, shape: tuple[int, ...], kind: type) -> np.ndarray:
            if shape[-1] == model.manifest.vocab_size:
                raise MemoryError
            return np.empty(shape, kind)

    np.testing.assert_array_equal(answer(fail=True), answer(fail=False))


def test_a_run_that_fails_leaves_no_trace(tiny_bundle, monkeypatch):
    model = load(tiny_bundle)
    expected = model.new_context(3, None, room=8).feed([1, 5, 7]).logits.copy()
    context = model.new_context(3, None, room=8)

    def fail(*, shrink: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(context._decoder, "run", fail)
        with pytest.raises(KeyboardInterrupt):
            context.feed([1, 5, 7, 9, 11])
    np.testing.assert_array_equal(context.feed([1, 5, 7]).logits, expected)


def test_nothing_is_written_in_the_home_and_nobody_told_of_it(tmp_path):
    code = "from embernet.runtime import load; load('spark')"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.iterdir())
