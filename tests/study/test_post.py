"""A study of kind post-training: its file, its steps, and its base models for real."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from anytrain.cli.study import job
from anytrain.errors import UserError
from anytrain.rundir import RunDir
from anytrain.study.post import gather
from anytrain.study.post.conducted import PostStudy
from anytrain.study.post.design import Design
from anytrain.study.post.steps import weights
from tiny import PER_STEP, cli, table

TOKENS = 16 * PER_STEP

BASES: dict[str, dict[str, Any]] = {
    "wso": {"schedule": "constant:peak=1e-2,warmup=2-steps"},
    "wsd-0": {"of": "wso", "cooldown": 0.25, "final": 0.0},
    "cosine-10": {"schedule": "cosine:peak=1e-2,warmup=2-steps,final=0.1"},
    "wso-ema25": {"of": "wso", "weights": "ema25"},
    "wso-wsm": {"of": "wso", "merge": "wsm:shape=linear", "span": 0.25},
}


OPTIONS = {"batch": 8, "drop-long": True, "sft.x": True}


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"{a} + {a} ="},
                {"role": "assistant", "content": str(2 * a)},
            ]
        }
        for a in range(60)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write(folder: Path, corpus: Path, chat: Path, **changed: Any) -> Path:
    (folder / "tiny.toml").write_text(tomli_w.dumps(table(corpus)))
    made = {
        "kind": "post-training", "name": "small", "recipe": "tiny.toml",
        "tokens": f"{TOKENS}-tokens", "seeds": [1], "bases": BASES,
        "tasks": {"sums": {"data": str(chat)}},
        "finetune": {"lr": [1e-3, 1e-2], "settings": OPTIONS},
        "sharpness": {"probes": 2, "tokens": "256-tokens"}, **changed,
    }  # fmt: skip
    path = folder / "post.toml"
    path.write_text(tomli_w.dumps(made))
    return path


def test_the_steps(tmp_path: Path, corpus: Path, chat: Path) -> None:
    """Each run once, forks after their trunk, tuning and curvature after what they are of."""
    design = Design(write(tmp_path, corpus, chat))
    study = PostStudy(design, tmp_path / "out")
    assert len(study.steps) == 4 + 5 + 5 + 3  # an average has no step of its own, nor moments
    along = study.steps["along-wsd-0"].verbs[0]
    assert along[1].endswith("runs/wsd-0-s1@1..1024-tokens:raw")
    assert along[-1].endswith("sharpness/along-wsd-0.jsonl")
    both = {"probes": 2, "tokens": "256-tokens", "tasks": True}
    on_tasks = PostStudy(Design(write(tmp_path, corpus, chat, sharpness=both)), tmp_path / "out")
    words = on_tasks.steps["sharpness-wso-s1"].verbs[0]
    assert words[2:6] == ("--data", str(corpus), str(chat), "--drop-long")
    assert str(chat) not in on_tasks.steps["along-wso"].verbs[0]
    fork = study.steps["base-wsd-0-s1"]
    assert fork.needs == ("base-wso-s1",)
    assert fork.verbs[0][-8:] == (
        "--cooldown", "25%", "--end", "1.024k-tokens", "--shape", "linear", "--final", "0"
    )  # fmt: skip
    tune = study.steps["tune-wso-ema25-s1"]
    assert tune.needs == ("base-wso-s1",)
    assert tune.verbs[0][1].endswith("runs/wso-s1@1024-tokens:ema25")
    assert tune.verbs[0][-6:] == (
        "--batch", "8", "--drop-long", "sft.x=true", "--retention", str(corpus)
    )  # fmt: skip
    more = {"data": str(chat), "metric": "loss", "lr": [3e-3]}
    two = {"sums": {"data": str(chat)}, "more": more}
    of_both = PostStudy(Design(write(tmp_path, corpus, chat, tasks=two)), tmp_path / "out")
    verbs = of_both.steps["tune-wso-s1"].verbs  # in one process
    assert [v[v.index("--out") + 1].split("/")[-2] for v in verbs] == ["sums", "more"]
    assert [v[v.index("--lr") + 1] for v in verbs] == ["0.001,0.01", "0.003"]
    assert [step.name for step in study.ready()] == ["base-wso-s1", "base-cosine-10-s1"]
    once = {"lr": [1e-3, 1e-2], "tune": "first seed"}
    first = PostStudy(Design(write(tmp_path, corpus, chat, finetune=once, seeds=[4, 2])),
                      tmp_path / "out")  # fmt: skip
    assert "--lr" in first.steps["tune-wso-s4"].verbs[0]
    later = first.steps["tune-wso-s2"]
    assert later.needs == ("base-wso-s2", "tune-wso-s4")
    assert later.verbs[0][later.verbs[0].index("--lr-of") + 1].endswith("finetuned/sums/wso-s4")
    assert Design(_kept(study)).files() == design.files()
    for name in ("base-wso-s1", "base-cosine-10-s1"):
        marker = study.steps[name].marker(study.out)
        marker.parent.mkdir(exist_ok=True)
        marker.write_text(study.steps[name].digest)
    study.refresh()
    kinds = [step.name.partition("-")[0] for step in study.ready()]
    assert kinds == ["base"] * 2 + ["tune"] * 3 + ["sharpness", "along"] * 2 + ["sharpness"]


def _kept(study: PostStudy) -> Path:
    study.keep_design()
    return study.out / "study.toml"


def test_the_bases_for_real(tmp_path: Path, corpus: Path, chat: Path) -> None:
    """Trained, decayed, gone on with, merged: each at the tokens it says, each once."""
    bases = {
        **BASES,
        "mid": {"of": "wso", "data": str(corpus) + "/../tokens", "more": "256-tokens"},
    }
    design = Design(write(tmp_path, corpus, chat, bases=bases))
    study = PostStudy(design, tmp_path / "out")
    study.keep_design()
    while todo := [step for step in study.ready() if step.name.startswith("base-")]:
        for step in todo:
            path = study.out / "jobs" / f"{step.name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(step.to_json()))
            assert job(study.out, step.name) == 0, step.name
            study.refresh()
    for name in ("wso", "wsd-0", "cosine-10", "mid"):
        run = RunDir(study.out / "runs" / f"{name}-s1")
        assert run.checkpoints()[-1].tokens == TOKENS + (256 if name == "mid" else 0), name
    rates = {name: float(RunDir(study.out / "runs" / f"{name}-s1").checkpoints()[-1].manifest["lr"])
             for name in ("wso", "wsd-0", "cosine-10", "mid")}  # fmt: skip
    assert rates == {"wso": 1e-2, "wsd-0": 0.0, "cosine-10": pytest.approx(1e-3), "mid": 1e-2}
    for name in bases:
        shown = cli("generate", weights(design, study.out, name, 1), "the", "--tokens", "1")
        assert shown.code == 0, shown.err
    before = study.out.joinpath("steps", "base-wso-s1.done").read_text()
    again = PostStudy(design, tmp_path / "out")
    assert not [step for step in again.ready() if step.name.startswith("base-")]
    # stopped after its fork: it goes on with what is there; another design says what to remove
    marker = study.steps["base-wsd-0-s1"].marker(study.out)
    marker.unlink()
    assert job(study.out, "base-wsd-0-s1") == 0
    assert marker.is_file()
    path = study.out / "jobs" / "base-wsd-0-s1.json"
    path.write_text(path.read_text().replace(study.steps["base-wsd-0-s1"].digest, "another"))
    with pytest.raises(UserError, match=r"wsd-0-s1 was made by another design; remove it"):
        job(study.out, "base-wsd-0-s1")
    changed = Design(write(tmp_path, corpus, chat, tokens=f"{TOKENS + PER_STEP}-tokens"))
    longer = PostStudy(changed, tmp_path / "out")
    assert "base-wso-s1" in [step.name for step in longer.ready()]
    assert before == study.out.joinpath("steps", "base-wso-s1.done").read_text()


@pytest.mark.parametrize(
    ("verb", "code", "ran"), [("finetune", 2, ["a", "b"]), ("finetune", 130, ["a"]),
                              ("sharpness", 2, ["a"])],
)  # fmt: skip
def test_a_sweep_that_is_refused_holds_up_no_other(
    verb: str, code: int, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the step is not done: it is tried again. What was interrupted, or follows, is not."""
    said: list[str] = []

    def main(words: list[str]) -> int:
        said.append(words[1])
        return code if words[1] == "a" else 0

    monkeypatch.setattr("anytrain.cli.main.main", main)
    path = tmp_path / "jobs" / "tune-x.json"
    path.parent.mkdir()
    told = {"name": "tune-x", "verbs": [[verb, "a"], [verb, "b"]], "digest": "d"}
    path.write_text(json.dumps(told))
    assert job(tmp_path, "tune-x") == code
    assert said == ran
    assert not (tmp_path / "steps" / "tune-x.done").exists()


