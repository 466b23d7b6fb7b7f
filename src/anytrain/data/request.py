"""What is asked of `prepare`, resolved, and whether it is what was asked before."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytrain.data import manifest as manifests
from anytrain.data.chunks import Reading
from anytrain.data.manifest import Manifest
from anytrain.data.token_sources import STORED
from anytrain.data.tokenizer import Spec, parse
from anytrain.errors import UserError

TEXT_FIELD, IDS_FIELD = "text", "tokens"
VALIDATION = 0.02  # share of documents
SHARD_TOKENS = 2**28  # tokens; half a gigabyte at two bytes each


@dataclass(frozen=True)
class Request:
    """Everything that decides the bytes of a segment, given the sources' contents."""

    sources: tuple[str, ...]
    spec: Spec
    text_field: str
    validation: float
    shard_tokens: int
    eot: str | None  # None: a usual one
    dtype: str | None  # None: by the vocabulary
    ids: str | None = None  # the sources are token files, and of which type: see `token_sources`

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("no source: name at least one file, folder, or the word stdlib")
        if not 0 <= self.validation < 1:
            raise UserError(f"--validation {self.validation}: a share from 0 to below 1 is valid")
        if self.shard_tokens < 1:
            raise UserError(f"--shard-tokens {self.shard_tokens}: 1 or more is valid")
        if self.ids is not None and self.ids not in STORED:
            raise UserError(f"--ids {self.ids}: one of {', '.join(STORED)} is valid")
        if self.ids is not None and not (self.spec.file or self.spec.ids):
            raise UserError(
                f"--tokenizer {self.spec.text}: with --ids it is the file of the tokenizer that "
                "made the ids, or ids:N for a vocabulary of N without one"
            )
        if self.ids is None and self.spec.ids:
            raise UserError(
                f"--tokenizer {self.spec.text} reads no text; a tokenizer is needed, or --ids"
            )

    def reading(self, eot: int | None = None) -> Reading:
        """How the sources are read, once it is known which id ends a document."""
        return Reading(self.text_field, self.ids, eot)

    @classmethod
    def first(cls, sources: tuple[str, ...], given: Mapping[str, Any]) -> "Request":
        """A new corpus: what is not given takes its default."""
        if given["tokenizer"] is None:
            raise UserError(
                "no --tokenizer: name a tokenizers JSON file, a directory that holds "
                "tokenizer.json, or bpe:N to train one, for example bpe:4096"
            )
        return cls(
            sources=sources,
            spec=parse(given["tokenizer"]),
            text_field=_or(given["text_field"], IDS_FIELD if given["ids"] else TEXT_FIELD),
            validation=_or(given["validation"], VALIDATION),
            shard_tokens=_or(given["shard_tokens"], SHARD_TOKENS),
            eot=given["eot"],
            dtype=given["dtype"],
            ids=given["ids"],
        )

    @classmethod
    def appending(
        cls, folder: Path, sources: tuple[str, ...], given: Mapping[str, Any]
    ) -> "Request":
        """More for an old corpus: its settings stay, and a different one is refused."""
        if not (folder / manifests.NAME).is_file():
            raise UserError(
                f"{folder} is no finished corpus: run prepare without --append until it is one"
            )
        corpus = Manifest.read(folder)
        settled = {
            "--validation": (given["validation"], corpus.validation),
            "--shard-tokens": (given["shard_tokens"], corpus.shard_tokens),
            "--eot": (given["eot"], corpus.eot_token),
            "--dtype": (given["dtype"], corpus.dtype),
        }
        for flag, (asked, kept) in settled.items():
            if asked is not None and asked != kept:
                raise UserError(f"{flag} {asked}: {folder} has {kept}, and appending keeps it")
        spec = parse(given["tokenizer"]) if given["tokenizer"] else None
        if spec and spec.identity not in (corpus.tokenizer, f"sha256:{corpus.tokenizer_sha256}"):
            raise UserError(
                f"--tokenizer {spec.text} is not the one {folder} was prepared with; appending "
                "keeps the corpus's own, so leave the option out"
            )
        return cls(
            sources=sources,
            spec=(
                parse(corpus.tokenizer)
                if corpus.without_tokenizer
                else Spec(corpus.tokenizer, folder / "tokenizer.json", 0)
            ),
            text_field=_or(given["text_field"], IDS_FIELD if given["ids"] else TEXT_FIELD),
            validation=corpus.validation,
            shard_tokens=corpus.shard_tokens,
            eot=corpus.eot_token,
            dtype=corpus.dtype,
            ids=given["ids"],
        )

    def arguments(self) -> dict[str, Any]:
        """By flag, what an interrupted run and the one that continues it have to agree on."""
        return {
            "SRC": list(self.sources),
            "--tokenizer": self.spec.identity,
            "--text-field": self.text_field,
            "--validation": self.validation,
            "--shard-tokens": self.shard_tokens,
            "--eot": self.eot,
            "--dtype": self.dtype,
            **({"--ids": self.ids} if self.ids else {}),
        }

    def same_as(self, begun: Mapping[str, Any], folder: Path) -> None:
        """Raise a UserError naming the first argument that is not what `folder` began with."""
        arguments = self.arguments()
        for flag in (*arguments, *(begun.keys() - arguments.keys())):
            value = arguments.get(flag)
            if begun.get(flag) != value:
                raise UserError(
                    f"{folder} was begun with {flag} {_shown(begun.get(flag))}, now it is "
                    f"{_shown(value)}; repeat the first, or prepare into another directory"
                )


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
