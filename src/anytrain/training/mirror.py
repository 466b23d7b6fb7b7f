"""A copy of a run elsewhere: what is kept of it, at any location that fsspec knows.

    LOCATION/recipe.toml, run.json, events.jsonl, metrics.jsonl, tokenizer.json
    LOCATION/checkpoints/step-000002000/ …, manifest.json last

The location is a run directory: copied back, it goes on. Credentials are the environment's.
"""

import json
import re
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from anytrain.errors import UserError, missing_extra
from anytrain.rundir import Checkpoint, RunDir
from anytrain.training.config import Recipe

PAUSES = (1.0, 4.0, 16.0)  # seconds before each further try
_RECORDS = ("run.json", "recipe.toml", "tokenizer.json", "events.jsonl", "metrics.jsonl")
T = TypeVar("T")


class Mirror:
    """Makes a location hold what a run directory does, as often as it is asked to."""

    def __init__(self, location: str) -> None:
        from fsspec.core import url_to_fs

        self.fs, root = url_to_fs(location)
        self.root = root.rstrip("/")

    def update(self, rundir: RunDir) -> str | None:
        """Copy what is missing there and remove what the run no longer keeps; why not, if not.

        Whatever goes wrong is tried again a few times and never raised: a run does not end for it.
        What then is missing is copied the next time.
        """
        try:
            _patiently(self._check_owner, rundir)
            for name in _RECORDS:
                if (rundir.path / name).exists():
                    _patiently(self._copy_record, rundir.path / name)
            kept = rundir.checkpoints()
            for checkpoint in kept:
                self._copy(checkpoint)
            for folder in set(_patiently(self._folders)) - {c.path.name for c in kept}:
                _patiently(self._remove, f"{self._checkpoints}/{folder}")
        except Exception as error:  # each filesystem has errors of its own
            return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return None

    @property
    def _checkpoints(self) -> str:
        return f"{self.root}/checkpoints"

    def _check_owner(self, rundir: RunDir) -> None:
        self.fs.invalidate_cache()
        there = f"{self.root}/run.json"
        if self.fs.exists(there):
            owner = json.loads(self.fs.cat_file(there)).get("id")
            if owner != rundir.identity["id"]:
                raise UserError(f"{self.root} is the mirror of another run, {owner}")

    def _copy_record(self, path: Path) -> None:
        """All at once: the file may grow meanwhile."""
        self.fs.makedirs(self.root, exist_ok=True)
        self.fs.pipe_file(f"{self.root}/{path.name}", path.read_bytes())

    def _copy(self, checkpoint: Checkpoint) -> None:
        """File by file, the manifest last: without it there is no checkpoint."""
        folder = f"{self._checkpoints}/{checkpoint.path.name}"
        manifest = checkpoint.path / "manifest.json"
        if _patiently(self._has, f"{folder}/manifest.json", manifest.read_bytes()):
            return
        _patiently(self._remove, folder)  # a part, or of steps that were taken again
        for name in [*checkpoint.manifest["files"], manifest.name]:
            _patiently(self._put, checkpoint.path / name, folder)

    def _put(self, path: Path, folder: str) -> None:
        self.fs.makedirs(folder, exist_ok=True)
        self.fs.put_file(str(path), f"{folder}/{path.name}")

    def _has(self, path: str, content: bytes) -> bool:
        return self.fs.exists(path) and self.fs.cat_file(path) == content

    def _remove(self, folder: str) -> None:
        """The manifest first: what is half removed is no checkpoint."""
        for path in (f"{folder}/manifest.json", folder):
            if self.fs.exists(path):
                self.fs.rm(path, recursive=True)
        self.fs.invalidate_cache()

    def _folders(self) -> list[str]:
        """Checkpoints there, whole or not; what else is there is not ours."""
        self.fs.invalidate_cache()
        names = [PurePosixPath(p).name for p in self.fs.ls(self._checkpoints, detail=False)]
        return [name for name in names if re.fullmatch(r"step-\d{9}", name)]


def _patiently(work: Callable[..., T], *arguments: Any) -> T:
    """Do it; on an error once more after each of the pauses. A UserError will not pass."""
    for pause in PAUSES:
        try:
            return work(*arguments)
        except UserError:
            raise
        except Exception:
            time.sleep(pause)
    return work(*arguments)


def check_mirror(recipe: Recipe, path: Path) -> None:
    """Raise a UserError where the recipe's mirror cannot be one of the run at `path`."""
    location = recipe.checkpoint.mirror
    if location is None:
        return
    said = f"checkpoint.mirror = {location!r}"
    if find_spec("fsspec") is None:
        raise missing_extra("fsspec", "mirror", said)
    if re.search(r"://[^/@]*:[^/@]*@", location):
        raise UserError(
            "checkpoint.mirror names a password, which the run directory would keep; credentials "
            "belong into the environment"
        )
    try:
        mirror = Mirror(location)
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"{said}: {error}") from error
    local: Any = mirror.fs.protocol
    if "file" in (local if isinstance(local, tuple) else (local,)):
        there, here = Path(mirror.root).resolve(), path.resolve()
        if there == here or here in there.parents or there in here.parents:
            raise UserError(f"{said} and the run, {path}, are one inside the other")
