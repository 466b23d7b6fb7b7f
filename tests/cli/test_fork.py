"""`anytrain fork`: another setting, a cooldown, a moment that has to be replayed."""

import json
import shutil
from pathlib import Path

import pytest

from anytrain.rundir import RunDir
from tiny import (
    PER_STEP,
    at,
    cli,
    differing,
    evaluations,
    events,
    files,
    losses,
    saved_bits,
    steps_kept,
    write_recipe,
)

KEEP = {"every": "1h", "at": [4, 9]}


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Twelve steps with checkpoints at 4, 8, 9 and 12; a test copies it before it changes it."""
    folder = tmp_path_factory.mktemp("trunk")
    recipe = write_recipe(folder / "r.toml", corpus, checkpoint=KEEP)
    assert cli("train", recipe, "--run", folder / "trunk", "--until", "12").code == 0
    assert set(steps_kept(folder / "trunk")) >= {4, 8, 9, 12}
    return folder / "trunk"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "fork"


def parameters(run: Path, step: int) -> dict[str, object]:
    found = saved_bits(run, step)
    return {name: bits for name, bits in found.items() if not name.startswith("state/")}


# --- another setting -------------------------------------------------------------------------


def test_a_fork_begins_where_the_run_was(trunk: Path, out: Path) -> None:
    before = files(trunk)
    said = cli("fork", f"{trunk}@9", "--out", out, "schedule.peak=3e-3", "optimizer.beta2=0.99")
    assert said.code == 0, said.err
    assert files(trunk) == before  # nothing of the old run changes
    found = RunDir(out)
    assert steps_kept(out) == [9]
    assert differing(saved_bits(out, 9), saved_bits(trunk, 9)) == []
    came_from = {"path": str(trunk), "id": RunDir(trunk).identity["id"], "step": 9, "tokens": 576}
    assert found.identity["parent"] == came_from
    assert found.identity["id"] != RunDir(trunk).identity["id"]
    changes = found.identity["changes"]
    assert changes["schedule"][0].startswith("inverse_sqrt:peak=1e-2,")
    assert changes["schedule"][1].startswith("inverse_sqrt:peak=0.003")
    assert changes["optimizer.beta2"] == [0.95, 0.99]
    assert len(changes) == 2
    assert cli("train", "--run", out, "--until", "11").code == 0
    assert list(losses(out)) == [10, 11]
    assert losses(out)[10] == losses(trunk)[10]  # the same batch and weights: the rate comes after
    assert losses(out)[11] != losses(trunk)[11]
    assert files(trunk) == before


def test_an_unchanged_fork_is_the_same_run(trunk: Path, out: Path) -> None:
    assert cli("fork", f"{trunk}@4", "--out", out).code == 0
    assert cli("train", "--run", out, "--until", "12").code == 0
    assert differing(saved_bits(out, 12), saved_bits(trunk, 12)) == []


def test_the_latest_by_default(trunk: Path, out: Path) -> None:
    said = cli("fork", trunk, "--out", out, "--json")
    assert said.code == 0
    assert steps_kept(out) == [12]
    assert json.loads(said.out) == {"run": str(out), "schedule": RunDir(out).recipe["schedule"]}


def test_the_old_run_may_go(trunk: Path, out: Path, tmp_path: Path) -> None:
    """A fork has its own files: deleting or going on with the parent does not touch it."""
    parent = tmp_path / "parent"
    shutil.copytree(trunk, parent)
    assert cli("fork", f"{parent}@9", "--out", out).code == 0
    shutil.rmtree(parent)
    at(out, 9).verify()
    assert cli("train", "--run", out, "--until", "10").code == 0


def test_another_optimizer_begins_afresh(trunk: Path, out: Path) -> None:
    assert cli("fork", f"{trunk}@9", "--out", out, "optimizer.kind=sgd",
               "schedule=constant:peak=1e-30").code == 0  # fmt: skip
    assert cli("train", "--run", out, "--until", "11").code == 0
    names = saved_bits(out, 11)
    assert any(name.startswith("optimizer/momentum_buffer/") for name in names)
    assert not any(name.startswith("optimizer/exp_avg") for name in names)


def test_another_batch(trunk: Path, out: Path) -> None:
    assert cli("fork", f"{trunk}@9", "--out", out, "train.batch=8").code == 0
    assert RunDir(out).recipe["train"]["reference_batch"] == 4
    assert cli("train", "--run", out, "--until", "11").code == 0
    assert at(out, 11).manifest["t"] == 13
    assert at(out, 11).tokens == (9 + 4) * PER_STEP


@pytest.mark.parametrize(
    "setting", ["model.width=32", "model.layers=2", "train.context=8", "train.reference_batch=2"]
)
def test_what_a_fork_cannot_change(setting: str, trunk: Path, out: Path) -> None:
    said = cli("fork", f"{trunk}@9", "--out", out, setting)
    assert said.code == 2
    assert setting.split("=")[0] in said.err
    assert not out.exists()


def test_other_data_begin_at_their_first_sample(trunk: Path, out: Path) -> None:
    assert cli("fork", f"{trunk}@9", "--out", out, "train.seed=7").code == 0
    assert at(out, 9).state["clock"] == {"step": 9, "t": 9.0, "tokens": 576, "samples": 0}
    at(out, 9).verify()
    at(trunk, 9).verify()  # what the two share on disk was not written through
    assert at(trunk, 9).state["clock"]["samples"] == 36
    assert cli("train", "--run", out, "--until", "10").code == 0
    assert losses(out)[10] != losses(trunk)[10]


WRONG = {
    ("{trunk}@9", "--out", "{trunk}"): "exists and is not empty; choose another --out",
    ("{trunk}x", "--out", "{out}"): "is not a run",
    ("{trunk}@99", "--out", "{out}"): "first: anytrain train --run",
    ("{trunk}@1B-tokens", "--out", "{out}"): "first: anytrain train --run",
    ("{trunk}@10min", "--out", "{out}"): "named by its step or its tokens",
    ("{trunk}@9", "--out", "{out}", "train.bacth=8"): "did you mean 'batch'",
    ("{trunk}", "--out", "{out}", "--cooldown", "10"): "is not a percentage; 10% is valid",
    ("{trunk}", "--out", "{out}", "--cooldown", "100%", "--end", "20"): "below 100% is valid",
    ("{trunk}", "--out", "{out}", "--cooldown", "10%"): "needs --end MOMENT, or RUN@WHEN",
    ("{trunk}", "--out", "{out}", "--end", "20"): "--end goes with --cooldown or --stage mid",
    ("{trunk}@8", "--out", "{out}", "--cooldown", "10%", "--end", "10"): "begins at 9-steps, not",
    (
        "{trunk}",
        "--out",
        "{out}",
        "--cooldown",
        "10%",
        "--end",
        "500",
    ): "first: anytrain train --run",
    ("{trunk}", "--out", "{out}", "--cooldown", "10%", "--end", "10", "--final", "2"): "0 to 1",
    (
        "{trunk}",
        "--out",
        "{out}",
        "--cooldown",
        "10%",
        "--end",
        "10",
        "schedule.peak=1",
    ): "fork twice",
    ("{trunk}", "--out", "{out}", "--shape", "linear"): "--shape goes with --cooldown",
    ("{trunk}", "--out", "{out}", "--stage", "mid"): "--stage mid goes on with other data",
    ("{trunk}", "--out", "{out}", "--stage", "mid", "--final", "0"): "needs --end MOMENT",
    ("{trunk}", "--out", "{out}", "--stage", "mid", "--end", "20"): "nothing to decay to",
    ("{trunk}", "--out", "{out}", "--stage", "mid", "--shape", "sqrt"): "--shape goes without",
    (
        "{trunk}",
        "--out",
        "{out}",
        "--stage",
        "mid",
        "schedule.peak=1",
    ): "takes its rate from its trunk",
    (
        "{trunk}",
        "--out",
        "{out}",
        "--stage",
        "mid",
        "--final",
        "0",
        "--end",
        "7",
        "data.path={trunk}",
    ): "is at step 12 there already",
    ("{trunk}@9:ema25", "--out", "{out}"): "a fork takes the whole state",
    ("{trunk}", "--out", "{out}", "--cooldown", "10%", "--end", "5min"): "is a time|its step",
}


@pytest.mark.parametrize("arguments", WRONG, ids=[" ".join(a)[-40:] for a in WRONG])
def test_what_is_refused_leaves_nothing(arguments: tuple[str, ...], trunk: Path, out: Path) -> None:
    said = cli("fork", *(a.format(trunk=trunk, out=out) for a in arguments))
    assert said.code == 2, said.err
    assert any(part in said.err for part in WRONG[arguments].split("|"))
    assert len(said.err.strip().splitlines()) == 1
    assert not out.exists()
    assert list(out.parent.iterdir()) == []


def test_a_run_without_a_checkpoint(trunk: Path, out: Path, tmp_path: Path) -> None:
    young = tmp_path / "young"
    shutil.copytree(trunk, young, ignore=shutil.ignore_patterns("step-*"))
    for what in (young, f"{young}@9"):
        said = cli("fork", what, "--out", out)
        assert (said.code, "has no checkpoint yet" in said.err) == (2, True)
    assert not out.exists()


# --- cooldowns -------------------------------------------------------------------------------


def test_a_cooldown_is_the_last_part_of_the_total(trunk: Path, out: Path) -> None:
    """10 steps in all: forked at 9, where there is a checkpoint; nothing is replayed."""
    said = cli("fork", trunk, "--cooldown", "10%", "--end", "640-tokens", "--out", out,
               "--shape", "linear", "--final", "0.1")  # fmt: skip
    assert said.code == 0, said.err
    assert "replaying" not in said.err
    recipe = RunDir(out).recipe
    assert recipe["schedule"] == (
        "cooldown:horizon=10-steps,trunk=(inverse_sqrt:peak=0.01,warmup=4-steps,offset=16-steps),"
        "start=9-steps,shape=linear,final=0.1"
    )
    assert cli("train", "--run", out).code == 0
    records = [r for r in RunDir(out).metrics() if "lr" in r]
    assert [r["step"] for r in records] == [10]
    trunk_rate = 1e-2 * (16 / (9 - 4 + 16)) ** 0.5
    assert records[-1]["lr"] == pytest.approx(0.1 * trunk_rate, rel=1e-12)
    assert records[-1]["tokens"] == 640  # equal total tokens
    assert evaluations(out)[-1]["step"] == 10


def test_the_rates_of_a_cooldown(trunk: Path, out: Path) -> None:
    """The last third of 12, from 8: with the sqrt shape, to exactly nothing."""
    assert cli("fork", f"{trunk}@8", "--cooldown", "33.3333333333333333%", "--out", out).code == 0
    assert cli("train", "--run", out).code == 0
    rates = {r["step"]: r["lr"] for r in RunDir(out).metrics() if "lr" in r}
    top = 1e-2 * (16 / (8 - 4 + 16)) ** 0.5
    expected = [top * (1 - ((step - 8) / 4) ** 0.5) for step in (9, 10, 11, 12)]
    assert list(rates) == [9, 10, 11, 12]
    assert list(rates.values()) == pytest.approx(expected, abs=1e-9)
    assert rates[12] == 0.0


def test_the_checkpoint_at_90_percent_is_there(out: Path, tmp_path: Path, corpus: Path) -> None:
    """Every doubling of the unit keeps the place where its cooldown begins."""
    recipe = write_recipe(tmp_path / "r.toml", corpus, unit="10-steps")
    assert cli("train", recipe, "--run", tmp_path / "t", "--until", "40").code == 0
    for end in (10, 20, 40):
        said = cli("fork", tmp_path / "t", "--cooldown", "10%", "--end", f"{end * 64}-tokens",
                   "--out", out.with_name(f"c{end}"))  # fmt: skip
        assert (said.code, "replaying" in said.err) == (0, False)
        assert steps_kept(out.with_name(f"c{end}")) == [end * 9 // 10]


def test_a_cooldown_to_an_end_between_steps(trunk: Path, out: Path) -> None:
    """700 tokens are 10.9 steps, 90% of them 9.84: from step 10 to 11, the first that reach."""
    said = cli("fork", trunk, "--cooldown", "10%", "--end", "700-tokens", "--out", out)
    assert said.code == 0, said.err
    assert steps_kept(out) == [10]
    assert cli("train", "--run", out).code == 0
    last = [r for r in RunDir(out).metrics() if "lr" in r][-1]
    assert (last["step"], last["lr"]) == (11, 0.0)


def test_a_cooldown_of_a_cooldown(trunk: Path, out: Path) -> None:
    assert cli("fork", trunk, "--cooldown", "10%", "--end", "10", "--out", out).code == 0
    said = cli("fork", f"{out}@9", "--cooldown", "10%", "--out", out.with_name("again"))
    assert (said.code, "which ends by itself" in said.err) == (2, True)


# --- mid-training ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Other text, in the tokens of `corpus`."""
    folder = tmp_path_factory.mktemp("other")
    text = folder / "other.txt"
    text.write_text("\n".join(f"{a} times {b} is {a * b}." for a in range(60) for b in range(60)))
    made = cli("prepare", text, "--tokenizer", corpus / "tokenizer.json", "--out", folder / "data")
    assert made.code == 0, made.err
    return folder / "data"


