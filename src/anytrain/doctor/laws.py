"""The laws of the house, each checked by training processes on this machine.

A check is a function of the bench. It returns what it saw, as a sentence and as numbers; a law
that does not hold is `Broken`, one that cannot be checked `Unavailable`. Another law is another
function and a line of `LAWS`.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anytrain import merging, rules
from anytrain.doctor import filesystem
from anytrain.doctor.bench import Bench, Broken, Unavailable, at, losses
from anytrain.headers import of_checkpoint
from anytrain.models.decoder import initial_tensors
from anytrain.references import open_weights
from anytrain.rundir import Checkpoint
from anytrain.training.checkpoint import read_tensors
from anytrain.words import size

KILLS = 2
ROUNDING = {"fp32": 1e-4, "bf16": 5e-3}  # of the loss, on another number of processes

Found = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Law:
    """What is checked, and what it means for the user where it does not hold."""

    name: str
    check: Callable[[Bench], Found]
    otherwise: str


def files(bench: Bench) -> Found:
    """Atomic renames, fsync, and locks between processes."""
    reads = filesystem.check(bench.folder)
    says = f"a replaced file was whole in {reads} reads, a second process refused"
    return says, {"writes": filesystem.WRITES, "reads": reads}


def resume(bench: Bench) -> Found:
    """A run that is killed and started again = one that was left alone, bit for bit."""
    _deterministic(bench)
    often = ("checkpoint.every=2-steps", "checkpoint.newest=2")
    kills = [bench.kill("killed", *often) for _ in range(KILLS)]
    bench.until = bench.within(max(bench.until, kills[-1] + bench.steps))
    killed = bench.train("killed", bench.until, *often)
    calm = bench.undisturbed
    where = f"killed at steps {' and '.join(map(str, kills))}, at step {bench.until}"
    count = _same(at(killed, bench.until), at(calm, bench.until), where)
    if losses(killed) != losses(calm):
        raise Broken(f"{where}: the losses recorded are not those of an undisturbed run")
    shutil.rmtree(killed.path)
    says = f"{where} all {count} tensors are an undisturbed run's, bit for bit"
    return says, {"kills": kills, "step": bench.until, "tensors": count}


def prefix(bench: Bench) -> Found:
    """The state at N is the same whether the run stops there or goes on."""
    _deterministic(bench)
    there, further = bench.within(bench.steps), bench.until
    stopped = bench.train("stopped", there)
    where = f"at step {there} of a run that stops there and of one that goes on to {further}"
    count = _same(at(stopped, there), at(bench.undisturbed, there), where)
    shutil.rmtree(stopped.path)
    return f"{where} all {count} tensors are equal, bit for bit", {"step": there, "until": further}


def kernel(bench: Bench) -> Found:
    """Every running average = the offline merge of the iterates by its rule's weights.

    A running average rounds twice a move, the merge once: with all in fp32 they are within
    (2·moves + 1)·2^-24·max|w| of each other.
    """
    recipe, moves = bench.recipe, bench.moves
    if not recipe.averages:
        raise Unavailable("the recipe keeps no averages")
    if (last := moves[-1]) > bench.until:
        raise Unavailable("the schedule ends before the averages have moved")
    run = bench.undisturbed
    start = bench.folder / "start.safetensors"
    save_file(_initial(bench), start)
    texts = [str(start), *(f"{run.path}@{step}:raw" for step in moves)]
    allowed = (2 * len(moves) + 1) * 2.0**-24 * _largest(texts)
    off: dict[str, float] = {}
    for name, rule in recipe.built_rules().items():
        shares = _shares(rule, last, recipe.train.average_every, recipe.train.dt)
        with (
            _merged(bench.folder, texts, shares) as merged,
            open_weights(f"{run.path}@{last}:{name}") as online,
        ):
            off[name] = max(float((merged[k] - t).abs().max()) for k, t in online.tensors.items())
        if not off[name] <= allowed:
            raise Broken(
                f"average {name} at step {last} is {off[name]:.3g} off the merge of its iterates; "
                f"rounding allows {allowed:.3g}"
            )
    says = (
        f"{len(off)} averages within {max(off.values()):.2g} of the merge of {len(texts)} iterates"
    )
    return f"{says}; rounding allows {allowed:.2g}", {"off": off, "allowed": allowed}


def checkpoint(bench: Bench) -> Found:
    """What a checkpoint costs here, and that it is read back as it was written."""
    run = bench.undisturbed
    events = [event for event in run.events() if event["event"] == "checkpoint"]
    # the last one of a sitting has nothing to be written beside
    beside = [event for event in events if event["background_seconds"] > 0]
    if not beside:
        raise Broken("no checkpoint was written beside training")
    found = at(run, bench.until)
    _forget(found)
    began = perf_counter()
    found.verify()
    read_tensors(found.path)
    numbers = {
        "bytes": found.bytes,
        "blocked_seconds": max(event["blocked_seconds"] for event in beside),
        "background_seconds": max(event["background_seconds"] for event in beside),
        "read_seconds": round(perf_counter() - began, 6),
    }
    says = (
        f"{size(found.bytes)}: training waits {numbers['blocked_seconds']:.3g} s, "
        f"{numbers['background_seconds']:.3g} s beside it, read and verified in "
        f"{numbers['read_seconds']:.3g} s"
    )
    return says, numbers


def devices(bench: Bench) -> Found:
    """On two processes and then on one: the same batches, and the loss equal to rounding."""
    train = bench.recipe.train
    if not _offers("--devices"):
        raise Unavailable("not available in this version: anytrain train has no --devices")
    if torch.cuda.is_available() and torch.cuda.device_count() < 2:
        raise Unavailable("there is one GPU")
    if train.batch % 2:
        raise Unavailable(f"train.batch = {train.batch} cannot be halved")
    micro = math.gcd(train.micro_batch or train.batch, train.batch // 2)
    settings, half = f"train.micro_batch={micro}", bench.until // 2
    bench.train("two", half, "--devices", "2", settings)
    run = bench.train("two", bench.until, "--devices", "1", settings)
    ours, theirs = losses(run), losses(bench.undisturbed)
    if ours.keys() != theirs.keys():
        raise Broken(f"{len(ours)} steps were recorded, {len(theirs)} is right")
    off = max(abs(ours[step] - theirs[step]) / abs(theirs[step]) for step in theirs)
    allowed = ROUNDING[train.precision]
    if not off <= allowed:
        raise Broken(f"the loss is off by {off:.2g} of it; rounding explains {allowed:g}")
    says = f"2 processes to step {half}, then 1 to step {bench.until}: loss within {off:.2g} of it"
    return says, {"off": off, "allowed": allowed}


LAWS = (
    Law("filesystem", files, "runs and checkpoints are not safe here; put them elsewhere"),
    Law("resume", resume, "a run that is killed does not go on as it would have"),
    Law("prefix", prefix, "stopping changes what came before the stop"),
    Law("kernel", kernel, "the averages are not what their rules say; do not release them"),
    Law("checkpoint", checkpoint, "what is written cannot be relied on"),
    Law("devices", devices, "another number of processes trains another model"),
)


# --- what the checks are made of -------------------------------------------------------------


def _deterministic(bench: Bench) -> None:
    if not bench.recipe.train.deterministic:
        raise Unavailable("train.deterministic = false: no bits are promised")


def _same(one: Checkpoint, other: Checkpoint, where: str) -> int:
    """How many tensors both hold, bit for bit; the recipe apart, all else is equal too."""
    names, wrong = sorted(of_checkpoint(one).keys() | of_checkpoint(other).keys()), []
    if _checksums(one) != _checksums(other):  # else there is nothing to load
        ours, theirs = read_tensors(one.path), read_tensors(other.path)
        wrong = [name for name in names if _bits(ours.get(name)) != _bits(theirs.get(name))]
    for key in one.state.keys() | other.state.keys():
        if key != "recipe" and json.dumps(one.state.get(key)) != json.dumps(other.state.get(key)):
            wrong.append(f"state/{key}")
    if wrong:
        raise Broken(f"{where}: {len(wrong)} of {len(names)} tensors differ, such as {wrong[0]}")
    return len(names)


def _checksums(found: Checkpoint) -> dict[str, str]:
    """Of the files of tensors, which `at` has compared with the files."""
    files = found.manifest["files"].items()
    return {name: entry["sha256"] for name, entry in files if name.endswith(".safetensors")}


def _bits(tensor: Tensor | None) -> tuple[Any, ...]:
    """Type, dimensions and bytes: minus zero is not zero here, a NaN equals itself."""
    if tensor is None:
        return ()
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    return str(tensor.dtype), tuple(tensor.shape), raw.numpy().tobytes()


def _initial(bench: Bench) -> dict[str, Tensor]:
    """The weights before the first step, from the seed or from what the recipe starts from."""
    recipe = bench.recipe
    if recipe.start_from is not None:
        with open_weights(recipe.start_from) as weights:
            return {name: tensor.float() for name, tensor in weights.tensors.items()}
    return dict(initial_tensors(recipe.model, torch.Generator().manual_seed(recipe.train.seed)))


def _shares(rule: rules.Rule, last: int, every: int, dt: float) -> list[float]:
    """What the start and each kept iterate weigh: an iterate has the mass of those skipped."""
    first, *mass = rules.weights(rule, [dt * step for step in range(1, last + 1)]).tolist()
    return [first, *(sum(mass[i : i + every]) for i in range(0, last, every))]


@contextmanager
def _merged(folder: Path, texts: list[str], shares: list[float]) -> Iterator[dict[str, Tensor]]:
    """What `anytrain merge --weights` makes of them."""
    out = folder / "merged.safetensors"
    try:
        with merging.opened(texts) as inputs:
            merging.write(inputs, shares, out, "float32", {}, lambda *_: None)
        yield load_file(out)
    finally:
        out.unlink(missing_ok=True)


def _largest(texts: list[str]) -> float:
    """max|w| over all iterates."""
    start, *moments = texts
    found = max(float(tensor.abs().max()) for tensor in load_file(start).values())
    for text in moments:
        with open_weights(text) as weights:
            found = max(found, *(float(t.abs().max()) for t in weights.tensors.values()))
    return found


def _forget(found: Checkpoint) -> None:
    """Have the operating system forget the files, so that reading them is reading the disk."""
    if not hasattr(os, "posix_fadvise"):
        return
    for name in found.manifest["files"]:
        with (found.path / name).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _offers(option: str) -> bool:
    """Whether `anytrain train` has an option."""
    command = [sys.executable, "-m", "anytrain", "train", "--help"]
    return option in subprocess.run(command, capture_output=True, text=True, check=True).stdout
