"""Files that are whole or not there, and records one a line."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from anytrain.errors import UserError

Record = dict[str, Any]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write aside, sync, rename: a reader sees the old file or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A draft directory that becomes `out` if all goes well and vanishes otherwise."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; a new name or an empty directory is valid")
    draft: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        draft.chmod(0o755)  # mkdtemp's is for the owner alone
        yield draft
        for path in [*draft.iterdir(), draft]:
            sync(path)
        draft.rename(out)  # replaces an empty directory
        sync(out.parent)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file's bytes or a directory's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Record:
    """A JSON object; what is missing or damaged is a UserError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return value


def read_lines(path: Path) -> Iterator[Record]:
    """Records of a JSONL file; a last line torn by a crash is not a record yet."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number} is damaged: {error}") from error


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record to a JSONL file in one write; a torn line before it is no record and goes."""
    with path.open("a+b") as file:
        whole = _whole_lines(file)
        if whole < file.seek(0, os.SEEK_END):
            file.truncate(whole)
        file.write(json.dumps(record).encode() + b"\n")


def _whole_lines(file: IO[bytes]) -> int:
    """Bytes up to the end of the last line that is whole; read from the end, a block at a time."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def sha256(path: Path) -> str:
    """The checksum of a file, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