def test_what_the_paper_calls_a_base(tmp_path: Path, corpus: Path, chat: Path) -> None:
    mid = {"data": str(corpus), "more": "256-tokens"}
    bases = {
        **BASES,
        "power": {"schedule": "power:peak=1e-2,exponent=0.25,warmup=2-steps,offset=9-steps"},
        "linear": {"schedule": "linear:peak=1e-2,warmup=2-steps"},
        "wso-10-10": {"of": "wso", **mid}, "wso-10-0": {"of": "wso", "final": 0.0, **mid},
        "cosine-1-0": {"of": "cosine-10", "final": 0.0, **mid},
        "wsd-0-mid-ema": {"of": "cosine-1-0", "weights": "ema25"},
        "power-mid": {"of": "power", **mid},
    }  # fmt: skip
    design = Design(write(tmp_path, corpus, chat, bases=bases))
    assert gather.results(PostStudy(design, tmp_path / "out")).arms == {
        "wso": "WSO", "wsd-0": "WSD a=0", "cosine-10": "Cosine a=0.1", "linear": "Linear a=0",
        "wso-10-10": "WSO (1,1)", "wso-10-0": "WSD (1,0)", "cosine-1-0": "Cosine (0.1,0)",
    }  # fmt: skip


def test_rates_that_the_first_seed_chose(tmp_path: Path, corpus: Path, chat: Path) -> None:
    """A report at another rate, of before rates were added, does not count."""
    once = {"lr": [1e-3, 1e-2], "tune": "first seed"}
    design = Design(write(tmp_path, corpus, chat, bases={"wso": BASES["wso"]}, seeds=[1, 2],
                          finetune=once))  # fmt: skip
    study = PostStudy(design, tmp_path / "out")
    for seed, lines in (
        (1, [point("tune", 1e-3, 0, 0.2), point("tune", 1e-2, 0, 0.4),
             point("report", 1e-2, 1, 0.3)]),
        (2, [point("report", 1e-3, 1, 0.1), point("report", 1e-2, 1, 0.5)]),
    ):  # fmt: skip
        folder = study.out / "finetuned" / "sums" / f"wso-s{seed}"
        folder.mkdir(parents=True)
        (folder / "points.jsonl").write_text("".join(lines))
    found = gather.results(study).outcomes
    assert [(o.seed, o.lr, o.scores) for o in found] == [(1, 1e-2, (0.3,)), (2, 1e-2, (0.5,))]


