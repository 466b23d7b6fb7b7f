"""A batch far out is left out: no update, no step, but read; or the run goes back past it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anytrain.errors import UserError
from anytrain.rundir import RunDir
from anytrain.training import checkpoint, loop
from anytrain.training.guard import Guard, Spike, limit
from anytrain.training.rewind import rewind
from anytrain.training.tables import Guard as Settings
from ranks import recipe as ranks_recipe
from ranks import trained
from tiny import (
    Tiny,
    at,
    cli,
    differing,
    events,
    losses,
    recipe,
    saved_bits,
    write_recipe,
)

WINDOW = 4
BAD = 9  # of the batches, counted from 0, the one that is far out: the step after 9
OFTEN = {"every": "4-steps", "newest": 9}


def table(action: str = "skip", deviations: float = 1e4) -> dict[str, Any]:
    return {"deviations": deviations, "window": WINDOW, "action": action}


@pytest.fixture
def spiked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches that begin at these samples have a loss a million times as high."""
    bad, honest = [BAD * 4], loop.backward

    def backward(run: Any, batch: torch.Tensor) -> torch.Tensor:
        loss = honest(run, batch)
        return loss * 1e6 if run.clock.samples in bad else loss

    monkeypatch.setattr(loop, "backward", backward)
    return bad


# --- what is far out -------------------------------------------------------------------------


def test_the_limit_is_the_median_and_robust_deviations() -> None:
    """1.4826·MAD is σ of a normal distribution, and outliers do not move it."""
    seen = np.random.default_rng(0).normal(3.0, 0.5, 20_001).tolist()
    assert limit(seen, 2) == pytest.approx(3 + 2 * 0.5, rel=0.02)
    assert limit([*seen, *[1e9] * 500], 2) == pytest.approx(limit(seen, 2), rel=0.05)
    assert limit([1, 2, 3, 4, 100], 10) == pytest.approx(3 + 10 * 1.4826)
    assert limit([2.0, 2.0, 2.0, 9.0], 3) == math.inf


def filled() -> Guard:
    guard = Guard(Settings(deviations=3, window=WINDOW))
    for value in (1.0, 9.0, 2.0, 3.0):  # not full yet: nothing is far out
        assert guard.spike(value, value / 10) is None
    return guard


@pytest.mark.parametrize(("loss", "norm"), [(99.0, 0.2), (2.0, 99.0), (math.nan, 0.2)])
def test_either_of_them_spikes_and_only_upward(loss: float, norm: float) -> None:
    assert filled().spike(-99.0, -99.0) is None
    spike = filled().spike(loss, norm)
    assert spike is not None
    assert spike.grad_norm == norm
    assert spike.limits["loss"] == pytest.approx(limit([1, 9, 2, 3], 3))


def test_a_level_that_stays_is_accepted() -> None:
    guard = filled()
    found = [guard.spike(50.0 + n, 5.0 + n) is not None for n in range(4)]
    assert found[0]
    assert not found[-1]


def test_no_number_twice_in_a_row_is_no_spike() -> None:
    guard = filled()
    assert guard.spike(math.inf, 1.0) is not None
    assert guard.spike(2.0, 0.2) is None
    assert guard.spike(2.0, math.nan) is not None
    assert guard.spike(math.nan, math.nan) is None  # for the loop to say
    assert list(guard.losses) == [9.0, 2.0, 3.0, 2.0]


def test_bad_values_are_sentences(corpus: Path, tmp_path: Path) -> None:
    for key, value, sentence in (
        ("deviations", "0", "guard.deviations = 0"),
        ("deviations", "inf", "guard.deviations = inf"),
        ("window", "3", "guard.window = 3; 4 batches or more is valid"),
        ("action", "stop", "guard.action"),
        ("windows", "9", "did you mean 'window'"),
    ):
        with pytest.raises(UserError, match=sentence):
            recipe(corpus, f"guard.{key}={value}", guard=table())


# --- skipped ---------------------------------------------------------------------------------


def test_a_skipped_batch_is_read_and_nothing_else(corpus: Path, spiked: list[int]) -> None:
    tiny = Tiny.begin(recipe(corpus, guard=table()))
    tiny.take(BAD)
    before = tiny.bits()
    (spike,) = tiny.take(1)
    assert isinstance(spike, Spike)
    assert differing(tiny.bits(), before) == ["state/clock", "state/guard"]
    clock = tiny.run.clock
    assert (clock.step, clock.t, clock.tokens, clock.samples) == (BAD, BAD, BAD * 64, BAD * 4 + 4)
    (after,) = tiny.take(1)
    assert (after.step, after.lr) == (BAD + 1, tiny.run.recipe.built_schedule()(BAD + 1))


