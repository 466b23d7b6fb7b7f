"""A corpus of a few thousand tokens, and one thread: bits are promised for a thread count."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; subprocesses inherit it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from anytrain.rundir import RunDir

WORDS = "the of and to in is that for it as was with be by on not he his but at are"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus: 280 tokens of vocabulary, 30 000 for training, 4000 held out."""
    from anytrain.data.tokenize import prepare

    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    texts = (" ".join(rng.choice(WORDS.split(), 60)) + f" {number}.\n" for number in range(300))
    source = folder / "text.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prepare([str(source)], folder / "tokens", tokenizer="bpe:280", validation=0.1, bar=False)
    return folder / "tokens"


@pytest.fixture
def recipe_file(tmp_path: Path, corpus: Path) -> Path:
    """The tiny recipe as a TOML file."""
    from tiny import write_recipe

    return write_recipe(tmp_path / "tiny.toml", corpus)


@pytest.fixture
def trunk(tmp_path: Path) -> "RunDir":
    """A made-up run of eight units, as files."""
    from fake_runs import TRUNK, write_run

    return write_run(tmp_path / "trunk", schedule=TRUNK, checkpoints=(225, 450, 1800, 2000))


@pytest.fixture
def cooldowns(tmp_path: Path) -> "list[RunDir]":
    """Its cooldowns at 1, 2, 4 and 8 units."""
    from fake_runs import write_cooldown

    losses = {250: 4.22, 500: 3.68, 1000: 3.07, 2000: 2.55}
    return [write_cooldown(tmp_path / f"cd{h}", h, loss) for h, loss in losses.items()]


@pytest.fixture(scope="session")
def own_module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies remote code to a cache; the tests' one is not the user's.

    One for all tests of a process, as the package it makes of the cache is imported once.
    """
    hub = pytest.importorskip("transformers.dynamic_module_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield
