"""Damaged files: every reader answers with success or one sentence, never a crash or a hang.

The same 2,840 cases every time. Each has a limit of time and of memory (`damage.bounded`).
"""

import contextlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import originals
import pytest
from damage import (
    ROOM,
    cases,
    damaged_bytes,
    damaged_header,
    damaged_json,
    damaged_lines,
    damaged_toml,
    put,
    survives,
)
from hypothesis import given
from hypothesis import strategies as st

from anytrain import foreign
from anytrain.data.manifest import Manifest
from anytrain.data.shards import Corpus
from anytrain.data.stream import TrainingData
from anytrain.files import sha256
from anytrain.headers import of_directory, read_header
from anytrain.models.decoder import Decoder
from anytrain.rundir import RunDir
from tiny import cli, write_recipe

pytestmark = pytest.mark.filterwarnings("ignore")

NUMBER = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def uncompiled() -> Iterator[None]:
    """A recipe that asks for compilation gets none: it takes a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "compile", lambda _: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def run(folder: Path, corpus: Path) -> Path:
    return originals.run(folder, corpus)


@pytest.fixture(scope="module")
def model(folder: Path, corpus: Path) -> Path:
    return originals.model(folder, corpus)


@pytest.fixture(scope="module")
def tokens(folder: Path, corpus: Path) -> Path:
    return originals.copy(corpus, folder)


@contextlib.contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """A name for an output that is gone afterwards."""
    out = folder / f"out-{next(NUMBER)}"
    try:
        yield out
    finally:
        shutil.rmtree(out, ignore_errors=True)


def read_run(run: Path, verb: str) -> Any:
    """One verb on a run."""
    with fresh(run.parent) as out:
        arguments: dict[str, list[Any]] = {
            "status": ["status", run],
            "json": ["status", run, "--json"],
            "report": ["report", run],
            "release": ["release", f"{run}:ema25", "--out", out],
            "best": ["release", run, "--out", out],
            "free": ["release", f"{run}@16:schedule_free", "--out", out],
            "merge": ["merge", f"{run}@4..16", "--rule", "uniform", "--out", out],
            "rebuild": ["merge", run, "--rule", "power_ema:sigma_rel=0.15", "--out", out,
                        "--max-error", "1"],
            "generate": ["generate", run, "the", "--tokens", "2"],
        }  # fmt: skip
        return cli(*arguments[verb])


VERBS = ["status", "json", "report", "release", "best", "free", "merge", "rebuild", "generate"]


def reseal(folder: Path, file: Path) -> None:
    """Make a checkpoint's manifest agree with a file that was changed."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_originals(run: Path, model: Path) -> None:
    """Undamaged, every verb succeeds: what fails below fails for the damage."""
    for verb in VERBS:
        said = read_run(run, verb)
        assert said.code == 0, (verb, said.err)
    assert cli("generate", model, "the", "--tokens", "2").code == 0


def test_the_limits() -> None:
    """What would hang or take all memory is seen."""
    with pytest.raises(MemoryError):
        survives(lambda: bytearray(2 * ROOM))
    with pytest.raises(AssertionError, match="not done"):
        survives(lambda: time.sleep(9), seconds=0.1)


# --- a run -----------------------------------------------------------------------------------

CHECKPOINT = "checkpoints/step-000000016"
RUN_FILES = ["run.json", f"{CHECKPOINT}/manifest.json", f"{CHECKPOINT}/state.json",
             "snapshots/step-000000010/manifest.json"]  # fmt: skip


@cases(450)
@given(data=st.data())
def test_json_of_a_run(data: st.DataObject, run: Path) -> None:
    file = run / data.draw(st.sampled_from(RUN_FILES))
    content = data.draw(damaged_json(file.read_bytes()))
    manifest = file.with_name("manifest.json")
    whole = manifest.read_bytes() if manifest.is_file() else b""
    with put(file, content):
        if file.name == "state.json":  # or nothing but its checksum would be looked at
            reseal(file.parent, file)
        try:
            survives(lambda: read_run(run, data.draw(st.sampled_from(VERBS))))
        finally:
            if whole:
                manifest.write_bytes(whole)


@cases(200)
@given(data=st.data())
def test_lines_of_a_run(data: st.DataObject, run: Path) -> None:
    file = run / data.draw(st.sampled_from(["metrics.jsonl", "events.jsonl"]))
    verbs = ["status", "json", "report", "best"]
    with put(file, data.draw(damaged_lines(file.read_bytes()))):
        survives(lambda: read_run(run, data.draw(st.sampled_from(verbs))))
        survives(lambda: RunDir(run).changes())


@cases(200)
@given(data=st.data())
def test_the_recipe_of_a_run(data: st.DataObject, run: Path) -> None:
    file = run / "recipe.toml"
    with put(file, data.draw(damaged_toml(file.read_bytes()))):
        survives(lambda: read_run(run, data.draw(st.sampled_from(VERBS))))


@cases(100)
@given(data=st.data())
def test_tensors_of_a_run(data: st.DataObject, run: Path) -> None:
    """The manifest forged too, so that the sizes agree."""
    folder = run / CHECKPOINT
    file = data.draw(st.sampled_from(sorted(folder.glob("*.safetensors"))))
    manifest = folder / "manifest.json"
    with (
        put(file, data.draw(damaged_header(file.read_bytes()))),
        put(manifest, manifest.read_bytes()),
    ):
        reseal(folder, file)
        survives(lambda: read_run(run, data.draw(st.sampled_from(VERBS[3:]))))


