"""Beginning a run or coming back to it: what is decided once, what may change, what may not."""

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from anytrain.data.stream import Pin, TrainingData
from anytrain.errors import UserError
from anytrain.files import read_json, write_atomic
from anytrain.grammar import Quantity
from anytrain.rundir import FORMAT, RunDir
from anytrain.training import recipes
from anytrain.training.config import Recipe
from anytrain.training.memory import check_memory, fitting_micro_batch
from anytrain.versions import versions

# Keys that neither a sitting nor a fork may change: the state would not fit, or mean another.
STATE_BOUND = ("model.", "train.context")

# Keys a sitting may change. They influence no step, but for the batch, whose change is recorded.
CHANGEABLE = (
    *("averages", "log", "evaluate", "checkpoint", "snapshots", "parallel", "unit", "name"),
    "train.batch",
)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_determinism(recipe: Recipe) -> None:
    """Bit-identical steps, unless the recipe gives them up for speed."""
    if recipe.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # filling fresh memory with NaN finds bugs; here it would only cost time
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if compiles(recipe):
            # kernels chosen by timing them could be others on the next start
            from torch._inductor import config as inductor

            inductor.deterministic = True
    else:
        torch.use_deterministic_algorithms(False)


def compiles(recipe: Recipe) -> bool:
    """Whether the forward pass is compiled; where the recipe is silent, on CUDA alone."""
    asked = recipe.train.compile
    return device().type == "cuda" if asked is None else asked


def open_data(
    recipe: Recipe,
    pins: Sequence[Pin] | None = None,
    say: Callable[[str], Any] = lambda line: None,
) -> TrainingData:
    """The corpus of a recipe, prepared first where it is not there and the recipe says how."""
    settings = recipe.data
    how = settings.prepare
    if settings.path is not None and how is not None and pins is None:
        folder = Path(settings.path)
        if not (folder / "manifest.json").exists():
            from anytrain.data.tokenize import prepare

            say(f"{folder} is not there yet: preparing it from {', '.join(how.sources)}")
            prepare(
                how.sources,
                folder,
                tokenizer=how.tokenizer,
                text_field=how.text_field,
                validation=how.validation,
                ids=how.ids,
                eot=how.eot,
                bar=True,
            )
    return TrainingData.open(
        settings.sources, context=recipe.train.context, seed=recipe.train.seed, pins=pins
    )


def resolved(recipe: Recipe, data: TrainingData) -> Recipe:
    """The recipe with what the corpus and the machine decide filled in: a run records it so."""
    vocab = recipe.model.vocab if recipe.model.vocab is not None else data.vocab
    if vocab is None:
        raise UserError(f"{', '.join(recipe.data.sources)}: no vocabulary size; give model.vocab")
    if data.vocab is not None and vocab < data.vocab:
        raise UserError(
            f"model.vocab = {vocab} is smaller than the corpus's vocabulary of {data.vocab}"
        )
    recipe = dataclasses.replace(recipe, model=recipe.model.with_vocab(vocab))
    check_memory(recipe, device())
    unit = Quantity(float(recipe.unit_tokens), "tokens")
    train = dataclasses.replace(
        recipe.train,
        micro_batch=recipe.train.micro_batch or fitting_micro_batch(recipe, device()),
        compile=compiles(recipe),
    )
    return dataclasses.replace(recipe, unit=recipe.unit or unit, train=train)


def check_tokenizer(data: TrainingData, other: Path | None, whose: str) -> None:
    """Weights that read one tokenizer's tokens must not be given another's."""
    if data.tokenizer is None or other is None or not other.is_file():
        return
    if read_json(data.tokenizer) != read_json(other):
        raise UserError(
            f"{data.tokenizer} is not the tokenizer of {whose} ({other}); prepare the corpus "
            f"with --tokenizer {other}"
        )


