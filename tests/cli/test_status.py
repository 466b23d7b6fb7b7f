"""`anytrain status` on runs written by hand: live, stopped, young, forked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anytrain.cli.main import main
from anytrain.rundir import RunDir
from fake_runs import PER_STEP, losses, write_cooldown, write_run

START = {"event": "start", "step": 0, "tokens": 0, "time": "2026-01-02T03:04:05+00:00"}
STOP = {"event": "stop", "step": 2000, "by": "--for 8M-tokens", "time": "2026-01-02T04:04:05+00:00"}


@pytest.fixture
def trunk(tmp_path: Path) -> RunDir:
    return write_run(tmp_path / "trunk", checkpoints=(225, 1800, 2000), events=[START, STOP])


def as_json(run: RunDir, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["status", str(run.path), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_stopped_run(trunk: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(trunk, capsys)
    assert (found["running"], found["stopped_by"]) == (False, "--for 8M-tokens")
    assert (found["step"], found["tokens"], found["units"]) == (2000, 2000 * PER_STEP, 8)
    best = losses(2000)["ema25"]
    assert (found["best"]["weights"], found["best"]["loss"]) == ("ema25", best)
    assert found["best"]["stderr"] == 0.011
    assert [row["units"] for row in found["frontier"]] == [1, 2, 4, 8]
    assert found["last_doubling"] == pytest.approx(losses(1000)["ema25"] - best, abs=1e-3)
    ahead = found["next_doubling"]
    assert ahead["low"] < ahead["gain"] < ahead["high"]
    assert ahead["tokens"] == 2 * found["tokens"]
    assert found["disk"]["checkpoints"] == 3
    assert found["disk"]["free"] > 0
    assert found["release"]["command"] == (
        f"anytrain release {trunk.path}@2000:ema25 --out trunk-2000-ema25"
    )


def test_in_words(trunk: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(trunk.path)]) == 0
    text = capsys.readouterr().out
    assert "stopped by --for 8M-tokens" in text
    assert "step 2,000 · 8.19M tokens · 8 units of 1.02M" in text
    assert "2.5500 ± 0.0110 nats/token: ema25" in text
    assert "last doubling   gained 0.5" in text
    assert "next doubling   gains" in text
    assert text.rstrip().endswith("@2000:ema25 --out trunk-2000-ema25")


def test_a_live_run_with_a_torn_line(trunk: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with trunk.locked():
        with (trunk.path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2001, "tok')
        found = as_json(trunk, capsys)
    assert found["running"]
    assert found["holder"].startswith("pid ")
    assert found["stopped_by"] is None
    assert found["step"] == 2000
    with trunk.locked():  # the status left no lock behind
        pass


def test_a_killed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", end=300, events=[START])
    assert main(["status", str(run.path)]) == 0
    assert "ended without a word (killed?)" in capsys.readouterr().out


def test_before_the_first_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", end=20, evaluated={}, checkpoints=(10,))
    found = as_json(run, capsys)
    assert (found["best"], found["frontier"], found["last_doubling"]) == (None, [], None)
    assert found["next_doubling_unknown"].startswith("not enough evaluations: 0 of 5")
    assert found["release"]["weights"] == "raw"
    assert main(["status", str(run.path)]) == 0
    assert "no evaluation yet" in capsys.readouterr().out


def test_before_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", end=0)
    (run.path / "metrics.jsonl").unlink()
    assert main(["status", str(run.path)]) == 0
    text = capsys.readouterr().out
    assert "not started yet" in text
    assert "nothing yet: no checkpoint" in text


def test_data_and_when_the_pass_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "manifest.json").write_text(json.dumps({"segments": [{}, {}]}))
    era = {"start": 0, "segments": 1, "windows": [20_000], "sha256": "ab" * 32}
    pin = {"path": str(corpus), "weight": 1.0, "eras": [era]}
    run = write_run(tmp_path / "a", checkpoints=(2000,), data=[pin])
    (data,) = as_json(run, capsys)["data"]
    assert (data["turn"], data["left"], data["new_segments"]) == (2, 8000, 1)
    assert data["seconds_left"] == pytest.approx(8000 * 256 / (PER_STEP / 0.1))
    assert main(["status", str(run.path)]) == 0
    text = capsys.readouterr().out
    assert "pass 2, 8,000 of 20,000 windows left, ends in 50s at this pace" in text
    assert "grown since by 1" in text


def test_a_cooldown_has_a_parent_and_an_end(
    trunk: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    branch = write_cooldown(tmp_path / "cd", 2000, 2.55)
    found = as_json(branch, capsys)
    assert found["next_doubling"] is None
    assert found["next_doubling_unknown"] == "none: a cooldown ends at its horizon"
    (parent,) = found["lineage"]
    assert (parent["path"], parent["step"], parent["present"]) == ("trunk", 1800, True)
    assert list(parent["changes"]) == ["schedule"]


def test_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_it_waits_for_no_heavy_import(trunk: RunDir) -> None:
    code = (
        "import sys; from anytrain.cli.main import main; main(['status', sys.argv[1], '--json']);"
        "heavy = {'torch', 'pyarrow', 'pandas', 'pydantic', 'matplotlib', 'numpy'};"
        "sys.exit(','.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(trunk.path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