def rates(run: Path) -> dict[int, float]:
    return {r["step"]: r["lr"] for r in RunDir(run).metrics() if "lr" in r}


def test_mid_training_goes_on_at_the_last_rate(trunk: Path, out: Path, other: Path) -> None:
    """From 1/√t at step 9: that rate for ever, no warmup, the optimizer's state, other text."""
    said = cli("fork", f"{trunk}@9", "--stage", "mid", "--out", out, f"data.path={other}")
    assert said.code == 0, said.err
    assert cli("train", "--run", out, "--until", "14").code == 0
    assert set(rates(out).values()) == {rates(trunk)[9]}  # to the last bit
    assert differing(parameters(out, 9), parameters(trunk, 9)) == []
    parent = RunDir(out).identity["parent"]
    assert (parent["step"], parent["stage"]) == (9, "mid")
    assert RunDir(out).identity["changes"]["data.path"][1] == str(other)
    shown = cli("status", out).out
    assert f"{trunk} at step 9, mid-training (" in shown
    assert losses(out)[10] != losses(trunk)[10]


def test_mid_training_that_decays(trunk: Path, out: Path, other: Path) -> None:
    """η(T)·((1 − α)(T + M − t)/M + α), arXiv:2603.16127."""
    said = cli("fork", f"{trunk}@8", "--stage", "mid", "--final", "0.1", "--end", "12",
               "--out", out, f"data.path={other}")  # fmt: skip
    assert said.code == 0, said.err
    assert cli("train", "--run", out).code == 0
    last = rates(trunk)[8]
    expected = [last * (0.9 * (12 - step) / 4 + 0.1) for step in (9, 10, 11, 12)]
    assert list(rates(out).values()) == pytest.approx(expected, rel=1e-12)