def point(phase: str, lr: float | None, seed: int | None, score: float) -> str:
    """A line of a sweep: the loss on both parts is one less the score."""
    loss = 1.0 - score
    scores = {"selection_loss": loss, "report_loss": loss, "selection_score": score,
              "report_score": score, "retention_loss": 3.0, "diverged": False}  # fmt: skip
    return json.dumps({"base": "b", "lr": lr, "seed": seed, "phase": phase, **scores}) + "\n"


def test_a_rate_that_came_later_is_the_one_that_counts(
    tmp_path: Path, corpus: Path, chat: Path
) -> None:
    """What was reported at the rate that was the best before stays there, and counts no more."""
    study = PostStudy(Design(write(tmp_path, corpus, chat, bases={"wso": BASES["wso"]})),
                      tmp_path / "out")  # fmt: skip
    folder = study.out / "finetuned" / "sums" / "wso-s1"
    folder.mkdir(parents=True)
    file = folder / "points.jsonl"
    begun = [point("before", None, None, 0.1), point("tune", 1e-3, 0, 0.2),
             point("report", 1e-3, 1, 0.3)]  # fmt: skip
    file.write_text("".join(begun))
    (first,) = gather.results(study).outcomes
    assert (first.lr, first.scores) == (1e-3, (0.3,))
    file.write_text("".join([*begun, point("tune", 1e-2, 0, 0.5)]))
    assert gather.results(study).outcomes == ()  # not reported at its rate yet
    file.write_text("".join([*begun, point("tune", 1e-2, 0, 0.5), point("report", 1e-2, 1, 0.4)]))
    (then,) = gather.results(study).outcomes
    assert (then.lr, then.scores) == (1e-2, (0.4,))
    assert then.tuned == ((1e-3, 0.2), (1e-2, 0.5))


