"""Tasks in the words of lm-evaluation-harness: found in its index or in a file, their data loaded.

A file's relative `data_files` are looked for beside the file first, then where the harness looks,
in the current directory. What a file names with `!function` is run: it is the user's own.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants as hub
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from anytrain.errors import UserError, nearest
from anytrain.posttrain import index
from anytrain.posttrain.suites import Asked

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it narrates

VERSION: str = metadata.version("lm_eval")


@dataclass(frozen=True)
class Task:
    """A task or a group of the harness, before its data are there."""

    name: str
    shots: int | None  # None: a group whose tasks have numbers of their own
    forced: bool  # whether `shots` replaces the task's own number
    spec: str | Mapping[str, Any]  # what the harness loads: a name, or the contents of a file
    content: str | None = None  # checksum of a file's definition and data
    needs: str = ""  # where the data are from, for a sentence

    @property
    def label(self) -> str:
        return self.name if self.shots is None else f"{self.name}:{self.shots}"


def find(asked: Asked) -> list[Task]:
    """The tasks of a name or file; several where the name is a tag, which is no task itself."""
    if (path := asked.path) is not None:
        return [_of_file(path, asked.shots)]
    if (entry := index.manager(asked.task).task_index.get(asked.task)) is None:
        known = nearest(asked.task, index.whole().task_index)
        raise UserError(f"the harness has no task {asked.task!r}{known}")
    if entry.kind.name == "TAG":
        return [task for name in sorted(entry.tags) for task in find(Asked(name, asked.shots))]
    config = entry.cfg or {}
    group = entry.kind.name == "GROUP"
    needs = "its tasks' data" if group else str(config.get("dataset_path", "its data"))
    own = None if group else int(config.get("num_fewshot") or 0)
    forced = _forced(asked, config.get("num_fewshot"))
    return [Task(asked.task, asked.shots if forced else own, forced, asked.task, needs=needs)]


def _forced(asked: Asked, own: int | None) -> bool:
    """Whether the number asked for replaces the task's own, which is final where it is 0."""
    if asked.shots and own == 0:
        raise UserError(f"{asked.task}:{asked.shots}: the task is defined with 0 shots, no others")
    return asked.shots is not None


def _of_file(path: Path, shots: int | None) -> Task:
    if not path.is_file():
        raise UserError(f"{path}: no such file; a task's name or its YAML file is valid")
    try:
        plain, spec = load_yaml(path, resolve_func=False), load_yaml(path, resolve_func=True)
    except Exception as error:  # whatever a file can hold, and the code that it names
        raise UserError(f"{path} is no task of the harness: {_first_line(error)}") from error
    if not isinstance(name := spec.get("task"), str):
        raise UserError(f"{path} has no key 'task' with a name; a single task's file is valid")
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
    for code in sorted(path.parent.glob("*.py")):
        digest.update(code.read_bytes())
    keywords = dict(spec.get("dataset_kwargs") or {})
    if "data_files" in keywords:
        keywords["data_files"] = _beside(keywords["data_files"], path, digest)
    spec["dataset_kwargs"] = keywords
    forced = _forced(Asked(str(path), shots), spec.get("num_fewshot"))
    number = shots if forced else int(spec.get("num_fewshot") or 0)
    needs = str(spec.get("dataset_path"))
    return Task(name, number, forced, spec, digest.hexdigest(), needs)


def _beside(files: Any, path: Path, digest: Any) -> Any:
    """`data_files` with those beside `path` as whole paths; their bytes go into the checksum."""
    if isinstance(files, Mapping):
        return {split: _beside(file, path, digest) for split, file in files.items()}
    if isinstance(files, list):
        return [_beside(file, path, digest) for file in files]
    if "://" in str(files) or any(mark in str(files) for mark in "*?["):
        return files
    for there in (path.parent / str(files), Path(str(files))):
        if there.is_file():
            with there.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
            return str(there.resolve())
    raise UserError(f"{path}: data_files names {files}, which is neither beside it nor here")


def load(task: Task, cache_dir: Path) -> list[Any]:
    """The harness's own object for a task, its data read or downloaded; a file's go to `cache_dir`.

    UserError where the data are not to be had: what is asked for is input, whatever goes wrong.
    """
    try:
        if isinstance(task.spec, str):
            return list(index.manager(task.spec).load([task.spec])["tasks"].values())
        spec = deepcopy(dict(task.spec))
        if spec.get("dataset_path") in ("json", "csv", "parquet", "text"):
            spec["dataset_kwargs"].setdefault("cache_dir", str(cache_dir))
            datasets.disable_progress_bars()  # nothing is downloaded
        return list(TaskManager(include_defaults=False).load([spec])["tasks"].values())
    except Exception as error:
        why = _first_line(error)
        if offline():
            raise UserError(
                f"task {task.name}: {task.needs} is not on this machine and the network is off "
                f"(--offline or HF_HUB_OFFLINE); evaluate once with the network: {why}"
            ) from error
        raise UserError(f"task {task.name}: {task.needs} cannot be loaded: {why}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def offline() -> bool:
    """Whether the network is off for data."""
    return bool(hub.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE)


@contextmanager
def without_network(wanted: bool) -> Iterator[None]:
    """Keep everything of Hugging Face off the network inside, also what was imported before."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    modules = ((hub, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE"))
    before = {name: os.environ.get(name) for name in names}
    flags = [getattr(module, name) for module, name in modules]
    try:
        if wanted:
            os.environ.update(dict.fromkeys(names, "1"))
            for module, name in modules:
                setattr(module, name, True)
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
        for (module, name), flag in zip(modules, flags, strict=True):
            setattr(module, name, flag)
