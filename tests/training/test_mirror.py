"""A mirror is a run directory again, whole at any time; what is wrong with it ends no training."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from anytrain.rundir import RunDir
from anytrain.training import mirror
from ranks import recipe as ranks_recipe
from ranks import trained
from tiny import cli, differing, events, files, losses, saved_bits, steps_kept, write_recipe


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PAUSES", (0.0, 0.0))


@pytest.fixture(params=["directory", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "directory":
        yield str(tmp_path / "bucket" / "runs" / "x")
        return
    fs = fsspec.filesystem("memory")
    yield "memory://bucket/runs/x"
    fs.rm("/bucket", recursive=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def train(run: Path, corpus: Path, location: str, until: int, newest: int = 2) -> str:
    keep = {"every": "3-steps", "newest": newest, "mirror": location}
    toml = write_recipe(run.with_suffix(".toml"), corpus, checkpoint=keep, unit="1000-steps")
    said = cli("train", toml, "--run", run, "--until", until)
    assert said.code == 0, said.err
    return said.err


def back(location: str, to: Path) -> Path:
    """Everything there, copied here."""
    fs, root = fsspec.core.url_to_fs(location)
    fs.get(f"{root}/", f"{to}/", recursive=True)
    return to


def test_copied_back_it_goes_on(run: Path, corpus: Path, location: str, tmp_path: Path) -> None:
    """As the run itself does, to the bit; and has what it keeps, byte for byte."""
    train(run, corpus, location, 11)
    assert [(e["step"], e["seconds"] > 0) for e in events(run, "mirror")] == [
        (n, True) for n in (3, 6, 9, 11)
    ]
    again = back(location, tmp_path / "again")
    assert steps_kept(again) == steps_kept(run) == [9, 11]
    assert files(again / "checkpoints") == files(run / "checkpoints")
    assert cli("status", again).code == 0
    shutil.rmtree(tmp_path / "bucket", ignore_errors=True)
    for one in (again, run):
        elsewhere = f"checkpoint.mirror={tmp_path}/other-{one.name}"
        assert cli("train", "--run", one, "--until", 14, elsewhere).code == 0
    assert differing(saved_bits(again, 14, ["recipe"]), saved_bits(run, 14, ["recipe"])) == []
    assert losses(again) == losses(run)


def test_what_is_not_a_checkpoint_is_left_alone(run: Path, corpus: Path, tmp_path: Path) -> None:
    mine = tmp_path / "there" / "checkpoints" / "step-by-step" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    train(run, corpus, str(tmp_path / "there"), 11, newest=1)
    found = {path.name for path in mine.parent.parent.iterdir()}
    assert found == {"step-by-step", "step-000000011"}
    assert mine.read_text() == "mine"


def test_the_manifest_comes_last_and_goes_first(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no moment does a directory with a manifest lack a file of it."""
    moments = []
    for name in ("put_file", "rm"):
        honest = getattr(LocalFileSystem, name)

        def watched(self: Any, *args: Any, honest: Any = honest, **kwargs: Any) -> None:
            honest(self, *args, **kwargs)
            found = RunDir(tmp_path / "there").checkpoints()
            moments.append(len(found))
            for checkpoint in found:
                checkpoint.verify()

        monkeypatch.setattr(LocalFileSystem, name, watched)
    train(run, corpus, str(tmp_path / "there"), 9)
    assert len(moments) > 9
    assert max(moments) == 3  # the new one is there before the old one goes
    assert all("seconds" in event for event in events(run, "mirror"))


