"""The run directory: the interface between training and everything that reads a run.

    RUN/recipe.toml                 every setting, resolved
    RUN/run.json                    identity, versions, lineage, pinned data, decisions made once
    RUN/metrics.jsonl               one record a line (units: docs/metrics.md)
    RUN/events.jsonl                starts, stops, changed settings, recoveries
    RUN/checkpoints/step-000002000/ manifest.json, state.json, *.safetensors
    RUN/snapshots/step-000001585/   manifest.json, track-SIGMA.safetensors; where the recipe asks
    RUN/losses/                     of every held-out sequence; where the recipe asks
    RUN/lock                        held by the one process that trains

No torch: a status or a table is printed without waiting for it.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

from anytrain import forms
from anytrain.errors import UserError
from anytrain.files import (
    Record,
    append_line,
    inside,
    read_json,
    read_line,
    read_lines,
    read_toml,
    sha256,
)
from anytrain.grammar import Quantity, short_count
from anytrain.schema import COUNT, check

FORMAT = 1


# --- checkpoints and snapshots ---------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """One complete directory of a step: it has a manifest, written last."""

    form: ClassVar[Record]  # of its manifest

    path: Path
    step: int

    @cached_property
    def manifest(self) -> Record:
        """Counters, files with sizes and checksums, and what is inside."""
        path = self.path / "manifest.json"
        manifest = read_json(path)
        if manifest.get("format") != FORMAT:
            raise UserError(
                f"{path}: format {manifest.get('format')!r}; this version reads {FORMAT}"
            )
        check(path, manifest, self.form)
        return manifest

    @property
    def tokens(self) -> int:
        return int(self.manifest["tokens"])

    @property
    def bytes(self) -> int:
        return sum(int(entry["bytes"]) for entry in self.manifest["files"].values())

    def verify(self, *, checksums: bool = True) -> None:
        """Raise a UserError naming the first file that is missing, truncated or altered."""
        for name, entry in self.manifest["files"].items():
            path = inside(self.path, name)
            if not path.is_file():
                raise UserError(f"{path} is missing")
            if path.stat().st_size != entry["bytes"]:
                raise UserError(
                    f"{path} has {path.stat().st_size} bytes, its manifest says {entry['bytes']}"
                )
            if checksums and sha256(path) != entry["sha256"]:
                raise UserError(f"{path} was altered: its checksum is not the manifest's")


S = TypeVar("S", bound=Stored)


def stored(root: Path, kind: type[S]) -> list[S]:
    """The complete ones in a directory, oldest first."""
    found = []
    for path in root.glob("step-*"):
        match = re.fullmatch(r"step-(\d+)", path.name)
        if match and (path / "manifest.json").is_file():
            found.append(kind(path, int(match[1])))
    return sorted(found, key=lambda one: one.step)


class Checkpoint(Stored):
    """The complete state of a run after a step."""

    form = forms.CHECKPOINT

    @property
    def weights(self) -> list[str]:
        """`raw` and the averages it holds."""
        return list(self.manifest["weights"])

    @cached_property
    def state(self) -> Record:
        """Counters and everything else that is not a tensor."""
        return read_json(self.path / "state.json", forms.STATE)

    @contextlib.contextmanager
    def pinned(self) -> Iterator["Checkpoint"]:
        """While inside, a live run does not delete this checkpoint."""
        try:
            with (self.path / "manifest.json").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                # deleted between opening and locking: the path leads elsewhere or nowhere
                if os.fstat(file.fileno()).st_ino != (self.path / "manifest.json").stat().st_ino:
                    raise FileNotFoundError
                yield self
        except FileNotFoundError as error:
            raise UserError(f"{self.path} is gone: the run no longer keeps it") from error

    def delete(self) -> bool:
        """Remove it unless a reader has it pinned; says whether it is gone."""
        # opened for writing: over NFS an exclusive lock needs it
        with (self.path / "manifest.json").open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # pinned, or a filesystem without locks: better kept
                return False
            aside = self.path.with_name(f".deleting-{self.path.name}")
            self.path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
        return True


# --- the directory ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RunDir:
    """Paths and records of one run. Reading needs nothing but the directory."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "RunDir":
        """An existing run; a UserError names the path where there is none."""
        path = Path(path)
        if not (path / "run.json").is_file():
            runs = sorted(p.parent for p in path.parent.glob("*/run.json"))
            there = f"; runs beside it: {', '.join(map(str, runs[:5]))}" if runs else ""
            raise UserError(f"{path} is not a run: it has no run.json{there}")
        return cls(path)

    @property
    def exists(self) -> bool:
        return (self.path / "run.json").is_file()

    @property
    def recipe(self) -> Record:
        """Every setting of the run, as TOML gave it."""
        return read_toml(self.path / "recipe.toml", forms.RECIPE)

    @property
    def identity(self) -> Record:
        """`run.json`: id, versions, lineage, pinned data, decisions made once."""
        return read_json(self.path / "run.json", forms.IDENTITY)

    def metrics(self) -> Iterator[Record]:
        """Every metric record so far, oldest first."""
        return read_lines(self.path / "metrics.jsonl", forms.METRIC)

    def events(self) -> Iterator[Record]:
        """Starts, stops, changes and recoveries, oldest first."""
        return read_lines(self.path / "events.jsonl", forms.EVENT)

    def changes(self, kind: str = "changed") -> list[Record]:
        """Recorded changes of settings, or others, that the present state went through, in order.

        A run that went back, to an older checkpoint, lost the changes that it had made later.
        """
        found: list[Record] = []
        for event in self.events():
            if event["event"] == "fallback":  # names the checkpoint that was passed over
                continue
            found = [earlier for earlier in found if earlier["step"] <= event["step"]]
            if event["event"] == kind and ("settings" in event or kind != "changed"):
                found.append(event)
        return found

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one metric record."""
        append_line(self.path / "metrics.jsonl", record)

    def event(self, record: Mapping[str, Any]) -> None:
        """Append one event."""
        append_line(self.path / "events.jsonl", record)

    @property
    def checkpoint_root(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint_path(self, step: int) -> Path:
        return self.checkpoint_root / f"step-{step:09d}"

    def checkpoints(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        return stored(self.checkpoint_root, Checkpoint)

    @property
    def snapshot_root(self) -> Path:
        return self.path / "snapshots"

    def snapshot_path(self, step: int) -> Path:
        return self.snapshot_root / f"step-{step:09d}"

    def find(self, when: Quantity | str) -> Checkpoint:
        """The checkpoint at a moment; where there is none, an error lists the nearest ones."""
        checkpoints = self.checkpoints()
        if not checkpoints:
            raise UserError(f"{self.path} has no checkpoint yet")
        if isinstance(when, str):
            return self._latest(checkpoints)
        if when.unit == "seconds":
            raise UserError(f"{self.path}@{when}: a checkpoint is named by its step or its tokens")
        width = 1 if when.unit == "steps" else self.tokens_per_step
        for found in checkpoints:
            # a moment need not fall on a step: the first step that reaches it is meant
            if 0 <= (found.step if when.unit == "steps" else found.tokens) - when.amount < width:
                return found
        raise UserError(f"{self.path}@{when}: no checkpoint there; nearest: {self._near(when)}")

    def _latest(self, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
        """The newest with every file in full length; what is wrong with it if none has."""
        wrong: UserError | None = None
        for checkpoint in reversed(checkpoints):
            try:
                checkpoint.verify(checksums=False)
                return checkpoint
            except UserError as error:
                wrong = wrong or error
        raise wrong or UserError(f"{self.path} has no checkpoint yet")

    def _near(self, when: Quantity) -> str:
        def distance(found: Checkpoint) -> float:
            return abs((found.step if when.unit == "steps" else found.tokens) - when.amount)

        near = sorted(sorted(self.checkpoints(), key=distance)[:4], key=lambda c: c.step)
        return ", ".join(f"{c.step} ({short_count(c.tokens)}-tokens)" for c in near)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one step at the present batch."""
        train = self.recipe["train"]
        return int(train["batch"]) * int(train["context"])

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for training. The lock dies with its process, so none is ever stale."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"{self.path} is being trained by another process ({file.read().strip()})"
                ) from None
            _label(file)
            yield

    def drop_after(self, step: int) -> None:
        """Cut metrics back to `step`: what came later was lost and will be computed again."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = 0  # bytes
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                if read_line(line, f"{path}, line {number}", {"step": COUNT})["step"] > step:
                    break
                kept += len(line)
        os.truncate(path, kept)


def _label(file: IO[str]) -> None:
    file.truncate(0)
    file.write(f"pid {os.getpid()} on {os.uname().nodename}")
    file.flush()
