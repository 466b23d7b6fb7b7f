"""`anytrain report` on runs written by hand."""

import csv
import json
import sys
from pathlib import Path

import pytest

from anytrain.cli.main import main
from fake_runs import write_cooldown, write_run

FILES = {"page.html", "frontier.png", "frontier.svg", "table.md", "table.csv"}


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    trunk = write_run(tmp_path / "trunk", checkpoints=(2000,))
    branches = [write_cooldown(tmp_path / f"cd{h}", h, v) for h, v in ((500, 3.68), (2000, 2.54))]
    return [str(run.path) for run in (trunk, *branches)]


def test_the_table(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["units", "steps", "tokens", "raw"]
    assert "best − cooldown" in lines[0]
    assert len({len(line) for line in lines[:5]}) == 1, "columns are not aligned"
    assert lines[1].split()[0] == "1"
    assert "—" in lines[1]  # no cooldown ended at one unit
    assert lines[2].split()[-2:] == ["−0.0300", "−0.1220"]
    assert any(line.startswith("Best − cooldown: −0.0300 to +0.0100 over 2") for line in lines)


def test_json(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["units"] for row in found["rows"]] == [1, 2, 4, 8]
    assert found["rows"][1]["best-cooldown"] == pytest.approx(-0.03)
    assert found["rows"][0]["cooldown"] is None
    assert [branch["step"] for branch in found["branches"]] == [500, 2000]
    assert found["written"] == []


def test_out_writes_every_file_and_again(runs: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "deep" / "report"
    assert main(["report", *runs, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == FILES
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["report", *runs, "--out", str(out)]) == 0
    assert first == {path.name: path.read_bytes() for path in out.iterdir()}
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert float(rows[3]["best-cooldown"]) == pytest.approx(0.01)
    assert rows[0]["cooldown"] == ""
    assert "**3.6500**" in (out / "table.md").read_text()
    assert f"anytrain report {runs[0]}" in (out / "page.html").read_text()


def test_without_matplotlib_the_command_is_said(
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    assert main(["report", *runs, "--out", str(out)]) == 2
    assert "pip install 'anytrain[report]'" in capsys.readouterr().err
    assert not out.exists()
    assert main(["report", *runs]) == 0


def test_a_run_without_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "young", end=5, evaluated={})
    assert main(["report", str(run.path)]) == 0
    assert "has no evaluation yet" in capsys.readouterr().out
    assert main(["report", str(run.path), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "out").write_text("mine")
    assert main(["report", *runs, "--out", str(tmp_path / "out")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "is not a run" in capsys.readouterr().err
