"""Damaged files of other trainers: success or one sentence, in bounded time and memory.

What `test_fuzz` does for our own files; the same cases every time.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import cases, damaged_bytes, damaged_json, put, survives
from hypothesis import given
from hypothesis import strategies as st

from anytrain.converting import opened
from anytrain.data import token_sources
from anytrain.data.formats import Skipped
from anytrain.data.tokenizer import Vocabulary, parse
from anytrain.errors import UserError
from checkpoints import LLAMA, lit_config, lit_weights, nano_weights, save_lit, save_nano
from token_files import array, mds, megatron

pytestmark = pytest.mark.filterwarnings("ignore")

DOCUMENTS = [list(range(n, n + 30)) for n in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def read_ids(source: Path, stored: str = "auto") -> None:
    """Every id of a source, as `prepare` goes through it."""
    vocabulary = Vocabulary.without_tokenizer(parse("ids:60"), "7", None)
    for file in token_sources.files(str(source), stored):
        for item in token_sources.items(file, "tokens", stored, vocabulary.eot):
            if not isinstance(item, Skipped):
                vocabulary.take(item)


def read_model(path: Path) -> None:
    """Every tensor of a checkpoint, as `convert` goes through it."""
    for _ in opened(path).tensors:
        pass


@cases(300)
@given(data=st.data())
def test_megatron(data: st.DataObject, folder: Path) -> None:
    index = megatron(folder / "a", [[d[:9], d[9:]] for d in DOCUMENTS])
    file = index.with_suffix(data.draw(st.sampled_from([".idx"] * 4 + [".bin"])))
    content = file.read_bytes()
    head = 34 if data.draw(st.booleans()) else len(content)  # half of the damage to the counts
    with put(file, data.draw(damaged_bytes(content[:head])) + content[head:]):
        survives(lambda: read_ids(index))


@cases(150)
@given(data=st.data())
def test_numpy(data: st.DataObject, folder: Path) -> None:
    file = folder / "b.npy"
    np.save(file, np.concatenate(DOCUMENTS).astype("uint16"))
    with put(file, data.draw(damaged_bytes(file.read_bytes()[:160])) + file.read_bytes()[160:]):
        survives(lambda: read_ids(file, "uint16"))


@pytest.fixture(scope="module")
def sets(folder: Path) -> dict[str | None, Path]:
    rows = [[array(d), b"text"] for d in DOCUMENTS]
    columns = {"tokens": "ndarray", "text": "str"}
    return {
        packed: mds(folder / f"mds-{packed}", [rows[:6], rows[6:]], columns, [None, None], packed)
        for packed in (None, "zstd")
    }


@cases(300)
@given(data=st.data())
def test_mds(data: st.DataObject, sets: dict[str | None, Path]) -> None:
    source = sets[data.draw(st.sampled_from([None, "zstd"]))]
    file = data.draw(st.sampled_from(sorted(source.iterdir())))
    content = file.read_bytes()
    damaged = damaged_json if file.suffix == ".json" else damaged_bytes
    changed = data.draw(damaged(content))
    if file.suffix != ".json":  # of the length that the index says, or it is refused for that
        changed = (changed + bytes(len(content)))[: len(content)]
    with put(file, changed):
        survives(lambda: read_ids(source))


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return save_nano(folder / "ckpt.pt", nano_weights(True))


@cases(400)
@given(data=st.data())
def test_files_of_torch_save(data: st.DataObject, checkpoint: Path) -> None:
    with put(checkpoint, data.draw(damaged_bytes(checkpoint.read_bytes()))):
        survives(lambda: read_model(checkpoint))


@pytest.fixture(scope="module")
def lit(folder: Path) -> Path:
    torch.manual_seed(0)
    return save_lit(folder / "lit", lit_config(LLAMA), lit_weights(LLAMA, False)[1])


@cases(120)  # PyYAML takes a second for what is deep or wide
@given(data=st.data())
def test_litgpt(data: st.DataObject, lit: Path) -> None:
    """Its table, damaged as text and by odd values; JSON is YAML too."""
    file = lit / "model_config.yaml"

    as_json = json.dumps(lit_config(LLAMA)).encode()
    changed = data.draw(st.one_of(damaged_bytes(file.read_bytes()), damaged_json(as_json)))
    with put(file, changed):
        survives(lambda: read_model(lit))


@pytest.mark.parametrize("value", ["2001-99-99", "0x_", "!!int ''", "!!timestamp x", "!!bool x"])
def test_scalars_that_pyyaml_fails_on(value: str, lit: Path) -> None:
    """With whatever its code runs into: ValueError, IndexError, AttributeError, KeyError."""
    file = lit / "model_config.yaml"
    damaged = file.read_bytes() + f"\nname: {value}\n".encode()
    with put(file, damaged), pytest.raises(UserError, match=r"config\.yaml cannot be read: "):
        read_model(lit)