def broken(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """The location takes no file so many times."""
    honest, failed = LocalFileSystem.put_file, []

    def put_file(self: Any, source: str, target: str, *args: Any, **kwargs: Any) -> None:
        if len(failed) < times:
            failed.append(target)
            raise ConnectionError("no route to the bucket")
        honest(self, source, target, *args, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "put_file", put_file)
    return failed


def test_a_failure_is_tried_again(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = broken(monkeypatch, 2)
    said = train(run, corpus, str(tmp_path / "there"), 3)
    assert failed[0] == failed[1]
    assert "not mirrored" not in said
    assert steps_kept(tmp_path / "there") == [3]


def test_a_failure_ends_no_training_and_is_made_up_for(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, 3)
    said = train(run, corpus, str(tmp_path / "there"), 6)
    sentence = "the checkpoint of step 3 is not mirrored: ConnectionError: no route to the bucket"
    assert said.count(sentence) == said.count("not mirrored") == 1
    failed, made_up = events(run, "mirror")
    assert (failed["step"], "seconds" in failed) == (3, False)
    assert failed["why"] == "ConnectionError: no route to the bucket"
    assert (made_up["step"], "why" in made_up) == (6, False)
    assert steps_kept(tmp_path / "there") == [3, 6]


def test_steps_taken_again_are_copied_again(run: Path, corpus: Path, tmp_path: Path) -> None:
    """A checkpoint there of the same step is not necessarily the same."""
    there = tmp_path / "there"
    train(run, corpus, str(there), 6)
    last = RunDir(run).checkpoints()[-1]
    last.delete()
    (there / "checkpoints" / last.path.name / "manifest.json").write_text("{}")
    train(run, corpus, str(there), 6)
    assert files(there / "checkpoints") == files(run / "checkpoints")


def test_the_mirror_of_another_run_is_not_touched(run: Path, corpus: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    train(run, corpus, str(there), 3)
    before = files(there)
    assert cli("fork", f"{run}@3", "--out", tmp_path / "fork").code == 0
    assert "mirror" not in RunDir(tmp_path / "fork").recipe["checkpoint"]
    said = train(tmp_path / "other", corpus, str(there), 3)
    assert "is the mirror of another run" in said
    assert files(there) == before


def test_two_processes(corpus: Path, tmp_path: Path) -> None:
    """The first mirrors what all have written."""
    keep = {"every": "3-steps", "mirror": str(tmp_path / "there")}
    model = {"layers": 1, "width": 16, "heads": 2}
    toml = ranks_recipe(tmp_path / "r.toml", corpus, checkpoint=keep, model=model)
    trained(2, tmp_path / "run", 4, toml)
    assert files(tmp_path / "there" / "checkpoints") == files(tmp_path / "run" / "checkpoints")
    assert [e["step"] for e in events(tmp_path / "run", "mirror")] == [3, 4]


# --- said before training begins -------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("nowhere://bucket/x", "checkpoint.mirror = 'nowhere://bucket/x': Protocol not known"),
        ("ftp://me:secret@host/x", "checkpoint.mirror names a password"),
        ("{run}/mirror", "are one inside the other"),
        (" ", "a location is valid"),
    ],
)
def test_a_wrong_location(
    location: str, sentence: str, run: Path, corpus: Path, tmp_path: Path
) -> None:
    """Of a new run, and of one that is there already."""
    wrong, toml = location.format(run=run), tmp_path / "r.toml"
    write_recipe(toml, corpus, checkpoint={"every": "1h", "mirror": wrong})
    said = cli("train", toml, "--run", run)
    assert (said.code, run.exists()) == (2, False)
    assert sentence in said.err
    assert "secret" not in said.err
    write_recipe(toml, corpus)
    assert cli("train", toml, "--run", run, "--until", 2).code == 0
    assert cli("train", "--run", run, f"checkpoint.mirror={wrong}").code == 2
    assert steps_kept(run) == [2]


def test_a_missing_package(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = importlib.util.find_spec
    monkeypatch.setattr(mirror, "find_spec", lambda n: None if n == "fsspec" else honest(n))
    keep = {"every": "1h", "mirror": str(tmp_path / "there")}
    said = cli("train", write_recipe(tmp_path / "r.toml", corpus, checkpoint=keep), "--run", run)
    assert (said.code, run.exists()) == (2, False)
    assert "needs fsspec: pip install 'anytrain[mirror]'" in said.err
