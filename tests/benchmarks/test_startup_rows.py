"""What the rows on start-up are checked against: words and imports, wrong ones refused."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from anytrain.cli.main import overview


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks` lies beside the tests, not in the package."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.startup")


def test_the_help_page_is_quick_and_says_what_it_should(rows: ModuleType) -> None:
    row = rows.row("--help", ("--help",), 0.01, 0.05, overview())
    assert row.met
    assert not rows.row("--help", ("--help",), 0.01, 0.5, overview()).met


def test_other_words_are_refused(rows: ModuleType) -> None:
    with pytest.raises(AssertionError, match="not 'anything else'"):
        rows.row("--help", ("--help",), 0.01, 0.05, "anything else")


def test_a_heavy_import_is_refused(rows: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "HEAVY", {"argparse"})
    with pytest.raises(AssertionError, match="--help imports argparse"):
        rows.row("--help", ("--help",), 0.01, 0.05, overview())


def test_cpu_time_of_processes_is_counted(rows: ModuleType) -> None:
    before = rows.children()
    rows.anytrain("--version")
    assert rows.children() > before


def test_the_line_of_the_disk_may_change(rows: ModuleType) -> None:
    assert rows.steady("at  1\ndisk  2 GB free\nrelease") == ["at  1", "release"]
