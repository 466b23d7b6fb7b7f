"""One step: the gradient of the mean loss however it is cut, the rate of its t, all or nothing."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch

from anytrain.schedules import Constant, Cosine
from anytrain.training.loop import Diverged, backward, train
from anytrain.training.optimizers import optimizers
from cases import OPTIMIZERS
from tiny import Tiny, differing, recipe


def gradients(tiny: Tiny, micro_batch: int) -> tuple[float, list[torch.Tensor]]:
    tiny.run.micro_batch = micro_batch
    loss = backward(tiny.run, torch.from_numpy(tiny.data.batch(0, 6)))
    found = [p.grad.clone() for p in tiny.run.model.parameters() if p.grad is not None]
    tiny.run.optimizer.zero_grad()
    return float(loss), found


def test_the_gradient_does_not_depend_on_the_cut(corpus: Path) -> None:
    """Of the mean over the batch: in one piece, in equal parts, and with a smaller last part."""
    tiny = Tiny.begin(recipe(corpus))
    loss, whole = gradients(tiny, 6)
    batch = torch.from_numpy(tiny.data.batch(0, 6))
    assert loss == pytest.approx(float(tiny.run.model.loss(batch[:, :-1], batch[:, 1:]).detach()))
    for micro_batch in (1, 2, 3, 4):
        again, parts = gradients(tiny, micro_batch)
        assert again == pytest.approx(loss, rel=1e-6)
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_the_first_step_has_the_rate_of_t_1(corpus: Path) -> None:
    tiny = Tiny.begin(recipe(corpus))
    schedule = tiny.run.recipe.built_schedule()
    records = tiny.take(6)
    assert [r.lr for r in records] == [schedule(t) for t in range(1, 7)]
    assert [(r.step, r.t, r.tokens) for r in records] == [(n, n, 64 * n) for n in range(1, 7)]
    assert all(group["lr"] == schedule(6) for part in tiny.run.optimizer.parts
               for group in part.param_groups)  # fmt: skip


def test_the_loss_is_that_before_the_step(corpus: Path) -> None:
    tiny = Tiny.begin(recipe(corpus))
    batch = torch.from_numpy(tiny.data.batch(0, 4))
    with torch.no_grad():
        before = float(tiny.run.model.loss(batch[:, :-1], batch[:, 1:]))
    assert tiny.take(1)[0].loss == pytest.approx(before, rel=1e-6)


def test_clipping(corpus: Path) -> None:
    """The norm is recorded as it was; what enters is scaled to the clip."""
    settings = ({"kind": "sgd", "beta1": 0.0}, "constant:peak=1")
    moved = {}
    for clip in ("0.01", "1e9"):
        tiny = Tiny.begin(
            recipe(corpus, f"train.clip={clip}", optimizer=settings[0], schedule=settings[1])
        )
        before = [p.detach().clone() for p in tiny.run.model.parameters()]
        norm = tiny.take(1)[0].grad_norm
        after = tiny.run.model.parameters()
        steps = [(a.detach() - b).flatten() for a, b in zip(after, before, strict=True)]
        moved[clip] = (norm, float(torch.cat(steps).norm()))
    assert moved["0.01"][0] == moved["1e9"][0] > 0.01
    assert moved["0.01"][1] == pytest.approx(0.01, rel=1e-3)
    assert moved["1e9"][1] == pytest.approx(moved["1e9"][0], rel=1e-3)
    unclipped = recipe(corpus, optimizer=settings[0], schedule=settings[1])
    unclipped = dataclasses.replace(
        unclipped, train=dataclasses.replace(unclipped.train, clip=None)
    )
    assert Tiny.begin(unclipped).take(1)[0].grad_norm == moved["1e9"][0]


def test_a_diverged_step_changes_nothing(corpus: Path) -> None:
    tiny = Tiny.begin(recipe(corpus))
    tiny.take(3)
    before = tiny.bits()
    with torch.no_grad():
        weight = tiny.run.model.lm_head.weight
        kept = float(weight[0, 0])
        weight[0, 0] = math.inf
    with pytest.raises(Diverged, match="step 4: loss"):
        tiny.take(1)
    with torch.no_grad():
        weight[0, 0] = kept
    assert differing(tiny.bits(), before) == []
    assert tiny.take(1)[0].step == 4


def test_it_has_no_end_of_its_own(corpus: Path) -> None:
    """The caller stops asking; what it was given is consistent at every yield."""
    tiny = Tiny.begin(recipe(corpus))
    steps = train(tiny.run, tiny.batches(), Constant(1e-3))
    for number in range(1, 20):
        record = next(steps)
        assert record.step == tiny.run.clock.step == number
        assert tiny.run.averages.t == number
    assert list(itertools.islice(steps, 0)) == []


def test_a_horizon_is_never_passed(corpus: Path) -> None:
    """Below the caller too: the step that reaches it has the final rate, the next one raises."""
    tiny = Tiny.begin(recipe(corpus))
    steps = train(tiny.run, tiny.batches(), Cosine(horizon=2.5, peak=1e-3, final=0.5))
    assert [next(steps).lr for _ in range(3)][-1] == 5e-4
    with pytest.raises(ValueError, match=r"beyond the horizon of 2\.5 steps"):
        next(steps)


def test_it_learns(corpus: Path) -> None:
    """Each optimizer takes the loss well below that of a uniform guess."""
    for name, table in OPTIMIZERS.items():
        peak = "0.5" if table["kind"] == "sgd" else "2e-2"
        tiny = Tiny.begin(recipe(corpus, optimizer=table, schedule=f"constant:peak={peak}"))
        assert tiny.take(60)[-1].loss < math.log(280) - 1, name


# --- which parameter goes where --------------------------------------------------------------


def groups(corpus: Path, **table: object) -> list[list[tuple[set[str], float, float]]]:
    """For each torch optimizer, each group: (its parameters, weight decay, scale)."""
    tiny = Tiny.begin(recipe(corpus, optimizer=table))
    made = tiny.run.optimizer
    return [
        [({made.names[p] for p in group["params"]}, group["weight_decay"], group["scale"])
         for group in part.param_groups]
        for part in made.parts
    ]  # fmt: skip


MATRICES = {"embed_tokens", "lm_head", "proj"}


def is_matrix(name: str) -> bool:
    return any(part in name for part in MATRICES)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "schedule_free"])
def test_matrices_decay_and_vectors_do_not(kind: str, corpus: Path) -> None:
    ((matrices, vectors),) = groups(corpus, kind=kind, weight_decay=0.1)
    assert all(is_matrix(name) for name in matrices[0])
    assert not any(is_matrix(name) for name in vectors[0])
    assert (matrices[1], vectors[1]) == (0.1, 0.0)
    ((everything,),) = groups(corpus, kind=kind, weight_decay=0.1, decay_all=True)
    assert everything[0] == matrices[0] | vectors[0]
    assert everything[1] == 0.1


def test_muon_takes_the_hidden_matrices(corpus: Path) -> None:
    """And AdamW the rest, at a peak of its own."""
    (muon,), adamw = groups(corpus, kind="muon", weight_decay=0.1, adamw_peak=2.5e-3)
    assert all(".layers." in name and is_matrix(name) for name in muon[0])
    rest = set().union(*(group[0] for group in adamw))
    assert {n for n in rest if is_matrix(n)} == {"model.embed_tokens.weight", "lm_head.weight"}
    assert (muon[2], {group[2] for group in adamw}) == (1.0, {0.25})  # of the schedule's 1e-2
    tiny = Tiny.begin(recipe(corpus, optimizer=OPTIMIZERS["muon"]))
    tiny.take(4)
    rates = {g["lr"] for part in tiny.run.optimizer.parts for g in part.param_groups}
    assert sorted(rates) == [pytest.approx(3e-3), 1e-2]


def test_adamw_is_pytorchs(corpus: Path) -> None:
    """Each step of ours and of the plain loop, from the same weights: ulps of a step apart.

    From the same weights, because a gradient of them is ill-conditioned: one ulp of difference
    after a step is any number of ulps after the next, as many as the processor's kernels make it.
    """
    settings = recipe(corpus, optimizer={"kind": "adamw", "weight_decay": 0.1})
    tiny, plain = Tiny.begin(settings), Tiny.begin(settings)
    model, schedule = plain.run.model, settings.built_schedule()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95), fused=True,
    )  # fmt: skip
    for step in range(1, 5):
        batch = torch.from_numpy(plain.data.batch(4 * (step - 1), 4))
        model.loss(batch[:, :-1], batch[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        optimizer.step()
        optimizer.zero_grad()
        tiny.take(1)
        ours = dict(tiny.run.model.named_parameters())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                ours[name], parameter, rtol=2**-22, atol=schedule(step) / 2**20
            )
        model.load_state_dict(tiny.run.model.state_dict())


@pytest.mark.parametrize("kind", ["adamw", "muon", "sgd", "schedule_free"])
def test_weights_do_not_depend_on_what_is_averaged(kind: str, corpus: Path) -> None:
    """Nor averages on the pass they move in: by the optimizer's step or after it."""
    found = []
    for averages in (
        {},
        {"a": "uniform"},
        {"a": "uniform", "b": "anytime_ema:f=2", "c": "uniform"},
    ):
        tiny = Tiny.begin(recipe(corpus, optimizer=OPTIMIZERS[kind], averages=averages))
        tiny.take(4)
        found.append(tiny.run.tensors())
    for raw in (name for name in found[0] if name.startswith("raw/")):
        assert torch.equal(found[0][raw], found[1][raw])
        assert torch.equal(found[0][raw], found[2][raw])
        for average in (found[1], found[2]):
            assert torch.equal(
                average[raw.replace("raw", "average/a")], found[2][raw.replace("raw", "average/c")]
            )
        assert not torch.equal(found[2][raw], found[2][raw.replace("raw", "average/b")])


def test_frozen_parameters_are_left_out(corpus: Path) -> None:
    tiny = Tiny.begin(recipe(corpus))
    tiny.run.model.lm_head.weight.requires_grad_(False)
    made = optimizers(tiny.run.recipe.optimizer, tiny.run.model, 1e-2)
    assert "lm_head.weight" not in made.names.values()
    tiny.run.optimizer = made
    before = tiny.run.model.lm_head.weight.detach().clone()
    tiny.take(2)
    assert torch.equal(tiny.run.model.lm_head.weight, before)
    assert torch.equal(tiny.run.averages.tensors["uniform"]["lm_head.weight"], before)
