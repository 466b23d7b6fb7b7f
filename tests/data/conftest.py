"""Small corpora and a tokenizer that every test of this room shares."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from texts import prose

from anytrain.data import journal
from anytrain.data.tokenizer import train_bpe

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power cut is tested here, so nothing waits for the disk (child processes still do)."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(journal, "SYNCHRONOUS", "OFF")


@pytest.fixture(scope="session")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizers JSON file of 300 tokens."""
    path = tmp_path_factory.mktemp("tokenizer") / "bpe.json"
    train_bpe(300, [prose(seed, 200) for seed in range(20)]).save(str(path))
    return str(path)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes documents as JSONL and returns the file."""

    def write(name: str, texts: list[str], field: str = "text") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
        return path

    return write
