"""Training on mixtures, on appended data, and with the wrong tokenizer."""

import json
import shutil
from pathlib import Path

import pytest

from anytrain.data.tokenize import prepare
from anytrain.rundir import RunDir
from tiny import cli, differing, events, saved_bits


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def own(corpus: Path, tmp_path: Path) -> Path:
    """A copy of the corpus that a test may append to."""
    return Path(shutil.copytree(corpus, tmp_path / "own"))


def more_text(path: Path, documents: int) -> Path:
    text = (json.dumps({"text": f"on his {n} and her " * 12}) + "\n" for n in range(documents))
    path.write_text("".join(text))
    return path


def test_a_mixture_trains_and_resumes_to_the_same_bits(
    recipe_file: Path, run: Path, corpus: Path, own: Path
) -> None:
    mixture = f'data.mixture={{"{corpus}" = 0.75, "{own}" = 0.25}}'
    whole = run.with_name("whole")
    assert cli("train", recipe_file, "--run", whole, "--until", "6", mixture).code == 0
    assert cli("train", recipe_file, "--run", run, "--until", "3", mixture).code == 0
    assert cli("train", "--run", run, "--until", "6").code == 0
    assert differing(saved_bits(run, 6), saved_bits(whole, 6)) == []
    assert [pin["weight"] for pin in RunDir(run).identity["data"]] == [0.75, 0.25]
    alone = run.with_name("alone")
    assert cli("train", recipe_file, "--run", alone, "--until", "6").code == 0
    assert differing(saved_bits(alone, 6), saved_bits(whole, 6)) != []


def test_appended_data_are_read_when_asked_for_and_not_before(
    recipe_file: Path, run: Path, own: Path, tmp_path: Path
) -> None:
    arguments = ("train", recipe_file, "--run", run, f"data.path={own}")
    assert cli(*arguments, "--until", "3").code == 0
    nothing = cli(*arguments, "--until", "4", "--adopt-data")
    assert "nothing was appended" in nothing.err
    assert events(run, "adopt") == []
    prepare([str(more_text(tmp_path / "more.jsonl", 80))], own, append=True)
    assert cli(*arguments, "--until", "5").code == 0
    assert len(RunDir(run).identity["data"][0]["eras"]) == 1
    adopted = cli(*arguments, "--until", "8", "--adopt-data")
    assert (adopted.code, "tokens appended to the data are read too" in adopted.err) == (0, True)
    assert [event["step"] for event in events(run, "adopt")] == [5]
    eras = RunDir(run).identity["data"][0]["eras"]
    assert [era["start"] for era in eras] == [0, 5 * 4]  # samples
    assert eras[1]["segments"] == 2
    # the run that adopted goes on as itself: stopped and resumed, the bits are the same
    other = run.with_name("other")
    shutil.copytree(run, other)
    assert cli("train", "--run", run, "--until", "12").code == 0
    assert cli("train", "--run", other, "--until", "10").code == 0
    assert cli("train", "--run", other, "--until", "12").code == 0
    assert differing(saved_bits(run, 12), saved_bits(other, 12)) == []


def test_weights_are_not_given_the_tokens_of_another_tokenizer(
    recipe_file: Path, run: Path, tmp_path: Path
) -> None:
    assert cli("train", recipe_file, "--run", run, "--until", "1").code == 0
    strange = tmp_path / "strange"
    prepare([str(more_text(tmp_path / "more.jsonl", 300))], strange, tokenizer="bpe:280")
    path = f"data.path={strange}"
    for refused in (
        cli("train", recipe_file, "--run", tmp_path / "b", "--from", f"{run}:raw", path),
        cli("fork", run, "--out", tmp_path / "b", path),
    ):
        assert (refused.code, "is not the tokenizer of" in refused.err) == (2, True), refused.err
        assert not (tmp_path / "b").exists()
