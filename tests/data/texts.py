"""Made-up documents, and what a corpus holds: shared by the tests of this room."""

from pathlib import Path

import numpy as np

WORDS = ["the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be"]


def prose(seed: int, words: int) -> str:
    """Deterministic text that compresses a little."""
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(WORDS, words)) + f" № {seed}.\n"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a corpus by name, the journal apart."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "journal.sqlite"
    }
