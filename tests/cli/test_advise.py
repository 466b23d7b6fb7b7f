"""`anytrain theory advise`: what it prints and writes, and what it refuses."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from anytrain import rules, schedules
from anytrain.theory import Problem, regret, simulate
from anytrain.theory.regret import Advice
from tiny import cli

ASK = ("theory", "advise", "--capacity", "1.5", "--source", "3", "--budgets")


@pytest.fixture(scope="module")
def advice() -> Advice:
    found = regret.advise(Problem(200, 1.5, 3.0, 0.05), 20, 100, per_decade=2, workers=2)
    first, *rest = found.candidates
    return replace(found, candidates=(replace(first, edges=("warmup", "offset")), *rest))


@pytest.fixture
def asked(advice: Advice, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The search is made once; what it was asked for is kept."""
    seen: dict[str, object] = {}

    def advise(problem: Problem, low: int, high: int, **options: object) -> Advice:
        seen.update(problem=problem, low=low, high=high, **options)
        return advice

    monkeypatch.setattr(regret, "advise", advise)
    return seen


def test_it_asks_for_what_was_typed(asked: dict[str, object]) -> None:
    assert cli(*ASK, "1e3:1e6", "--workers", "3").code == 0
    assert asked == {
        **{"problem": Problem(500_000, 1.5, 3.0, 0.01), "low": 1_000, "high": 1_000_000},
        **{"batch": 1.0, "warmup": True, "workers": 3},
    }
    said = cli(*ASK, "20:2_000", "--noise", "0.5", "--dim", "1e4", "--batch", "8", "--no-warmup")
    assert said.code == 0
    assert asked["problem"] == Problem(10_000, 1.5, 3.0, 0.5)
    assert (asked["low"], asked["high"]) == (20, 2_000)
    assert (asked["batch"], asked["warmup"]) == (8.0, False)


def test_what_is_printed_can_be_pasted(asked: dict[str, object], advice: Advice) -> None:
    lines = dict(
        line.split(None, 1) for line in cli(*ASK, "20:100").out.splitlines()[2:7] if line.strip()
    )
    assert schedules.schedule(lines["schedule"]) == advice.chosen.schedule
    assert rules.rule(lines["average"]) == advice.chosen.rule
    assert lines["regret"].startswith(f"{advice.chosen.regret:.3f}: at {advice.chosen.worst} steps")
    assert lines["multiplier"].startswith(f"{advice.chosen.multiplier:.4g}, ")


def test_every_family_and_every_edge_is_named(asked: dict[str, object], advice: Advice) -> None:
    out = cli(*ASK, "20:100").out
    for one in advice.candidates:
        assert f"  {one.family}  " in out
        assert f"  {one.regret:.3f}  " in out
    assert f"{advice.chosen.family}: warmup, offset at an end of the range searched." in out


def test_json_and_files_agree(asked: dict[str, object], advice: Advice, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    said = cli(*ASK, "20:100", "--json", "--out", out)
    found = json.loads(said.out)
    names = ("families.csv", "ratios.csv", "baselines.csv", "regret.png")
    assert found["written"] == [str(out / name) for name in names]
    families = list(csv.DictReader((out / "families.csv").open()))
    assert [row["family"] for row in families] == [row["family"] for row in found["families"]]
    ratios = list(csv.DictReader((out / "ratios.csv").open()))
    for row, whole in zip(families, found["families"], strict=True):
        mine = [r for r in ratios if r["family"] == row["family"]]
        assert [int(r["budget"]) for r in mine] == [b["budget"] for b in whole["budgets"]]
        assert max(float(r["ratio"]) for r in mine) == pytest.approx(float(row["regret"]))
        assert row["schedule"] == whole["schedule"]
    arms = list(csv.DictReader((out / "baselines.csv").open()))
    assert len(arms) == len(found["baselines"]) == 6 * len(advice.baselines)
    last = arms[-1]
    assert min(float(row["ratio"]) for row in arms) == 1.0
    assert schedules.schedule(last["schedule"]) == advice.baselines[-1].arms[-1].schedule
    assert (out / "regret.png").read_bytes().startswith(b"\x89PNG")


def test_the_whole_way(tmp_path: Path) -> None:
    """No stand-in: a small problem from the words typed to the risk of what was printed."""
    said = cli(
        *("theory", "advise", "--capacity", "2", "--source", "2", "--budgets", "10:20"),
        *("--dim", "30", "--no-warmup", "--json", "--workers", "2"),
    )
    assert said.code == 0
    best = json.loads(said.out)["families"][0]
    risk = simulate(
        Problem(30, 2.0, 2.0, 0.01),
        schedules.schedule(best["schedule"]),
        {"average": rules.rule(best["rule"])},
        steps=20,
        at=[10, 20],
    )["average"]
    assert [row["risk"] for row in best["budgets"][:: len(best["budgets"]) - 1]] == pytest.approx(
        risk.tolist(), rel=1e-9
    )


VALID = "LO:HI in whole steps, 10 <= LO < HI <= 10,000,000, such as 1e3:1e6, is valid"


@pytest.mark.parametrize(
    "text",
    ["1e3", "1e3:1e6:1e7", "a:b", "1e3:", "1000:1000", "1e6:1e3", "9:100", "10:1e8", "10.5:99",
     "nan:100", "10:inf", "-5:100", ""],
)  # fmt: skip
def test_budgets_are_refused(text: str) -> None:
    said = cli(*ASK[:-1], f"--budgets={text}")
    assert (said.code, said.out) == (2, "")
    assert said.err == f"anytrain: --budgets {text!r}; {VALID}\n"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--capacity", "1"), "capacity = 1.0; above 1 is valid"),
        (("--source", "0.5"), "source = 0.5; above 1 is valid"),
        (("--noise", "-1"), "noise = -1.0; a variance, 0 or more, is valid"),
        (("--dim", "0"), "dim = 0; a whole number from 1 on is valid"),
        (("--batch", "0.5"), "batch = 0.5; 1 or more is valid"),
        (("--batch", "nan"), "batch = nan; 1 or more is valid"),
        (("--workers", "0"), "--workers 0; 1 or more is valid"),
    ],
)
def test_settings_are_refused(options: tuple[str, str], sentence: str) -> None:
    said = cli(*ASK, "10:100", *options)
    assert (said.code, said.out) == (2, "")
    assert said.err == f"anytrain: {sentence}\n"


def test_a_place_to_write_is_refused_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regret, "advise", None)
    (tmp_path / "file").write_text("")
    said = cli(*ASK, "10:100", "--out", tmp_path / "file" / "deeper")
    assert said.code == 2
    assert said.err.endswith("file is a file; a directory, there or not, is valid\n")
