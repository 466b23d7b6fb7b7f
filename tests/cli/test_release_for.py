"""`anytrain release --for`: weights chosen for a purpose, and the reasons on the card."""

import json
from pathlib import Path

import pytest

from anytrain.advice import Candidate, card_rows, for_finetuning, for_use
from tiny import cli


@pytest.fixture
def run(recipe_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run"
    setting = "model.context=64"
    assert cli("train", recipe_file, "--run", path, "--until", "8", setting).code == 0
    return path


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    rows = ({"prompt": f"the {a}", "completion": "of"} for a in range(80))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_for_finetuning(run: Path, chat: Path, tmp_path: Path) -> None:
    """Every candidate is probed; what the card says is what was measured; nothing is left over."""
    pytest.importorskip("trl")
    out = tmp_path / "base"
    said = cli("release", run, "--for", "finetuning", "--probe", chat, "--probe-lr", "1e-3,1e-2",
               "--out", out, "--json")  # fmt: skip
    assert said.code == 0, said.err
    found = json.loads(said.out)
    card = (out / "README.md").read_text()
    assert "## Released for fine-tuning" in card
    assert found["reason"] in card
    assert f"`{found['weights']}` is best after a short fine-tuning" in found["reason"]
    for name in ("raw", "ema25", "uniform"):
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {name}")
                  and line.count("|") == 7)  # fmt: skip
        assert "±" in row
        assert ("**(released)**" in row) == (name == found["weights"])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_for_use(run: Path, tmp_path: Path) -> None:
    said = cli("release", run, "--for", "use", "--out", tmp_path / "model")
    assert said.code == 0, said.err
    assert "has the lowest validation loss" in said.out
    assert "## Released for use as it is" in (tmp_path / "model" / "README.md").read_text()


def test_what_is_refused(run: Path, chat: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    wrong = {
        (run, "--for", "finetuning"): "needs --probe CHAT.jsonl",
        (run, "--for", "finetuning", "--probe", tmp_path / "none"): "is no file",
        (run, "--probe", chat): "goes with --for finetuning",
        (f"{run}:raw", "--for", "use"): "name the run alone",
        (run, "--for", "finetuning", "--probe", chat, "--probe-lr", "x"): "x",
    }
    for words, sentence in wrong.items():
        said = cli("release", *words, "--out", out)
        assert (said.code, sentence in said.err) == (2, True), said.err
        assert not out.exists()


RAW = Candidate("raw", 3.0, 100.0, 5.0, 1e-3, 0.40, 1.20)
EMA = Candidate("ema25", 2.9, 150.0, 5.0, 3e-4, 0.35, 1.25)


def test_the_score_decides_and_the_loss_where_scores_are_equal() -> None:
    found = for_finetuning([EMA, RAW])
    assert found is not None
    assert found.chosen == "raw"
    assert found.reason == (
        "`raw` is best after a short fine-tuning: 40.0% of the probe's answers right, at a rate of "
        "0.001. `ema25` has the lower validation loss before it. It has the flattest loss, trace "
        "100."
    )
    even = for_finetuning([RAW, Candidate("ema25", 2.9, 150.0, 5.0, 3e-4, 0.40, 1.10)])
    assert even is not None
    assert (even.chosen, "1.1000 nats/token" in even.reason) == ("ema25", True)
    assert for_finetuning([Candidate("raw", 3.0)]) is None


def test_a_candidate_that_diverged_is_not_chosen() -> None:
    found = for_finetuning([RAW, Candidate("ema25", 2.9)])
    assert found is not None
    assert found.chosen == "raw"
    assert card_rows(found)[-1] == "| ema25 | 2.9000 |  |  |  |  |"


def test_nothing_measured_is_nothing_chosen() -> None:
    assert for_use([Candidate("raw", None)]) is None
    found = for_use([RAW, EMA])
    assert found is not None
    assert found.chosen == "ema25"
