"""Files that are whole or not there, and records one a line."""

import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from anytrain.errors import UserError
from anytrain.schema import TABLE, check

Record = dict[str, Any]

_DEEPEST = 64  # tables and lists in one another; ours have six


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


def parsed(text: str | bytes) -> Any:
    """JSON; ValueError where it is none, or nests or spells what no later step could handle."""
    text = text if isinstance(text, str) else text.decode("utf-8")
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # may spell half of a character, which cannot be written
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if text.count("[") + text.count("{") > _DEEPEST and _deep(value):
        raise ValueError("it is nested too deeply")
    return value


def _deep(value: Any) -> bool:
    """Whether tables and lists lie in one another further than `_DEEPEST`."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [w for found in inner for w in found if isinstance(w, dict | list)]
        depth += 1
    return bool(level)


def read_json(path: Path, form: Any = TABLE) -> Record:
    """A JSON object; what is missing, damaged or of another form is a UserError naming the file."""
    return _read(path, parsed, form)


def read_toml(path: Path, form: Any = TABLE) -> Record:
    """A TOML file; what is missing, damaged or of another form is a UserError naming the file."""
    return _read(path, toml, form)


def _read(path: Path, parse: Callable[[bytes], Any], form: Any) -> Record:
    try:
        value = parse(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    check(path, value, form)
    return value


def toml(text: bytes) -> Record:
    """TOML; ValueError where it is none, or nests further than any step could handle."""
    try:
        value = tomllib.loads(text.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if _deep(value):
        raise ValueError("it is nested too deeply")
    return value


def read_line(line: str | bytes, where: str, form: Any = TABLE) -> Record:
    """One record of a JSONL file; `where` names file and line in the UserError."""
    try:
        value: Record = parsed(line)
    except ValueError as error:
        raise UserError(f"{where} is damaged: {error}") from error
    check(where, value, form)
    return value


def read_lines(path: Path, form: Any = TABLE) -> Iterator[Record]:
    """Records of a JSONL file; a last line torn by a crash is not a record yet."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield read_line(line, f"{path}, line {number}", form)


def inside(folder: Path, name: str, *others: Path) -> Path:
    """A file that a manifest in `folder` names; UserError where it lies elsewhere.

    `others` are folders that a symbolic link may lead to.
    """
    path = folder / name
    try:
        there = path.resolve()
        path.exists()  # raises for a name that no file can have
        valid = any(there.is_relative_to(root.resolve()) for root in (folder, *others))
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a name with a NUL
        raise UserError(f"{folder} names {name!r}: {error}") from error
    if not valid:
        raise UserError(f"{folder} names {name!r}, which lies outside it")
    return path


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
