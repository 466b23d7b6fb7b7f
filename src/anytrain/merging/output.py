"""Where a merge goes: a file or a directory in the last input's layout, whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anytrain.averaging import merge
from anytrain.errors import UserError
from anytrain.files import appearing, inside, sync
from anytrain.foreign import Foreign, reseal
from anytrain.headers import SINGLE, plan_file, read_header
from anytrain.layout import Entry
from anytrain.merging.beside import RECORD, describe
from anytrain.merging.inputs import Input

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
SHARD = 5 * 10**9  # bytes above which the weights of a run are split


def write(
    inputs: Sequence[Input],
    weights: Sequence[float],
    out: Path,
    dtype: str | None,
    record: Mapping[str, Any],
    progress: Callable[[int, int], Any],
) -> int:
    """Stream the merge into `out`, which appears complete or not at all; returns bytes read.

    The layout is the last input's: a safetensors file where `out` ends so, else a directory, with
    config and tokenizer. `progress` gets the bytes read since the last call, and all of them.
    """
    _check_apart(inputs, out)
    merge.check_alike([found.source for found in inputs])
    code = None if dtype is None else DTYPES[dtype]
    last = inputs[-1]
    if out.suffix == ".safetensors":
        with _appearing_file(out) as file:
            return _stream(inputs, weights, {file: list(last.source.terms)}, code, progress)
    if last.foreign is not None and dtype is not None:
        raise UserError(
            f"{last.foreign.path}: its files are copied and patched, so --dtype is not valid; "
            "a FILE.safetensors as --out takes any type"
        )
    if last.archive is not None:
        raise UserError(f"--out {out}: of {last.archive} a FILE.safetensors is made")
    with appearing(out) as draft:
        if last.foreign is not None:
            files: dict[Path, list[str]] = {}
            count = _patch(inputs, weights, last.foreign, draft, progress)
        else:
            files = _files(last, draft, code)
            count = _stream(inputs, weights, files, code, progress)
        describe(inputs, weights, draft, files, dtype, record)
        return count


def _check_apart(inputs: Sequence[Input], out: Path) -> None:
    if any(own.resolve() == out.resolve() for found in inputs for own in found.places):
        raise UserError(f"{out} is an input; another --out is valid")


@contextmanager
def _appearing_file(out: Path) -> Iterator[Path]:
    """A draft file that becomes `out` if all goes well and vanishes otherwise."""
    if out.exists():
        raise UserError(f"{out} is there already; a new name is valid")
    draft: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        os.close(descriptor)
        draft = Path(name)
        draft.chmod(0o644)  # mkstemp's is for the owner alone
        yield draft
        sync(draft)
        draft.replace(out)
        sync(out.parent)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def check_room(folder: Path, needed: int) -> None:
    """Raise a UserError now rather than when the disk is full, hours later."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder} has room for {free:,} bytes, the output has {needed:,}")


def _files(last: Input, draft: Path, code: str | None) -> dict[Path, list[str]]:
    """The output's files and the tensors in each, as the last input has them."""
    if last.run is None:
        single = last.directory is None
        return {
            draft / (SINGLE if single else file.name): list(read_header(file).entries)
            for file in last.files
        }
    shards: list[list[str]] = [[]]
    size = 0
    for key in last.source.terms:
        own = _typed(key, last.source.entry(key), code).bytes
        if shards[-1] and size + own > SHARD:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += own
    if len(shards) == 1:
        return {draft / SINGLE: shards[0]}
    count = len(shards)
    return {
        draft / f"model-{i:05d}-of-{count:05d}.safetensors": keys
        for i, keys in enumerate(shards, 1)
    }


def _typed(key: str, entry: Entry, code: str | None) -> Entry:
    """The entry with the output's type; what is copied keeps its own."""
    if code is None or merge.copied(key, entry):
        return entry
    return Entry(code, entry.shape, ())


def _stream(
    inputs: Sequence[Input],
    weights: Sequence[float],
    files: Mapping[Path, Sequence[str]],
    code: str | None,
    progress: Callable[[int, int], Any],
) -> int:
    """Compute the files of tensors; their metadata is that of the last input's files."""
    last = inputs[-1]
    named = {file.name: file for file in last.files}
    heads: dict[Path, bytes] = {}
    targets: dict[str, Entry] = {}
    for file, keys in files.items():
        model = named.get(file.name, last.files[0] if last.files else None)
        metadata = read_header(model).metadata if model else {"format": "pt"}
        typed = {key: _typed(key, last.source.entry(key), code) for key in keys}
        heads[file], entries = plan_file(file, typed, metadata)
        targets |= entries
    check_room(next(iter(files)).parent, sum(entry.bytes for entry in targets.values()))
    for file, keys in files.items():
        with file.open("wb") as opened:
            opened.write(heads[file])
            opened.truncate(len(heads[file]) + sum(targets[key].bytes for key in keys))
    return _run(inputs, weights, targets, progress)


def _run(
    inputs: Sequence[Input],
    weights: Sequence[float],
    targets: Mapping[str, Entry],
    progress: Callable[[int, int], Any],
) -> int:
    work = merge.Work([found.source for found in inputs], weights, targets)
    total = work.bytes
    merge.run(work, lambda done: progress(done, total))
    return total


def _patch(
    inputs: Sequence[Input],
    weights: Sequence[float],
    last: Foreign,
    draft: Path,
    progress: Callable[[int, int], Any],
) -> int:
    """Copy a checkpoint of torch.distributed, and write the merge over the copy's tensors."""
    check_room(draft, sum(p.stat().st_size for p in last.path.rglob("*") if p.is_file()))
    for path in last.path.rglob("*"):
        inside(last.path, str(path.relative_to(last.path)))  # a copy takes no private file along
    left = shutil.ignore_patterns(RECORD)
    shutil.copytree(
        last.path, draft, dirs_exist_ok=True, ignore=left, copy_function=shutil.copyfile
    )
    targets = {
        key: Entry(entry.dtype, entry.shape, tuple(
            box._replace(file=draft / box.file.name) for box in entry.boxes))
        for key, entry in last.entries.items() if not merge.copied(key, entry)
    }  # fmt: skip
    count = _run(inputs, weights, targets, progress)
    reseal(record._replace(file=draft / record.file.name) for record in last.records)
    return count
