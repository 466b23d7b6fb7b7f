"""`prepare`: text becomes a corpus, once, whatever interrupts it.

The directory is claimed, written, and finished by its manifest; called again, `prepare` goes on
where it was or says that there is nothing to do. How a segment is written: `preparation`.
"""

import errno
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anytrain.data import journal as journals
from anytrain.data import tokenizer as tokenizers
from anytrain.data.chunks import Survey, survey
from anytrain.data.journal import Journal
from anytrain.data.manifest import Manifest, Segment
from anytrain.data.preparation import Preparation
from anytrain.data.request import Request
from anytrain.data.tokenizer import Encoder, Vocabulary, end_of_text, load
from anytrain.errors import UserError

Outcome = Literal["prepared", "appended", "nothing new", "already there"]


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did: the manifest in place, and the segment it wrote or found."""

    outcome: Outcome
    folder: Path
    manifest: Manifest
    segment: Segment


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | None = None,
    text_field: str | None = None,
    validation: float | None = None,
    eot: str | None = None,
    shard_tokens: int | None = None,
    dtype: str | None = None,
    ids: str | None = None,
    append: bool = False,
    bar: bool = False,
) -> Prepared:
    """Tokenize `sources` into the corpus `out`, or go on where an interrupted call stopped.

    With `ids` (see `token_sources.STORED`) they are token files already.

    Called again with the same arguments it goes on, or says that the work is done; with others
    it raises a UserError. `append` adds a segment to a complete corpus: same tokenizer, old
    documents dropped, the validation split as it was. Nothing is left behind when a wrong input
    is found before the first document was kept.
    """
    folder = Path(out)
    names = tuple(str(source) for source in sources)
    given = {
        "tokenizer": tokenizer, "text_field": text_field, "validation": validation,
        "eot": eot, "shard_tokens": shard_tokens, "dtype": dtype,
        "ids": ids,
    }  # fmt: skip
    if append:
        request = Request.appending(folder, names, given)
    else:
        request = Request.first(names, given)
        _check_tokenizer(request)
    with _disk_errors(folder):
        found = survey(names, request.reading(), exclude=folder)
        _claim(folder)
        journal = Journal(folder)
        try:
            return _carry_out(folder, journal, request, found, append, bar)
        finally:
            empty = not journal.segments()
            journal.close()
            if empty:
                _abandon(folder)


def _carry_out(
    folder: Path, journal: Journal, request: Request, found: Survey, append: bool, bar: bool
) -> Prepared:
    number = _number(folder, journal, append)
    segments = journal.segments()
    if number == len(segments):
        journal.start(number, request.arguments())
    else:
        arguments, progress = segments[number]
        request.same_as(arguments, folder)
        if progress.complete:
            if progress.cursor.listing != found.listing:
                raise UserError(
                    f"{folder} is complete and its sources have changed since; add new documents "
                    "with --append, or prepare into another directory"
                )
            manifest = Manifest.read(folder)
            return Prepared("already there", folder, manifest, manifest.segments[number])
    work = Preparation(folder, journal, request, number, found)
    try:
        manifest, segment = work.run(bar=bar)
    except Exception:
        if work.progress.documents == 0:
            work.discard()
        raise
    if work.progress.documents == 0:
        return Prepared("nothing new", folder, manifest, segment)
    return Prepared("appended" if append else "prepared", folder, manifest, segment)


def _number(folder: Path, journal: Journal, append: bool) -> int:
    """Which segment is to be written."""
    states = [progress for _, progress in journal.segments()]
    if not append:
        return 0
    if not states or not states[0].complete:
        raise UserError(
            f"{folder} is not complete: run prepare without --append until it is, then append"
        )
    return len(states) if states[-1].complete else len(states) - 1


def _check_tokenizer(request: Request) -> None:
    """A tokenizer that does not fit is refused before anything is made."""
    if request.spec.ids:
        Vocabulary.without_tokenizer(request.spec, request.eot, request.dtype)
    if request.spec.file is not None:
        tokenizer = load(request.spec.file)
        Encoder(tokenizer, end_of_text(tokenizer, request.eot, request.spec.file), request.dtype)


# --- the directory ---------------------------------------------------------------------------


def _claim(folder: Path) -> None:
    """Make the directory, or find one that is ours; anything else in it is refused."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --out needs a directory")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / journals.NAME).is_file() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and was not made by prepare; name another --out")


def _abandon(folder: Path) -> None:
    """Remove what was made before the first document was kept."""
    for name in (journals.NAME, tokenizers.NAME, tokenizers.CONFIG):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty: then it is not ours to remove
        folder.rmdir()


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Say what the system says about `folder`, in a sentence."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "full" in str(error):
            raise UserError(
                f"{folder}: the disk is full; make room and run the same command again, it "
                "continues from what is already written"
            ) from error
        raise UserError(f"{folder} cannot be written: {error}") from error