def test_without_a_guard_it_is_trained_on(corpus: Path, spiked: list[int]) -> None:
    tiny = Tiny.begin(recipe(corpus))
    assert [record.step for record in tiny.take(BAD + 2)] == [*range(1, BAD + 3)]
    assert "guard" not in tiny.run.state()


def test_a_state_without_a_guard_begins_one_afresh(corpus: Path) -> None:
    plain, guarded = (Tiny.begin(recipe(corpus, **t)) for t in ({}, {"guard": table()}))
    plain.take(3)
    guarded.take(5)
    guarded.run.restore(plain.run.tensors(), plain.run.state())
    assert guarded.run.state()["guard"] == Guard(Settings(deviations=3)).state()


def test_the_guard_is_a_part_of_the_state(corpus: Path, spiked: list[int]) -> None:
    """One that had forgotten would take the batch for the first of a window."""
    tiny, back = (Tiny.begin(recipe(corpus, guard=table())) for _ in range(2))
    tiny.take(BAD)
    back.run.restore(tiny.run.tensors(), tiny.run.state() | {"guard": None})
    assert isinstance(tiny.take(1)[0], Spike)
    assert not isinstance(back.take(1)[0], Spike)


def run_of(folder: Path, corpus: Path, action: str, *stops: int) -> Path:
    toml = write_recipe(folder / "r.toml", corpus, guard=table(action), checkpoint=OFTEN)
    for stop in stops:
        said = cli("train", toml, "--run", folder / "run", "--until", stop)
        assert said.code == 0, said.err
    return folder / "run"


@pytest.mark.parametrize("stops", [(9, 10, 16), (5, 16)])
@pytest.mark.parametrize("action", ["skip", "rewind"])
def test_many_sittings_are_one(
    action: str, stops: tuple[int, ...], corpus: Path, tmp_path: Path, spiked: list[int]
) -> None:
    """Prefix and resume; rewound, from wherever there was a checkpoint last."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = run_of(tmp_path / "a", corpus, action, 16)
    parts = run_of(tmp_path / "b", corpus, action, *stops)
    for run in (whole, parts):
        assert list(losses(run)) == list(range(1, 17))
        assert len(events(run, "skipped" if action == "skip" else "rewound")) == 1
    if action == "skip" or 9 not in stops:  # the same checkpoint to go back to
        assert differing(saved_bits(parts, 16), saved_bits(whole, 16)) == []
        assert losses(parts) == losses(whole)
    else:
        assert events(parts, "rewound")[0]["step"] == 9


def test_what_is_recorded_of_a_skip(corpus: Path, tmp_path: Path, spiked: list[int]) -> None:
    run = run_of(tmp_path, corpus, "skip", 12)
    (event,) = events(run, "skipped")
    assert (event["step"], event["tokens"], event["samples"]) == (BAD, BAD * 64, BAD * 4 + 4)
    assert event["loss"] > 1e6 > event["limits"]["loss"] > losses(run)[BAD]


# --- rewound ---------------------------------------------------------------------------------


def test_it_goes_back_and_on_past_the_batch(
    corpus: Path, tmp_path: Path, spiked: list[int]
) -> None:
    """From the checkpoint before, as a run that had never had what was read since."""
    run = run_of(tmp_path, corpus, "rewind", 16)
    (event,) = events(run, "rewound")
    assert (event["step"], event["left"], event["samples"]) == (8, BAD, BAD * 4 + 4)
    assert events(run, "skipped") == []
    by_hand = Tiny.begin(recipe(corpus, guard=table("rewind"), checkpoint=OFTEN))
    by_hand.take(8)
    by_hand.run.clock.samples = BAD * 4 + 4
    assert by_hand.run.guard is not None
    by_hand.run.guard.rewound = 8
    assert [r.loss for r in by_hand.take(8)] == [losses(run)[n] for n in range(9, 17)]
    assert differing(by_hand.bits(), saved_bits(run, 16)) == []


def test_once_to_each_checkpoint(corpus: Path, tmp_path: Path, spiked: list[int]) -> None:
    spiked += [BAD * 4 + 8, BAD * 4 + 24]  # step 10 at the second try; later than the next one
    run = run_of(tmp_path, corpus, "rewind", 16)
    happened = [(e["event"], e["step"]) for e in events(run) if e["event"] in
                ("skipped", "rewound")]  # fmt: skip
    assert happened == [("rewound", 8), ("skipped", 9), ("rewound", 12)]
    assert list(losses(run)) == list(range(1, 17))


def test_without_a_checkpoint_it_skips(corpus: Path, tmp_path: Path, spiked: list[int]) -> None:
    toml = write_recipe(tmp_path / "r.toml", corpus, guard=table("rewind"))
    spiked[:] = [5 * 4]
    assert cli("train", toml, "--run", tmp_path / "run", "--until", 7).code == 0
    assert [e["step"] for e in events(tmp_path / "run", "skipped")] == [5]


def test_going_on_from_that_checkpoint_goes_on_past_it(
    corpus: Path, tmp_path: Path, spiked: list[int]
) -> None:
    """Killed right after it went back: resumed, forked or replayed, it is the same run."""
    run = run_of(tmp_path, corpus, "rewind", 16)
    end = saved_bits(run, 16, ["recipe"])
    fork, replayed = tmp_path / "fork", tmp_path / "replayed"
    assert cli("fork", f"{run}@10", "--out", replayed).code == 0
    assert cli("fork", f"{run}@8", "--out", fork).code == 0
    spiked.clear()  # whoever read the batch again would not notice
    for found in RunDir(run).checkpoints():
        if found.step > 8:  # lost
            found.delete()
    for again in (run, fork, replayed):
        assert cli("train", "--run", again, "--until", 16).code == 0
        other = ["state/guard"] if again == fork else []
        assert differing(saved_bits(again, 16, ["recipe"]), end) == other


def test_a_damaged_checkpoint_is_not_gone_back_to(corpus: Path, tmp_path: Path) -> None:
    """But the newest whole one; that there is none is no reason to end."""
    tiny, rundir = Tiny.begin(recipe(corpus, guard=table("rewind"))), RunDir(tmp_path)
    for _ in range(2):
        tiny.take(4)
        checkpoint.save(tiny.run, rundir)
    tiny.take(1)
    said: list[str] = []
    (at(tmp_path, 8).path / "state.json").write_text("{}")
    found = rewind(tiny.run, rundir, said.append)
    assert found == at(tmp_path, 4)
    assert "going back to step 4" in said[0]
    assert (tiny.run.clock.step, tiny.run.clock.samples) == (4, 9 * 4)
    (at(tmp_path, 4).path / "state.json").write_text("{}")
    before = tiny.bits()
    assert rewind(tiny.run, rundir, said.append) is None
    assert differing(tiny.bits(), before) == []


FAR_OUT_IN_THE_LAST = """
import os, sys
from anytrain.cli.main import main
from anytrain.training import checkpoint, loop
honest = loop.backward
def backward(run, batch):
    bad = run.clock.samples == 9 * 12 and run.world.rank == run.world.size - 1
    return honest(run, batch) * (1e6 if bad else 1)
loop.backward = backward
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("action", ["skip", "rewind"])
def test_all_processes_agree(action: str, tmp_path: Path) -> None:
    """What one of two has far out both leave out, go back together, and go on alike."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 20_000), ("val", 3_000)):
        (rng.random(count) ** 3 * 67).astype(np.uint16).tofile(tmp_path / f"{name}.bin")
    toml = ranks_recipe(tmp_path / "r.toml", tmp_path, guard=table(action), checkpoint=OFTEN)
    found = []
    for size in (1, 2):
        run = tmp_path / str(size)
        trained(size, run, 14, toml, code=FAR_OUT_IN_THE_LAST)
        found.append([(e["event"], e["step"], e["samples"]) for e in events(run)
                      if e["event"] in ("skipped", "rewound")])  # fmt: skip
        assert list(losses(run)) == list(range(1, 15))
    assert found[0] == found[1]
    assert found[0] == [("skipped", 9, 120) if action == "skip" else ("rewound", 8, 120)]
    for step, loss in losses(tmp_path / "1").items():
        assert losses(tmp_path / "2")[step] == pytest.approx(loss, rel=2e-4)
