"""Validation loss: the mean and standard error it says it is, on weights that it gives back."""

from math import sqrt
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from anytrain.averaging import schedule_free
from anytrain.training.evaluate import Loss, candidates, evaluate, validation_loss, weights_of
from tiny import Tiny, differing, recipe


@pytest.fixture
def tiny(corpus: Path) -> Tiny:
    made = Tiny.begin(recipe(corpus))
    made.take(5)
    return made


def held_out(tiny: Tiny, tokens: int = 640) -> torch.Tensor:
    return torch.from_numpy(tiny.data.validation(tokens))


def test_mean_and_standard_error(tiny: Tiny) -> None:
    """By plain cross-entropy over logits, in float64 at the end: over sequences, not batches."""
    sequences = held_out(tiny)
    assert len(sequences) == 40  # more than one batch, and not a whole number of them
    with torch.no_grad():
        logits = tiny.run.model(sequences[:, :-1])
        each = functional.cross_entropy(
            logits.transpose(1, 2), sequences[:, 1:], reduction="none"
        ).mean(1).double()  # fmt: skip
    found = validation_loss(tiny.run, sequences)
    assert found.mean == pytest.approx(float(each.mean()), rel=1e-6)
    assert found.stderr == pytest.approx(float(each.std(correction=1)) / sqrt(40), rel=1e-5)
    assert validation_loss(tiny.run, sequences[:1]).stderr == 0.0


def test_each_name_is_its_own_weights(tiny: Tiny) -> None:
    sequences = held_out(tiny)
    found = evaluate(tiny.run, sequences, candidates(tiny.run))
    assert list(found) == ["raw", "ema25", "uniform"]
    assert len({loss.mean for loss in found.values()}) == 3
    for name in ("ema25", "uniform"):
        other = Tiny.begin(tiny.run.recipe)
        with torch.no_grad():
            for key, parameter in other.run.model.named_parameters():
                parameter.copy_(tiny.run.averages.tensors[name][key])
        assert validation_loss(other.run, sequences) == found[name]


def test_the_state_is_not_touched(tiny: Tiny) -> None:
    before = tiny.bits()
    evaluate(tiny.run, held_out(tiny), candidates(tiny.run))
    assert differing(tiny.bits(), before) == []
    assert tiny.run.model.training
    with (
        pytest.raises(RuntimeError, match="save while the average 'ema25'"),
        weights_of(tiny.run, "ema25"),
    ):
        tiny.run.tensors()
    assert differing(tiny.bits(), before) == []


def test_schedule_free(corpus: Path) -> None:
    made = Tiny.begin(recipe(corpus, optimizer={"kind": "schedule_free", "beta2": 0.99}))
    assert candidates(made.run) == ["raw", "schedule_free", "ema25", "uniform"]
    sequences = held_out(made)
    begun = evaluate(made.run, sequences, ["raw", "schedule_free"])
    assert begun["raw"] == begun["schedule_free"]  # there is no z yet
    made.take(5)
    before = made.bits()
    model, part = made.run.model, made.run.optimizer.parts[0]
    expected = {n: schedule_free(p.detach(), part.state[p]["z"], 0.9)
                for n, p in model.named_parameters()}  # fmt: skip
    with weights_of(made.run, "schedule_free"):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, expected[name])
    assert differing(made.bits(), before) == []
    found = evaluate(made.run, sequences, candidates(made.run))
    assert isinstance(found["schedule_free"], Loss)
    assert found["schedule_free"] != found["raw"]
    assert differing(made.bits(), before) == []
