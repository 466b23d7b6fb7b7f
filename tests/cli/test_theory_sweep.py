"""`anytrain theory sweep` from the command line: tables, files, figures, refusals."""

import csv
import json
import struct
import sys
from pathlib import Path

import pytest

from anytrain.cli.main import main
from anytrain.errors import UserError
from anytrain.report import theory_sweep, theory_table
from anytrain.theory.slopes import last_decade, local_slopes
from anytrain.theory.sweep import Panel, Setup, run_panel
from tiny import cli

FILES = {"results.csv", "slopes.csv", "local.csv", "grid.csv", "risk.png", "slopes.png"}
SIZE = ["theory", "sweep", "--dim", "60", "--steps", "100"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a sweep of two panels, and what was printed."""
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("sweep") / "deep" / "out"
    said = cli(*SIZE, "--panel", "1.5:3", "--panel", "1.5:4.5", "--dims", "20,6e1", "--out", out)
    assert said.code == 0, said.err
    return out, said.out


def test_the_files_and_what_is_in_them(written: tuple[Path, str]) -> None:
    out, said = written
    assert {path.name for path in out.iterdir()} == FILES
    assert all(str(out / name) in said for name in FILES)
    results = rows(out / "results.csv")
    arms = 11  # 4 free arms, average and last; WSD twice and cosine
    assert len(results) == 2 * 8 * (arms + 1)
    for row in results:
        assert float(row["risk"]) > 0
        if row["arm"] != "minimax":
            parts = float(row["bias"]) + float(row["variance"])
            assert parts == pytest.approx(float(row["risk"]), rel=1e-4)
            assert float(row["rate"]) > 0
    at = {
        (row["source"], row["arm"], row["weights"], row["chosen"], row["step"]) for row in results
    }
    assert len(at) == len(results)
    slopes = rows(out / "slopes.csv")
    assert {row["first"] for row in slopes} == {"10"}
    for row in (row for row in slopes if row["theory"]):
        gap = float(row["slope"]) - float(row["theory"])
        assert gap == pytest.approx(float(row["difference"]), abs=1e-5)
    grid = rows(out / "grid.csv")
    chosen = next(row for row in slopes if (row["arm"], row["weights"]) == ("constant", "average"))
    searched = [row for row in grid if (row["arm"], row["weights"]) == ("constant", "average")
                and row["source"] == "3"]  # fmt: skip
    assert len(searched) == 22 * 5
    best = min(searched, key=lambda row: float(row["mean"]))
    assert (best["multiplier"], best["window"]) == (chosen["multiplier"], chosen["window"])
    assert {row["dim"] for row in rows(out / "local.csv")} == {"20", "60"}


def test_the_table_is_what_the_files_say(written: tuple[Path, str]) -> None:
    out, said = written
    for row in rows(out / "slopes.csv"):
        if row["arm"] == "cosine":
            line = f"{float(row['risk']):.3e}  {float(row['slope']):.3f}".replace("  -", "  −")
            assert line in said
    blocks = said.split("\n\n")
    assert blocks[0].startswith("a = 1.5, b = 3: γ* = 0.5, minimax −0.667, tr H = ")
    assert "bare 1/√t = t^−γ* + averaging " in blocks[0]
    assert "  t^−γ* + averaging " in blocks[1]
    for block in blocks[:2]:
        assert len({len(line) for line in block.splitlines()[1:]}) == 1, "columns not aligned"
    assert "from 10 to 100 samples" in blocks[2]


def test_again_is_the_same(written: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = written
    assert cli(*SIZE, "--panel", "1.5:3", "--panel", "1.5:4.5", "--dims", "20,60", "--out",
               tmp_path, "--workers", "1").code == 0  # fmt: skip
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


def test_json_and_ratios() -> None:
    said = cli(*SIZE, "--capacity", "1.5,2", "--source-ratio", "1", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["written"] == []
    assert {(row["capacity"], row["source"]) for row in found["choices"]} == {(1.5, 1.5), (2, 2)}
    assert set(found["choices"][0]) == set(theory_table.SLOPES)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("--capacity 0.9", "capacity = 0.9; above 1 is valid"),
        ("--capacity 1.5,x", "invalid list of floats value: '1.5,x'"),
        ("--panel 1.5", "invalid a:b value: '1.5'"),
        ("--panel 1.5:1", "source = 1.0; above 1 is valid"),
        ("--dim 0", "dim = 0; a whole number from 1 on is valid"),
        ("--dim 2.5", "invalid whole number value: '2.5'"),
        ("--steps 49", "steps = 49; a whole number from 50 on is valid"),
        ("--steps inf", "invalid whole number value: 'inf'"),
        ("--noise=-1", "noise = -1.0; a variance, 0 or more, is valid"),
        ("--dims 10,0", "dim = 0; a whole number from 1 on is valid"),
        ("--workers 0", "--workers 0; 1 or more is valid"),
    ],
)
def test_one_sentence_and_nothing_written(wrong: str, sentence: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = cli(*SIZE, *wrong.split(), "--out", out)
    assert said.code == 2
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not out.exists()


def test_an_out_that_cannot_be_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "within"):
        said = cli(*SIZE, "--out", out)
        assert (said.code, said.out) == (2, "")
        assert "is a file; a directory, there or not, is valid" in said.err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_package_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = cli(*SIZE, "--out", tmp_path / "out")
    assert (said.code, said.out) == (2, "")
    assert "needs matplotlib: pip install 'anytrain[report]'" in said.err
    assert not (tmp_path / "out").exists()


def test_a_figure_that_fails_leaves_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> bytes:
        raise UserError("no ink")

    monkeypatch.setattr(theory_sweep, "slope_figure", fails)
    assert main([*SIZE, "--panel", "1.5:3", "--out", str(tmp_path / "out")]) == 2
    assert "no ink" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- figures ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def panels() -> list[Panel]:
    setup = Setup(dim=60, steps=100)
    return [run_panel(setup, 1.5, source) for source in (1.5, 3.0, 4.5)]


def test_a_picture_for_any_number_of_panels(panels: list[Panel]) -> None:
    pytest.importorskip("matplotlib")
    setup, sizes = Setup(dim=60, steps=100), []
    for count in (1, 3, 5):
        some = (panels * 2)[:count]
        lines = [local_slopes(panel, (20, 60), 500) for panel in some]
        for picture in (
            theory_sweep.risk_figure(setup, some),
            theory_sweep.slope_figure(setup, some, lines),
        ):
            assert picture.startswith(b"\x89PNG")
            sizes.append(struct.unpack(">II", picture[16:24]))
    assert sizes[0][0] * 3 == pytest.approx(sizes[2][0], abs=3)  # a row
    assert sizes[4][1] > 1.8 * sizes[2][1]  # and a second one


def test_every_line_has_its_name_and_its_colour(panels: list[Panel]) -> None:
    for panel in panels:
        drawing = theory_sweep._risk(panel)
        named = {line.name: line.color for line in drawing.lines if line.name}
        assert {"minimax", "constant", "bare 1/√t", "offset 1/√t"} <= named.keys()
        assert {"WSD, tuned", "WSD, one choice", "cosine, tuned"} <= named.keys()
        assert ("t^−γ*" in named) == (panel.twin is None)
        assert all(len(name) <= 15 for name in named), "a longer one is cut"
        free = [named["constant"], named["bare 1/√t"], named["offset 1/√t"], named["WSD, tuned"]]
        assert len(set(free)) == 4
    below = [theory_sweep._risk(panel).below for panel in panels]
    assert below[0] == "theory: minimax, constant, WSD −0.333; 1/√t −0.167"
    assert below[1] == "theory: minimax, 1/√t −0.667; constant, WSD −0.333"
    assert "t^−γ* −" in below[2] or "t^−γ*" in below[2].split(";")[0]


def test_dimensions_that_end_together_share_a_name(panels: list[Panel]) -> None:
    lines = local_slopes(panels[0], (4, 60, 1000, 2000), 500)
    fixed = [line for line in lines if line.chosen == "fixed"]
    ends = [name for name, _, _ in theory_sweep._ends(fixed, (0.0, 3.0))]
    assert ends[0] == " ≥ 1k"
    assert ends[-1] == ", 4"
    assert [name for name, _, _ in theory_sweep._ends(fixed, (0.0, 1e6))] == [", any d"]
    top = max(y for _, _, y in theory_sweep._ends(fixed, (0.0, 0.5)))
    assert top == 0.5  # one that leaves the panel is named where it leaves


def test_the_rows_of_a_panel(panels: list[Panel]) -> None:
    records = theory_table.records(panels[1], last_decade(panels[1]))
    fixed = [row for row in records if row["chosen"] == "fixed"]
    assert [(row["arm"], row["window"]) for row in fixed] == [
        (arm, window) for arm in ("constant", "power") for window in (1, 2, 4, 8, 16)
    ]
    assert {row["multiplier"] for row in fixed} == {1.0}
    assert next(r for r in records if r["weights"] == "last")["theory"] is None
