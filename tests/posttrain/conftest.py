"""Bases of fifty thousand parameters beside the corpus's tokenizer, one in each of two shapes."""

from pathlib import Path
from typing import Any

import pytest
from small_sweeps import SHAPES, write_base

from anytrain.posttrain.bases import Base, opened


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[str, Path]:
    """A Hugging Face directory of each shape."""
    folder = tmp_path_factory.mktemp("models")
    return {name: write_base(folder / name, SHAPES[name], corpus) for name in SHAPES}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> dict[str, Base]:
    out = tmp_path_factory.mktemp("sweep")
    return {name: opened(str(path), name, out, None) for name, path in models.items()}


@pytest.fixture(scope="session")
def tokenizer(bases: dict[str, Base]) -> Any:
    return bases["llama"].tokenizer()
