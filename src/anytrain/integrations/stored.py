"""Averages beside a foreign trainer's checkpoint: a folder in its directory, no pickle in it.

    checkpoint-1000/averages/
      manifest.json            t, where each began, rules as text, the schedule and its last rate
      ema25.safetensors        whole fp32 tensors by the names they have in the model

The folder is written aside and renamed, and goes where the checkpoint goes: into rotation, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from anytrain import rules as rule_book
from anytrain.averaging import Averages, canonical_tensors
from anytrain.errors import UserError
from anytrain.files import read_json
from anytrain.integrations.pieces import part, whole
from anytrain.schema import COUNT, NUMBER, TEXT, Each
from anytrain.training.checkpoint import seal, write_file, written
from anytrain.versions import versions

FOLDER = "averages"
Missing = Literal["error", "begin"]

_FORM = {
    "t": NUMBER, "since": Each(NUMBER), "skipped": COUNT, "kept": Each(NUMBER),
    "rules": Each(TEXT), "schedule?": TEXT, "step": COUNT, "rate?": NUMBER,
    "files": Each({"bytes": COUNT, "sha256": TEXT}),
}  # fmt: skip


@dataclass(frozen=True)
class Rate:
    """What a schedule had come to when a checkpoint was written."""

    schedule: str  # as text
    step: int  # updates taken
    rate: float | None  # of the last of them; None where there was none


def save(directory: Path, averages: Averages, rate: Rate | None, writer: bool) -> None:
    """Put the averages into a checkpoint's directory, replacing those that were there.

    Where the model is sharded every process has to call it; the one that is `writer` writes.
    """
    state = averages.state_dict()  # an error while an average is in the model
    sharded = any(isinstance(t, DTensor) for t in canonical_tensors(averages.model).values())
    if not writer:
        if sharded:
            for name in averages.rules:
                whole(averages, name, keep=False)
        return
    manifest = {key: state[key] for key in ("t", "since", "skipped", "kept", "rules")}
    if rate is not None:
        manifest |= {"schedule": rate.schedule, "rate": rate.rate}
    manifest |= {"step": rate.step if rate else int(averages.t), "versions": versions()}
    with written(directory / FOLDER) as aside:
        for name in averages.rules:
            tensors = whole(averages, name, keep=True)
            write_file(aside / _file(name), tensors, {"format": "pt"})
        seal(aside, manifest)


def manifest(directory: Path) -> dict[str, Any] | None:
    """What a checkpoint's folder of averages says of itself; None where there is no folder."""
    path = directory / FOLDER / "manifest.json"
    if not path.parent.exists():
        return None
    found: dict[str, Any] = read_json(path, _FORM)
    for name, file in found["files"].items():
        here = path.parent / name
        if Path(name).name != name or not here.is_file() or here.stat().st_size != file["bytes"]:
            raise UserError(f"{path.parent} is damaged: {name} is not what its manifest says")
    return found


def load(directory: Path, averages: Averages, step: int, missing: Missing = "error") -> None:
    """Make `averages` what they were when the checkpoint was written, to the bit.

    Where the checkpoint has none, or not of this name and rule, it is an error; with "begin" such
    an average begins at `step` as a copy of the weights. Nothing is changed before all is checked.
    """
    found = manifest(directory)
    mine = {name: rule_book.spec(rule) for name, rule in averages.rules.items()}
    if found is None:
        if missing == "error" and mine:
            raise ValueError(
                f"{directory} holds no averages, though {', '.join(mine)} were asked for; a "
                'checkpoint with a folder "averages" is valid, or missing="begin" to begin them '
                "there as copies of its weights"
            )
        _rebase(averages, float(step), mine)
        return
    if missing == "error" and found["rules"] != mine:
        raise ValueError(
            f"{directory} holds averages {found['rules']}, here are {mine}; the same are valid, or "
            'missing="begin" to begin those that it lacks and drop those that are not asked for'
        )
    same = {name for name in mine if found["rules"].get(name) == mine[name]}
    tensors = {name: _read(directory, averages, name) for name in averages.rules if name in same}
    _rebase(averages, found["t"], {name: spec for name, spec in mine.items() if name not in same})
    with torch.no_grad():
        for name, parts in tensors.items():
            for key, part in parts.items():
                averages.tensors[name][key].copy_(part)
            averages.since[name] = float(found["since"][name])
            averages.kept[name] = float(found["kept"][name])
    averages.skipped = int(found["skipped"])


def _rebase(averages: Averages, t: float, fresh: Mapping[str, str]) -> None:
    """Set the clock; averages that are new begin at it."""
    averages.t = t
    for name in fresh:
        averages.since[name] = t


def _read(directory: Path, averages: Averages, name: str) -> dict[str, Tensor]:
    """This process's part of a stored average; a tensor that is not the model's is an error."""
    path = directory / FOLDER / _file(name)
    model = canonical_tensors(averages.model)
    expected = averages.tensors[name]
    found = {}
    try:
        with safe_open(path, framework="pt") as file:
            keys = set(file.keys())
            if keys != expected.keys():
                odd = sorted(keys ^ expected.keys())[0]
                raise ValueError(f"{path}: not the tensors of this model, such as {odd!r}")
            for key in expected:
                tensor = file.get_tensor(key)
                if tuple(tensor.shape) != tuple(model[key].shape):
                    raise ValueError(
                        f"{path}: {key} is of shape {tuple(tensor.shape)}, in the model of "
                        f"{tuple(model[key].shape)}"
                    )
                found[key] = part(tensor, model[key])
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return found


def tensors(directory: Path, name: str) -> dict[str, Tensor]:
    """A stored average, whole, on the CPU: fp32 by the names of the model."""
    found = manifest(directory)
    if found is None or name not in found["rules"]:
        valid = ", ".join(found["rules"]) if found else "none"
        raise ValueError(f"{directory} holds no average {name!r}; it holds {valid}")
    with safe_open(directory / FOLDER / _file(name), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _file(name: str) -> str:
    return f"{name}.safetensors"
