"""Preparation killed at any moment and run again gives the bytes of an undisturbed run."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from texts import contents, prose

from anytrain.data import chunks, journal, manifest, tokenizer, writer
from anytrain.data.manifest import Manifest
from anytrain.data.tokenize import prepare

Jsonl = Callable[..., Path]

SCRIPT = """
import sys
import tokenizers
from anytrain.data import chunks
from anytrain.data.tokenize import prepare

chunks.CHUNK_DOCUMENTS = 5
print("ready", flush=True)
*sources, out, spec, append = sys.argv[1:]
options = {"append": True} if append == "append" else {"tokenizer": spec, "shard_tokens": 5000}
prepare(sources, out, **options)
"""


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it and tidy up."""


class Fuse:
    """Lets a number of steps pass and then kills, before or after the step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def around(self, step: Callable[..., object]) -> Callable[..., object]:
        def fused(*args: object, **options: object) -> object:
            self.burn()
            result = step(*args, **options)
            self.burn()
            return result

        return fused

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def with_fuse(patch: pytest.MonkeyPatch, steps: int) -> Fuse:
    """A fuse at everything that touches the disk; token bytes may also be torn in the middle."""
    fuse, write = Fuse(steps), writer._write

    def torn(file, data: bytes) -> None:  # type: ignore[no-untyped-def]
        write(file, data[: len(data) // 2])
        fuse.burn()
        write(file, data[len(data) // 2 :])

    patch.setattr(writer, "_write", torn)
    for owner, name in (
        (writer, "_cut"),
        (tokenizer, "_put"),
        (journal.Journal, "commit"),
        (journal.Journal, "set"),
        (journal.Journal, "start"),
        (manifest, "write_atomic"),
        (Path, "mkdir"),
    ):
        patch.setattr(owner, name, fuse.around(getattr(owner, name)))
    return fuse


@pytest.mark.parametrize("case", ["first", "trained", "tail", "append"])
def test_every_step_may_be_the_last(
    tmp_path: Path, bpe: str, jsonl: Jsonl, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """For every k: killed at its k-th touch of the disk, and continued, nothing shows."""
    monkeypatch.setattr(chunks, "CHUNK_DOCUMENTS", 12)
    texts = [prose(seed, 8) for seed in range(60)]
    texts[40] = texts[3]
    source = jsonl("a.jsonl", texts[:2] if case == "tail" else texts)
    options = {"tokenizer": "bpe:270" if case == "trained" else bpe, "shard_tokens": 200}
    more = jsonl("b.jsonl", [prose(seed, 8) for seed in range(50, 90)])

    def make(out: Path, fuse: int | None) -> bool:
        """Prepare `out`, with the last segment on the fuse; says whether it lived."""
        if case == "append" and not (out / "manifest.json").is_file():
            prepare([source], out, **options)  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            burning = with_fuse(patch, fuse or 10**6)
            try:
                if case == "append":
                    prepare([more], out, append=True)
                else:
                    prepare([source], out, **options)  # type: ignore[arg-type]
            except Killed:
                return False
            return burning.left > 0

    assert make(tmp_path / "whole", None)
    expected, fuse = contents(tmp_path / "whole"), 1
    while not make(out := tmp_path / f"killed-{fuse}", fuse):
        # killed again while continuing, then left in peace
        make(out, 3)
        make(out, None)
        assert contents(out) == expected, f"killed at step {fuse}"
        fuse += 1
    assert fuse > 10


def run(arguments: list[str]) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def killed_until_done(arguments: list[str], rng: random.Random, longest: float) -> int:
    """Start again and again, each time killed at a random moment; how often it was killed."""
    kills = 0
    while True:
        process = run(arguments)
        time.sleep(rng.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            return kills
        assert process.returncode == -signal.SIGKILL
        kills += 1
        longest *= 1.1  # on a busy machine nothing might be reached in the time given at first


def killed_at_random(
    tmp_path: Path, jsonl: Jsonl, documents: int, longest: float, wanted: int
) -> None:
    """Corpora that were killed while made equal one that was not, `wanted` kills in all."""
    source = str(jsonl("a.jsonl", [prose(seed, 50) for seed in range(documents)]))
    more = str(jsonl("b.jsonl", [prose(seed, 50) for seed in range(documents, 2 * documents)]))
    parts = (("first", source), ("append", more))
    for kind, text in parts:
        assert run([text, str(tmp_path / "whole"), "bpe:280", kind]).wait() == 0
    rng, kills, victim = random.Random(documents), 0, tmp_path / "victim"
    while kills < wanted:  # on a fast machine one corpus is done before it was killed that often
        for kind, text in parts:
            kills += killed_until_done([text, str(victim), "bpe:280", kind], rng, longest)
        assert contents(victim) == contents(tmp_path / "whole")
        assert len(Manifest.read(victim).segments) == 2
        shutil.rmtree(victim)


def test_sigkill_at_random_moments(tmp_path: Path, jsonl: Jsonl) -> None:
    killed_at_random(tmp_path, jsonl, documents=700, longest=0.1, wanted=3)


@pytest.mark.slow
def test_sigkill_at_many_random_moments(tmp_path: Path, jsonl: Jsonl) -> None:
    killed_at_random(tmp_path, jsonl, documents=3000, longest=0.5, wanted=12)
