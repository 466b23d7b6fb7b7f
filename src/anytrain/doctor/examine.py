"""From a recipe to a certificate: data, a bench, every law in its turn."""

import dataclasses
import hashlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from anytrain.certificate import Certificate, Check, Result
from anytrain.doctor import machine
from anytrain.doctor.bench import Bench, Broken, Unavailable
from anytrain.doctor.laws import LAWS, Law
from anytrain.errors import UserError
from anytrain.training import start
from anytrain.training.config import Recipe
from anytrain.training.plan import plan, with_known_vocab
from anytrain.training.tables import Data
from anytrain.versions import versions
from anytrain.words import size

_AT_ONCE = 10  # checkpoints that lie in the scratch directory at the same time, or fewer
_RANDOM = 2**20  # tokens written where the recipe's own are not there


def examine(
    recipe: Recipe,
    parent: Path,
    steps: int,
    imports: Sequence[str],
    say: Callable[[str], Any],
) -> Certificate:
    """Check every law in a directory inside `parent`, which is removed at the end."""
    if steps < 2:
        raise UserError(f"--steps {steps}; 2 or more is valid")
    known = with_known_vocab(recipe)
    _check_room(known, parent)
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".anytrain-doctor-", dir=parent))
    try:
        data = "its own data" if _has_data(recipe) else "random tokens"
        on_data = recipe if _has_data(recipe) else _on_random_tokens(known, scratch / "tokens")
        resolved = start.resolved(on_data, start.open_data(on_data))
        bench = Bench(scratch, resolved, tuple(imports), steps)
        described = _machine(scratch)
        blank = Certificate(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=recipe.name,
            recipe_sha256=hashlib.sha256(recipe.toml().encode()).hexdigest(),
            data=data,
            place=_place(described),
            versions=versions(),
            machine=described,
            checks=(),
        )
        say(f"{recipe.name} on {data}, {blank.place}")
        checks = tuple(_checked(law, bench, say) for law in LAWS)
        return dataclasses.replace(blank, checks=checks)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _checked(law: Law, bench: Bench, say: Callable[[str], Any]) -> Check:
    """One law: what came of it, said as soon as it is known."""
    began = perf_counter()
    result: Result = "holds"
    numbers: dict[str, Any] = {}
    try:
        says, numbers = law.check(bench)
    except Unavailable as why:
        result, says = "not available", str(why)
    except (Broken, UserError, OSError) as error:
        result, says = "broken", f"{error}. So {law.otherwise}"
    check = Check(law.name, result, says, numbers, round(perf_counter() - began, 3))
    say(f"{check.name:<11} {check.result:<14} {check.seconds:>5.0f} s  {check.says}")
    return check


def _has_data(recipe: Recipe) -> bool:
    return all(Path(path).is_dir() for path in recipe.data.sources)


def _on_random_tokens(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe on tokens drawn evenly from its vocabulary."""
    folder.mkdir()
    vocab, context = recipe.model.tokens, recipe.train.context
    rng = np.random.default_rng(0)
    for split, count in (("train", max(_RANDOM, 64 * context)), ("val", 4 * context)):
        tokens = rng.integers(0, vocab, count + 1, dtype=np.uint32)
        np.save(folder / f"{split}.npy", tokens)
    return dataclasses.replace(recipe, data=Data(path=str(folder)))


def _check_room(recipe: Recipe, parent: Path) -> None:
    there = next(path for path in (parent, *parent.absolute().parents) if path.exists())
    needed, free = _AT_ONCE * plan(recipe).checkpoint, shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{there} has {size(free)} free, {_AT_ONCE} checkpoints of {recipe.name} need "
            f"{size(needed)}; --scratch DIR elsewhere, or a smaller model, is valid"
        )


def _machine(folder: Path) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.release()}",
        "devices": names if cuda else [machine.processor()],
        "device": start.device().type,
        "cores": machine.cores(),
        "threads": torch.get_num_threads(),
        "filesystem": machine.filesystem(folder),
    }


def _place(described: dict[str, Any]) -> str:
    names, on = described["devices"], described["filesystem"]
    if described["device"] == "cuda":
        return f"{len(names)} × {names[0]}, {on}"
    return f"{described['cores']} cores of {names[0]}, {on}"