@cases(40)
@given(data=st.data())
def test_going_on(data: st.DataObject, run: Path, folder: Path) -> None:
    """Training reads a damaged run and goes on, or says what is wrong."""
    names = ["run.json", "recipe.toml", "metrics.jsonl", "events.jsonl", *RUN_FILES[1:3]]
    name = data.draw(st.sampled_from(names))
    how: dict[str, Callable[[bytes], Any]] = {
        ".json": damaged_json, ".toml": damaged_toml, ".jsonl": damaged_lines
    }  # fmt: skip
    with fresh(folder) as copy:
        shutil.copytree(run, copy)
        content = data.draw(how[Path(name).suffix]((copy / name).read_bytes()))
        (copy / name).write_bytes(content)
        survives(lambda: cli("train", "--run", copy, "--for", "1-steps"))


# --- recipes ---------------------------------------------------------------------------------


@cases(500)
@given(data=st.data())
def test_recipes(data: st.DataObject, folder: Path, run: Path) -> None:
    """`plan` of a recipe as a run has it, with every key there is."""
    file = folder / "plan.toml"
    file.write_bytes(data.draw(damaged_toml((run / "recipe.toml").read_bytes())))
    survives(lambda: cli("plan", file))


@cases(40)
@given(data=st.data())
def test_training(data: st.DataObject, folder: Path, corpus: Path) -> None:
    recipe = write_recipe(folder / "train.toml", corpus)
    recipe.write_bytes(data.draw(damaged_toml(recipe.read_bytes())))
    with fresh(folder) as out:
        survives(lambda: cli("train", recipe, "--run", out, "--for", "1-steps"))


# --- a corpus --------------------------------------------------------------------------------


def read_corpus(folder: Path) -> None:
    found = TrainingData.open({str(folder): 1.0}, context=16, seed=0)
    found.batch(0, 4)
    found.validation(64)


@cases(400)
@given(data=st.data())
def test_the_manifest_of_a_corpus(data: st.DataObject, tokens: Path) -> None:
    file = tokens / "manifest.json"
    with put(file, data.draw(damaged_json(file.read_bytes()))):
        survives(lambda: read_corpus(tokens))


@cases(100)
@given(data=st.data())
def test_shards(data: st.DataObject, tokens: Path) -> None:
    """Damaged with and without a manifest that agrees."""
    files = [f for s in Manifest.read(tokens).segments for f in s.files]
    entry = data.draw(st.sampled_from(files))
    manifest, file = tokens / "manifest.json", tokens / entry.path
    text = manifest.read_text()
    with put(file, data.draw(damaged_bytes(file.read_bytes()))), put(manifest, text.encode()):
        if data.draw(st.booleans()):
            size = file.stat().st_size
            text = text.replace(f'"bytes": {entry.bytes}', f'"bytes": {size}')
            manifest.write_text(text.replace(entry.sha256, sha256(file)))
        survives(lambda: read_corpus(tokens))


@cases(60)
@given(data=st.data())
def test_raw_tokens(data: st.DataObject, folder: Path) -> None:
    for name, write in (("bin", np.ndarray.tofile), ("npy", lambda a, p: np.save(p, a))):
        with fresh(folder) as raw:
            raw.mkdir()
            array = np.arange(300, dtype=np.uint16)
            write(array, raw / f"train.{name}")
            write(array, raw / f"val.{name}")
            file = raw / f"train.{name}"
            head = data.draw(damaged_bytes(file.read_bytes()[:128]))
            file.write_bytes(head + file.read_bytes()[128:])
            survives(lambda raw=raw: Corpus.open(raw).train.windows(np.array([0]), 8))


# --- models ----------------------------------------------------------------------------------


@cases(200)
@given(data=st.data())
def test_headers(data: st.DataObject, model: Path) -> None:
    file = sorted(model.glob("*.safetensors"))[0]
    with put(file, data.draw(damaged_header(file.read_bytes()))):
        survives(lambda: read_header(file))
        survives(lambda: of_directory(model))
        survives(lambda: cli("generate", model, "the", "--tokens", "1"))


@cases(250)
@given(data=st.data())
def test_json_of_a_model(data: st.DataObject, model: Path, folder: Path) -> None:
    names = ["config.json", "model.safetensors.index.json", "tokenizer.json"]
    file = model / data.draw(st.sampled_from(names))
    with put(file, data.draw(damaged_json(file.read_bytes()))), fresh(folder) as out:
        verbs = [["generate", model, "the", "--tokens", "1"], ["release", model, "--out", out],
                 ["merge", model, "--rule", "uniform", "--out", out]]  # fmt: skip
        survives(lambda: cli(*data.draw(st.sampled_from(verbs))))


# --- torch.distributed -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def dcp(folder: Path) -> Path:
    return originals.foreign(folder)


@cases(300)
@given(data=st.data())
def test_pickles(data: st.DataObject, dcp: Path) -> None:
    file = data.draw(st.sampled_from(sorted(p for p in dcp.iterdir())))
    with put(file, data.draw(damaged_bytes(file.read_bytes()))):
        survives(lambda: foreign.read(dcp))
