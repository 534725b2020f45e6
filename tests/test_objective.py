"""What training minimises: masks, terms, independence of how a batch is cut; and the order of examples."""

import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from embernet.checkpoints import open_checkpoint
from embernet.data.example import Example
from embernet.errors import InputError
from embernet.models.embernet.model import IGNORED_LABEL, EmberNet, expert_supervision_loss, router_balance_loss
from embernet.training.batches import ConversationEncoder
from embernet.training.examples import Examples
from embernet.training.objective import NO_EXPERT, Objective
from embernet.training.order import ExampleOrder, domain_shares
from tests.training_runs import DOMAINS, DrawnExamples, write_small_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

CUT = 1e-5  # sums in another order, and a model that rounds its activations


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small model in training mode, and its encoder."""
    checkpoint = open_checkpoint(write_small_checkpoint(tmp_path_factory.mktemp("small") / "model"))
    model = EmberNet(checkpoint.config).train()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in checkpoint.tensors.items()})
    return model, ConversationEncoder(Tokenizer.from_file(str(checkpoint.tokenizer_path)), checkpoint.config)


def load(encoder, *sources, **options):
    examples = Examples(sources, encoder, options.pop("max_text_tokens", 2048), **options)
    with examples.load([list(range(len(examples)))], num_workers=0) as batches:
        return next(batches)


def test_a_row_alone_has_the_models_own_losses(small):
    model, encoder = small
    for domain, expert in ((DOMAINS[0], 0), (DOMAINS[1], 1), ("general", NO_EXPERT)):
        batch = load(encoder, DrawnExamples(1, domain)).batch
        losses = Objective(model)(batch)
        labels = torch.full_like(batch.text.input_ids, IGNORED_LABEL)
        labels[:, 1:] = batch.text.targets[:, :-1]
        output = model(batch.text.input_ids, batch.pixel_values, labels=labels)
        logits = output.logits[0, model.config.num_image_tokens :]
        ce = torch.nn.functional.cross_entropy(logits, batch.text.targets[0], reduction="sum")
        torch.testing.assert_close(losses.cross_entropy, ce)
        torch.testing.assert_close(losses.balance, router_balance_loss(output.routing.logits))
        supervision = torch.zeros(())
        if expert != NO_EXPERT:
            supervision = expert_supervision_loss(output.routing.logits, torch.tensor([expert]))
        torch.testing.assert_close(losses.supervision, supervision)
        assert losses.usage.sum() == 2 * 2 * (model.config.num_image_tokens + batch.num_tokens)


def test_answers_and_their_ends_are_learnt_and_nothing_else(small):
    _, encoder = small
    text = load(encoder, DrawnExamples(1)).batch.text
    words = encoder.answer("it is red")
    learnt = [target for target in text.targets[0].tolist() if target != IGNORED_LABEL]
    turns = len(learnt) // len(words)
    assert turns >= 1
    assert len(learnt) == turns * len(words)
    assert learnt[:2] == words[:2]  # the first token of an answer
    assert learnt[-1] == encoder.config.eos_token_id
    assert (text.targets[0] != IGNORED_LABEL).sum() < (text.conversations[0] != 0).sum()


def gradients(model, parts, counts):
    model.zero_grad()
    objective = Objective(model)
    for part in parts:
        losses = objective(part)
        (losses.cross_entropy / counts[0] + losses.balance / counts[1] + losses.supervision / counts[2]).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_gradients_do_not_depend_on_how_a_batch_is_cut(small):
    model, encoder = small
    batch = load(encoder, DrawnExamples(3), DrawnExamples(4, DOMAINS[1]), DrawnExamples(1, "general")).batch
    assert len(set(batch.text.conversations.sum(dim=1).tolist())) > 1  # texts of several lengths
    whole = gradients(model, [batch], batch.counts)
    for rows in (1, 3):
        parts = gradients(model, batch.parts(rows), batch.counts)
        assert parts.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, atol=CUT * float(gradient.abs().max() + 1), rtol=0)


def test_recomputing_activations_changes_nothing(small):
    model, encoder = small
    batch = load(encoder, DrawnExamples(3)).batch
    expected, recomputed = Objective(model)(batch), Objective(model, recompute=True)(batch)
    assert torch.equal(expected.cross_entropy, recomputed.cross_entropy)
    for losses in (expected, recomputed):
        model.zero_grad()
        losses.cross_entropy.backward()
        losses_gradient = model.decoder.layers[0].moe.router.weight.grad
    assert losses_gradient.abs().sum() > 0


def test_a_text_without_an_image_is_computed_as_such(small):
    model, encoder = small

    class Texts(DrawnExamples):
        def __getitem__(self, index):
            return dataclasses.replace(super().__getitem__(index), image=None)

    batch = load(encoder, Texts(1), DrawnExamples(1)).batch
    assert batch.has_image.tolist() == [False, True]
    alone = next(batch.parts(1))
    logits = model(alone.text.input_ids).logits[0]
    ce = torch.nn.functional.cross_entropy(logits, alone.text.targets[0], reduction="sum")
    torch.testing.assert_close(Objective(model)(alone).cross_entropy, ce, atol=1e-3, rtol=0)
    assert Objective(model)(alone).usage.sum() == 2 * 2 * alone.num_tokens


def test_every_expert_has_a_gradient_in_training(small):
    model, encoder = small
    names = gradients(model, [load(encoder, DrawnExamples(1)).batch], torch.ones(3)).keys()
    assert sum(".moe.experts." in name for name in names) == 2 * 4 * 6


# --- examples -------------------------------------------------------------------------------------------------------


class SomeBroken(DrawnExamples):
    """Every third image is no image, and example 4 cannot be read."""

    def __getitem__(self, index):
        if index == 4:
            raise InputError(f"{self.name}/4: no record")
        example = super().__getitem__(index)
        return dataclasses.replace(example, image=b"not an image") if index % 3 == 0 else example


def test_unusable_examples_are_left_out_and_listed(small):
    _, encoder = small
    loaded = load(encoder, SomeBroken(6))
    assert {skipped.index for skipped in loaded.skipped} == {0, 3, 4}
    assert len(loaded.batch) == 6
    expected = load(encoder, DrawnExamples(6)).batch.pixel_values
    stand_ins = [1, 1, 2, 5, 5, 5]
    assert torch.equal(loaded.batch.pixel_values, expected[stand_ins])


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_usable_is_one_sentence(small, workers):
    _, encoder = small

    class Broken(DrawnExamples):
        def __getitem__(self, index):
            return dataclasses.replace(super().__getitem__(index), image=b"")

    examples = Examples([Broken(3)], encoder, 64)
    message = r"^drawn: 3 unusable examples in a row, the last: image: not an image \(the file is empty\)$"
    with pytest.raises(InputError, match=message), examples.load([[0]], workers) as batches:
        next(batches)


def test_a_text_without_room_for_its_answer_is_unusable(small):
    _, encoder = small
    with pytest.raises(InputError, match=r"no answer within the first 4 tokens"):
        load(encoder, DrawnExamples(2), max_text_tokens=4)
    assert load(encoder, DrawnExamples(2), max_text_tokens=8).batch.text.input_ids.shape == (2, 8)


def test_a_limit_holds_for_each_dataset(small):
    _, encoder = small
    examples = Examples([DrawnExamples(5), DrawnExamples(2, DOMAINS[1])], encoder, 64, limit=3)
    assert len(examples) == 5
    names, groups = examples.domains()
    assert [names[group] for group in groups] == [DOMAINS[0]] * 3 + [DOMAINS[1]] * 2
    assert isinstance(DrawnExamples(1)[0], Example)


# --- order ----------------------------------------------------------------------------------------------------------


def test_an_epoch_holds_every_example_and_is_filled_up():
    order = ExampleOrder(np.zeros(10, np.int64), batch=4, seed=3)
    first, second = order.epoch(0), order.epoch(1)
    assert first.shape == (3, 4)
    assert sorted(first.flatten()[:10]) == list(range(10))
    assert first.flatten()[10:].tolist() == first.flatten()[:2].tolist()
    assert first.tolist() != second.tolist()
    assert first.tolist() == ExampleOrder(np.zeros(10, np.int64), 4, seed=3).epoch(0).tolist()
    assert first.tolist() != ExampleOrder(np.zeros(10, np.int64), 4, seed=4).epoch(0).tolist()


def test_domains_are_drawn_by_their_shares():
    domains = ["spatial_scene", "agentic_reasoning", "vision_ocr"]
    groups = np.repeat([0, 1, 2], [100, 9800, 100])
    drawn = ExampleOrder(groups, batch=1, seed=0, weights=domain_shares(domains, curriculum=True)).epoch(0).flatten()
    shares = np.bincount(groups[drawn], minlength=3) / len(drawn)
    assert shares == pytest.approx(np.array([0.25, 0.03, 0.15]) / 0.43, abs=0.02)
    # Within a domain nothing comes twice before all has come once.
    assert np.ptp(np.bincount(drawn[groups[drawn] == 0], minlength=100)[:100]) <= 1
    plain = domain_shares(domains, curriculum=False)
    assert plain[2] > plain[0]
    assert domain_shares(["of my own"], curriculum=True)[0] == pytest.approx(1 / 9)
