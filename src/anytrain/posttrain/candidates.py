"""Weights as tasks need them: who they are, and a directory that transformers loads.

Nothing in a directory that somebody gives is run. A run's weights, and a directory of our own model
code, are written anew with the code of this package; Llama's need none.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anytrain.errors import UserError
from anytrain.posttrain.scoring import open_tokenizer
from anytrain.references import Weights, open_weights
from anytrain.release import release

# what a tokenizer is made of, a chat template included
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
              "chat_template.jinja")  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One of the weights that are compared."""

    weights: Weights
    identity: str  # the same for the same tensors and the same tokenizer, wherever they lie

    @property
    def source(self) -> str:
        return self.weights.source

    @property
    def given(self) -> Path | None:
        """The directory, where one is given and not a run."""
        return Path(self.source) if self.weights.origin is None else None


@contextmanager
def opened(name: str) -> Iterator[Candidate]:
    """The weights of a name, which nothing deletes while the context is open."""
    with open_weights(name) as weights:
        if weights.tokenizer is None:
            raise UserError(f"{weights.source} has no tokenizer; tasks are text, so it needs one")
        yield Candidate(weights, _identity(weights))


def _identity(weights: Weights) -> str:
    """A run's id, step and name of weights; of a directory the checksum of all that decides."""
    if (origin := weights.origin) is not None:
        return f"{origin.run.identity['id']}@{origin.checkpoint.step}:{origin.chosen}"
    folder, digest = Path(weights.source), hashlib.sha256()
    parts = [folder / name for name in ("config.json", *_TOKENIZER)]
    for path in [*parts, *sorted(folder.glob("*.safetensors"))]:
        if path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def check_chat(candidate: Candidate) -> None:
    """UserError where the tokenizer has no chat template; a run's never has one."""
    folder = candidate.given
    if folder is None or not open_tokenizer(folder, candidate.source).chat_template:
        raise UserError(
            f"{candidate.source}: its tokenizer has no chat template, so --chat is not valid"
        )


def directory(candidate: Candidate, cache: Path) -> tuple[Path, bool]:
    """A directory with the weights, and whether code in it is to be run: ours alone is.

    Written to `cache` where that is needed and not done yet; it is whole or not there.
    """
    folder = candidate.given
    if folder is not None and candidate.weights.shape.is_llama:
        return folder, False
    out = cache / hashlib.sha256(candidate.identity.encode()).hexdigest()[:16]
    if not out.exists():
        draft = out.with_name(f"{out.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
        release(candidate.weights, draft)
        if folder is not None:  # its own tokenizer, with its chat template
            for name in _TOKENIZER:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, draft / name)
        draft.rename(out)
    return out, not candidate.weights.shape.is_llama