def create(
    rundir: RunDir,
    recipe: Recipe,
    data: TrainingData,
    imports: Mapping[str, str] | None = None,
    parent: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Write the identity of a new run. `run.json` comes last: with it the run exists."""
    rundir.checkpoint_root.mkdir(parents=True, exist_ok=True)
    write_atomic(rundir.path / "recipe.toml", recipe.toml())
    if data.tokenizer is not None:  # a copy, so that a run is whole wherever it is read from
        shutil.copyfile(data.tokenizer, rundir.path / "tokenizer.json")
    write_identity(
        rundir,
        {
            "format": FORMAT,
            "id": uuid.uuid4().hex[:12],
            "created": now(),
            "versions": versions(),
            "imports": dict(imports or {}),
            "parent": dict(parent) if parent else None,
            "changes": dict(changes or {}),
            "data": [pin.to_json() for pin in data.pins],
            "eot": data.eot,
            "decisions": {
                "micro_batch": recipe.train.micro_batch,
                "compile": recipe.train.compile,
                "device": device().type,
                "threads": torch.get_num_threads(),
            },
        },
    )


def write_identity(rundir: RunDir, identity: Mapping[str, Any]) -> None:
    """Replace `run.json`."""
    write_atomic(rundir.path / "run.json", json.dumps(identity, indent=1) + "\n")


def record_imports(rundir: RunDir, imports: Mapping[str, str]) -> None:
    """Add a user's modules that this sitting brings to those the run began with."""
    identity = rundir.identity
    if not imports.keys() <= identity["imports"].keys():
        write_identity(rundir, identity | {"imports": {**identity["imports"], **imports}})


def now() -> str:
    """The time, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- coming back -----------------------------------------------------------------------------


def reopened(rundir: RunDir, source: str | None, settings: Sequence[str]) -> Recipe:
    """The recipe to go on with: the run's own, with what may change changed.

    A recipe named again is compared with the run's; anything else than the changeable keys that
    differs is a UserError that names the keys.
    """
    old = recipes.recipe(rundir.recipe, str(rundir.path / "recipe.toml"))
    if source is None:
        table = recipes.override(old.table(), settings)
    else:
        asked = recipes.load(source, settings).table()
        table = _with_decisions(asked, old.table())
    new = recipes.recipe(table, source or str(rundir.path))
    new = with_reference(old, new)
    changed = differences(old, new)
    fixed = [key for key in changed if not _may_change(key)]
    for key in fixed:
        if key.startswith(STATE_BOUND):
            raise UserError(
                f"{rundir.path}: {key} = {changed[key][1]!r} (was {changed[key][0]!r}) cannot "
                "change: the weights would not fit; begin another run, with --from to keep "
                "the weights"
            )
    if new.train.reference != old.train.reference:
        fixed.append("train.reference_batch")
    if fixed:
        said = ", ".join(f"{k} = {changed[k][1]!r} (was {changed[k][0]!r})" for k in fixed)
        raise UserError(
            f"{rundir.path}: {said}"
            f" cannot change on resume; {', '.join(CHANGEABLE)} may, anything else needs a fork: "
            f"anytrain fork {rundir.path} --out NEW {fixed[0]}=…"
        )
    return new


def with_reference(old: Recipe, new: Recipe) -> Recipe:
    """The new recipe on the old one's clock: another batch does not change the reference."""
    if new.train.batch == old.train.batch:
        return new
    train = dataclasses.replace(new.train, reference_batch=old.train.reference)
    return dataclasses.replace(new, train=train)


def _may_change(key: str) -> bool:
    if key in ("evaluate.tokens", "evaluate.split"):  # other windows do not compare with these
        return False
    allowed = (*CHANGEABLE, "train.reference_batch")
    return any(key == name or key.startswith(name + ".") for name in allowed)


def _with_decisions(asked: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """What the first start decided stays decided where the recipe asked for again is silent."""
    decided = {"model": ("vocab",), "train": ("micro_batch", "compile", "reference_batch")}
    for table, keys in decided.items():
        for key in keys:
            if key in old[table]:
                asked[table].setdefault(key, old[table][key])
    if "unit" in old:
        asked.setdefault("unit", old["unit"])
    if "start_from" in old:  # the model has the shape of those weights
        asked.setdefault("start_from", old["start_from"])
        asked["model"] = old["model"]
    return asked


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) for every setting that differs."""
    before, after = _flat(old.table()), _flat(new.table())
    keys = sorted(before.keys() | after.keys())
    pairs = {key: (before.get(key), after.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def check_surroundings(rundir: RunDir, imports: Mapping[str, str]) -> list[str]:
    """Sentences on what is not as it was at the first start and may change the bits.

    Raises a UserError when a user's module is not the one that the run began with.
    """
    identity = rundir.identity
    for module, digest in identity["imports"].items():
        if imports.get(module) != digest:
            raise UserError(
                f"{rundir.path} was trained with --import {module} ({digest[:12]}); "
                + ("its source has changed since" if module in imports else "add it")
            )
    here = {"threads": torch.get_num_threads(), "device": device().type}
    notes = [
        f"{key} = {value}, the run began with {identity['decisions'][key]}: going on, but not "
        "bit for bit as it would have"
        for key, value in here.items()
        if identity["decisions"][key] != value
    ]
    if identity["versions"]["torch"] != torch.__version__:
        notes.append(
            f"torch {torch.__version__}, the run began with {identity['versions']['torch']}: "
            "going on, but not bit for bit as it would have"
        )
    return notes