WRONG: dict[str, dict[str, Any]] = {
    "needs either schedule or of": {"bases": {"a": {}}},
    "is one of cooldown, weights, merge or data": {"bases": {**BASES, "a": {"of": "wso"}}},
    "cooldown goes with of": {"bases": {"a": {"schedule": "constant:peak=1", "cooldown": 0.1}}},
    "did you mean 'wso'": {"bases": {**BASES, "a": {"of": "wos", "weights": "ema25"}}},
    "is no run": {"bases": {**BASES, "a": {"of": "wso-ema25", "cooldown": 0.1}}},
    "cooldown = 2": {"bases": {**BASES, "a": {"of": "wso", "cooldown": 2.0}}},
    "go together": {"bases": {**BASES, "a": {"of": "wso", "data": "x"}}},
    "rates above 0": {"finetune": {"lr": [0.0]}},
    "tasks.a: lr = []": {"tasks": {"a": {"data": "none.jsonl", "lr": []}}},
    "probes = 1; 2 or more": {"sharpness": {"probes": 1}},
    "there is no file none.jsonl": {"tasks": {"a": {"data": "none.jsonl"}}},
    "tokens are valid": {"tokens": "10min"},
    "different seeds are valid": {"seeds": [1, 1]},
    "in a circle": {"bases": {**BASES, "a": {"of": "b", "cooldown": 0.1},
                              "b": {"of": "a", "cooldown": 0.1}}},
    "unknown key bases.a.shedule": {"bases": {"a": {"shedule": "constant"}}},
}  # fmt: skip


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_refused(sentence: str, tmp_path: Path, corpus: Path, chat: Path) -> None:
    path = write(tmp_path, corpus, chat, **WRONG[sentence])
    said = cli("study", path, "--out", tmp_path / "out")
    assert said.code == 2, said.err
    assert sentence in said.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_the_commands(tmp_path: Path, corpus: Path, chat: Path) -> None:
    said = cli("study", write(tmp_path, corpus, chat), "--out", tmp_path / "out", "--dry-run")
    assert said.code == 0, said.err
    assert "  anytrain finetune " in said.out
    assert said.out.endswith("0 of 17 steps done\n")
    assert not (tmp_path / "out").exists()


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.toml"):
        Design(tmp_path / "none.toml")
