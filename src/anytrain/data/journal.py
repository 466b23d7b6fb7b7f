"""The journal of a corpus being written: what has been read, written and seen, in SQLite.

One transaction per chunk of documents holds the hashes of its documents, the place reached in
the sources and the lengths of the files. Files are written and synced before the transaction
commits, so after a kill at any moment the journal describes a state that the files contain:
they are cut back to it and the work goes on, to the same bytes as without the kill. The hashes
stay after finishing, so that an appended document that is an old one is recognised.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from anytrain.errors import UserError

NAME = "journal.sqlite"
SYNCHRONOUS = "FULL"  # a commit is on the disk when it returns
COUNTS = (
    "train_documents",
    "validation_documents",
    "duplicates",  # documents left out: equal to an earlier one
    "empty",  # documents left out: no characters
    "held_out",  # appended documents left out: their hash is in the validation share
    "train_tokens",
    "validation_tokens",
    "text_bytes",  # UTF-8 bytes of the documents kept
)
_TABLES = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS segments (
    number INTEGER PRIMARY KEY, arguments TEXT NOT NULL, progress TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS skipped (segment INTEGER, reason TEXT, origin TEXT);
CREATE TABLE IF NOT EXISTS seen (hash BLOB PRIMARY KEY) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Cursor:
    """A place in the sources: files read to their end, and items read of the next one."""

    files: int = 0
    items: int = 0
    listing: str = ""  # hash over the names and sizes of the files read to their end


@dataclass(frozen=True)
class Progress:
    """How far a segment is."""

    cursor: Cursor = Cursor()
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    read: bool = False  # the sources have been read to their end
    complete: bool = False  # the manifest lists the segment

    def advanced(self, cursor: Cursor, gained: dict[str, int]) -> "Progress":
        counts = {name: self.counts[name] + gained.get(name, 0) for name in COUNTS}
        return replace(self, cursor=cursor, counts=counts)

    @property
    def documents(self) -> int:
        """Documents kept."""
        return self.counts["train_documents"] + self.counts["validation_documents"]


class Journal:
    """The journal file, held exclusively: a second writer is refused."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # transactions are spelled out below: isolation_level=None leaves them to us
        self._db = sqlite3.connect(folder / NAME, timeout=0.5, isolation_level=None)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
            self._db.execute("BEGIN EXCLUSIVE")
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._db.close()
            if "locked" in str(error):
                raise UserError(f"{folder} is being written by another prepare") from error
            raise
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise UserError(f"{folder / NAME} is damaged ({error}); prepare it again") from error

    def close(self) -> None:
        self._db.close()

    def begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def add(self, digest: bytes) -> bool:
        """Remember a document; False if it has been seen."""
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1

    def skip(self, segment: int, skipped: Iterable[tuple[str, str]]) -> None:
        """Remember (reason, origin) of what was no text."""
        rows = [(segment, reason, origin) for reason, origin in skipped]
        self._db.executemany("INSERT INTO skipped VALUES (?, ?, ?)", rows)

    def skipped(self, segment: int) -> dict[str, tuple[str, ...]]:
        """reason -> origins, in the order they were met."""
        query = "SELECT reason, origin FROM skipped WHERE segment = ? ORDER BY rowid"
        found: dict[str, list[str]] = {}
        for reason, origin in self._db.execute(query, (segment,)):
            found.setdefault(reason, []).append(origin)
        return {reason: tuple(origins) for reason, origins in found.items()}

    def setting(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def set(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def segments(self) -> list[tuple[dict[str, Any], Progress]]:
        """(arguments, progress) of every segment begun."""
        rows = self._db.execute("SELECT arguments, progress FROM segments ORDER BY number")
        return [(json.loads(arguments), _progress(text)) for arguments, text in rows]

    def start(self, segment: int, arguments: dict[str, Any]) -> Progress:
        """Open a segment with the arguments that a later run has to repeat."""
        progress = Progress()
        row = (segment, json.dumps(arguments), json.dumps(asdict(progress)))
        self._db.execute("INSERT INTO segments VALUES (?, ?, ?)", row)
        return progress

    def save(self, segment: int, progress: Progress) -> None:
        text = json.dumps(asdict(progress))
        self._db.execute("UPDATE segments SET progress = ? WHERE number = ?", (text, segment))

    def forget(self, segment: int) -> None:
        """Drop a segment that added nothing."""
        self._db.execute("DELETE FROM segments WHERE number = ?", (segment,))
        self._db.execute("DELETE FROM skipped WHERE segment = ?", (segment,))


def _progress(text: str) -> Progress:
    record = json.loads(text)
    return Progress(**{**record, "cursor": Cursor(**record["cursor"])})