def test_mid_training_after_a_decay(out: Path, other: Path, tmp_path: Path, corpus: Path) -> None:
    """From the end of a cosine to a tenth; from one to nothing there is no rate to go on at."""
    for final in ("0.1", "0"):
        cosine = f"cosine:peak=1e-2,warmup=2-steps,horizon=6-steps,final={final}"
        recipe = write_recipe(tmp_path / "r.toml", corpus, schedule=cosine)
        run = tmp_path / f"to{final}"
        assert cli("train", recipe, "--run", run).code == 0
        said = cli("fork", run, "--stage", "mid", "--out", out, f"data.path={other}")
        if final == "0":
            assert (said.code, "is 0 (cosine" in said.err) == (2, True)
            assert "α_pre = 0.1" in said.err
            continue
        assert said.code == 0, said.err
        assert cli("train", "--run", out, "--until", "8").code == 0
        assert list(rates(out).values()) == [pytest.approx(1e-3)] * 2
        shutil.rmtree(out)


def test_mid_training_in_another_tokenizer(trunk: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some other text. " * 300)
    data = tmp_path / "data"
    assert cli("prepare", tmp_path / "a.txt", "--tokenizer", "bpe:300", "--out", data).code == 0
    said = cli("fork", trunk, "--stage", "mid", "--out", out, f"data.path={data}")
    assert (said.code, "tokenizer" in said.err) == (2, True)
    assert not out.exists()


# --- replay ----------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["6", "384-tokens", "325-tokens"])
def test_a_moment_without_a_checkpoint_is_replayed(
    when: str, out: Path, tmp_path: Path, corpus: Path
) -> None:
    """Bit for bit the state that the run had there, averages included; its cost is said first."""
    recipe = write_recipe(tmp_path / "r.toml", corpus, checkpoint={"every": "1h", "at": [6]})
    assert cli("train", recipe, "--run", tmp_path / "t", "--until", "12").code == 0
    original = parameters(tmp_path / "t", 6)
    shutil.rmtree(at(tmp_path / "t", 6).path)
    before = files(tmp_path / "t")
    said = cli("fork", f"{tmp_path / 't'}@{when}", "--out", out)
    assert said.code == 0, said.err
    assert "replaying about" in said.err
    assert "FLOPs) from step 0" in said.err
    assert steps_kept(out) == [6]
    assert differing(parameters(out, 6), original) == []
    assert files(tmp_path / "t") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fork", "r.toml", "t"]
    assert cli("train", "--run", out, "--until", "12").code == 0
    assert differing(parameters(out, 12), parameters(tmp_path / "t", 12)) == []


def test_a_replay_begins_at_the_nearest_checkpoint(trunk: Path, out: Path) -> None:
    said = cli("fork", f"{trunk}@11", "--out", out)
    assert said.code == 0
    assert "replaying about 2 steps (128 tokens, " in said.err
    assert "from step 9" in said.err
    assert cli("train", "--run", out, "--until", "12").code == 0
    assert differing(parameters(out, 12), parameters(trunk, 12)) == []


def test_a_replay_follows_what_changed(out: Path, tmp_path: Path, corpus: Path) -> None:
    """The batch and the averages changed on the way; two sittings changed things at one step."""
    run = tmp_path / "t"
    recipe = write_recipe(tmp_path / "r.toml", corpus, checkpoint={"every": "1h", "at": [7, 10]},
                          unit="1T-tokens")  # fmt: skip
    for until, *settings in (
        ("3",),
        ("3", "train.batch=8"),
        ("5", "log.every=2", "averages.late=uniform"),
        ("7", "averages={late='uniform', ema25='anytime_ema:f=2'}", "train.batch=4"),
        ("10", "averages.third=uniform"),
    ):
        assert cli("train", *([recipe] if not RunDir(run).exists else []), "--run", run,
                   "--until", until, *settings).code == 0  # fmt: skip
    original = {step: parameters(run, step) for step in (7, 10)}
    since = at(run, 7).state["averages"]["since"]
    for step in (3, 5, 7):
        if step in steps_kept(run):
            shutil.rmtree(at(run, step).path)
    said = cli("fork", f"{run}@7", "--out", out)
    assert said.code == 0, said.err
    assert "from step 0" in said.err
    assert differing(parameters(out, 7), original[7]) == []
    assert at(out, 7).state["averages"]["since"] == since
    assert cli("train", "--run", out, "--until", "10").code == 0
    assert differing(parameters(out, 10), original[10]) == []


def test_a_replay_of_a_run_that_began_from_weights(out: Path, tmp_path: Path, trunk: Path) -> None:
    run, recipe = tmp_path / "t", trunk.parent / "r.toml"
    assert cli("train", recipe, "--run", run, "--from", f"{trunk}@12:uniform", "--until", "6",
               "checkpoint.at=[3]", "unit=1T-tokens").code == 0  # fmt: skip
    original = parameters(run, 3)
    shutil.rmtree(at(run, 3).path)
    said = cli("fork", f"{run}@3", "--out", out)
    assert said.code == 0, said.err
    assert differing(parameters(out, 3), original) == []


def test_a_replay_never_guesses_what_a_fork_began_from(
    trunk: Path, out: Path, tmp_path: Path
) -> None:
    """A fork whose first checkpoint is gone cannot be replayed from its own step 0."""
    assert cli("fork", f"{trunk}@9", "--out", out, "schedule=constant:peak=1e-3").code == 0
    assert cli("train", "--run", out, "--until", "12", "checkpoint.newest=1").code == 0
    if 9 in steps_kept(out):
        shutil.rmtree(at(out, 9).path)
    said = cli("fork", f"{out}@10", "--out", tmp_path / "again")
    assert (said.code, "no checkpoint there; nearest: 12" in said.err) == (2, True)
    assert not (tmp_path / "again").exists()


def test_own_modules_are_recorded(trunk: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from anytrain import grammar

    out.parent.joinpath("fork_of_mine.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Flat:\n"
        "    peak: float\n\n    def __call__(self, t: float, /) -> float:\n"
        "        return self.peak\n"
    )
    monkeypatch.chdir(out.parent)
    monkeypatch.setattr(grammar, "_USER_MODULES", {})
    try:
        said = cli("fork", f"{trunk.resolve()}@9", "--out", out, "--import", "fork_of_mine",
                   "schedule=fork_of_mine.Flat:peak=1e-3")  # fmt: skip
        assert said.code == 0, said.err
        assert len(RunDir(out).identity["imports"]["fork_of_mine"]) == 64
        assert cli("train", "--run", out, "--until", "10", "--import", "fork_of_mine").code == 0
        assert [r["lr"] for r in RunDir(out).metrics() if "lr" in r] == [1e-3]
        assert events(out, "stop")
    finally:
        sys.modules.pop("fork_of_mine", None)
