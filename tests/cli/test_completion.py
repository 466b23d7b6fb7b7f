"""Bash completes verbs, options, runs, recipes and settings; the other shells' text is whole."""

import shutil
import subprocess
from pathlib import Path

import pytest

from anytrain.cli.completion import SHELLS, recipe_words
from anytrain.cli.main import SUMMARIES
from anytrain.training import recipes
from anytrain.training.loggers import flat
from tiny import cli

# What bash does on TAB: the words so far in COMP_WORDS, the last one being completed.
PRESS_TAB = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_anytrain_completed
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = cli("completion", "bash")
    assert (said.code, said.err) == (0, "")
    file = tmp_path_factory.mktemp("shell") / "anytrain"
    file.write_text(said.out)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run in ("runs/a", "runs/deep/b"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "run.json").touch()
    (tmp_path / "runs/empty").mkdir()
    (tmp_path / "papers").mkdir()
    (tmp_path / "mine.toml").touch()
    (tmp_path / "notes.txt").touch()
    return tmp_path


def tab(script: Path, folder: Path, *words: str) -> set[str]:
    """What is offered for the last word."""
    command = ["bash", "--norc", "-c", PRESS_TAB, "tab", str(script), "anytrain", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


def test_verbs_and_their_options(script: Path, folder: Path) -> None:
    assert tab(script, folder, "") >= SUMMARIES.keys()
    assert tab(script, folder, "fi") == {"finetune"}
    assert tab(script, folder, "fork", "--st") == {"--stage"}
    assert tab(script, folder, "fork", "--stage", "") == {"mid"}
    assert tab(script, folder, "theory", "") == {"rates", "sweep", "estimate", "advise"}
    assert tab(script, folder, "theory", "rates", "--so") == {"--source"}


@pytest.mark.parametrize(
    "words", [("status",), ("train", "--run"), ("train", "demo", "--from"), ("merge",), ("report",)]
)
def test_directories_that_are_runs_or_lead_to_one(
    words: tuple[str, ...], script: Path, folder: Path
) -> None:
    assert tab(script, folder, *words, "") == {"runs"}
    assert tab(script, folder, *words, "runs/") == {"runs/a", "runs/deep"}
    assert tab(script, folder, *words, "pa") == {"papers"}  # no run there: any directory


def test_recipes_and_settings(script: Path, folder: Path) -> None:
    assert tab(script, folder, "train", "de") == {"demo"}
    assert tab(script, folder, "plan", "min") == {"mine.toml"}
    assert tab(script, folder, "train", "demo", "train.ba") == {"train.batch="}
    found = tab(script, folder, "train", "demo", "log.")
    assert found == {
        f"log.{key}=" for key in ("every", "tensorboard", "wandb", "trackio", "mlflow")
    }
    assert "notes.txt" in tab(script, folder, "prepare", "")


def test_settings_are_those_of_a_recipe() -> None:
    known = recipe_words()
    for key in flat(recipes.load("demo").table()):
        names_of_ones_own = key.startswith("averages.")
        assert (f"{key}=" in known) != names_of_ones_own


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_every_verb(shell: str, tmp_path: Path) -> None:
    said = cli("completion", shell)
    assert said.code == 0
    for verb in SUMMARIES:
        assert verb in said.out
    if shutil.which(shell):
        file = tmp_path / shell
        file.write_text(said.out)
        done = subprocess.run([shell, "-n", file], capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_shell_is_a_sentence() -> None:
    said = cli("completion", "powershell")
    assert (said.code, "'powershell'" in said.err) == (2, True)
