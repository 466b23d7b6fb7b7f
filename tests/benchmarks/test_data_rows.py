"""What the rows on data are checked against: the checks hold, and fail where they should."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from anytrain.data.stream import TrainingData
from anytrain.data.tokenize import prepare
from anytrain.data.tokenizer import train_bpe

TEXTS = [f"document {number} says {number * number}\n" * 9 for number in range(12)]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks` lies beside the tests, not in the package."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.data")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "bpe.json"
    train_bpe(300, TEXTS).save(str(path))
    return path


def test_batches_are_compared_at_the_same_places(
    rows: ModuleType, tokenizer: Path, tmp_path: Path
) -> None:
    flat, corpus = tmp_path / "flat.bin", tmp_path / "corpus"
    whole = rows.random_corpus(corpus, tokenizer, tokens=5000, shard=1024)
    whole.tofile(flat)
    data = TrainingData.open({str(corpus): 1.0}, context=16, seed=0)
    assert len(data.corpora[0].train.files) == 5
    assert "exactly" in rows.check_batches(data, flat, 4)
    (whole + np.uint16(1)).tofile(flat)
    with pytest.raises(AssertionError, match="inputs from sample 0"):
        rows.check_batches(data, flat, 4)


def test_shards_are_compared_with_the_tokens_of_the_library(
    rows: ModuleType, tokenizer: Path, tmp_path: Path
) -> None:
    row = rows.prepare_row(tmp_path, tokenizer, TEXTS)
    assert row.ours > 0
    assert f"of {len(TEXTS)} documents" in row.check
    assert {target.peer for target in row.targets} == row.peers.keys()
    with pytest.raises(AssertionError, match="tokens are not"):
        rows.check_prepared(tmp_path / "prepared", tokenizer, TEXTS[1:])


def test_held_out_documents_would_be_missed(
    rows: ModuleType, tokenizer: Path, tmp_path: Path
) -> None:
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    prepare([source], tmp_path / "out", tokenizer=str(tokenizer), validation=0.5)
    with pytest.raises(AssertionError, match="tokens are not"):
        rows.check_prepared(tmp_path / "out", tokenizer, TEXTS)
