"""Any weights on any tasks, one record as soon as a task is done; done ones are not done again.

    DIR/results.jsonl       one record per weights and task
    DIR/documents/*.jsonl   the score and the answer of every document, a file per record
    DIR/models/             weights as the harness loads them, while it does

Everything that can be wrong with what was asked for is looked for first: names of tasks, weights,
tokenizers, templates, and then the data of all tasks. Only after that is a model loaded.
"""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from anytrain.errors import UserError
from anytrain.files import append_line, read_lines, write_atomic
from anytrain.forms import SCORE
from anytrain.posttrain.candidates import Candidate, check_chat, directory, opened
from anytrain.posttrain.harness import VERSION, Task, find, load, without_network
from anytrain.posttrain.scoring import Model, Score, open_model, score
from anytrain.posttrain.suites import asked

Record = dict[str, Any]

# what a record is a record of: equal in all of these is the same measurement
KEY = ("identity", "task", "shots", "limit", "chat", "content", "harness")


@dataclass(frozen=True)
class Settings:
    """How tasks are measured."""

    limit: int | None = None  # documents of each task, the first ones; None: all
    chat: bool = False  # questions inside the tokenizer's chat template
    offline: bool = False  # data from this machine only
    batch: int | None = None  # requests at a time; None: what memory takes
    device: str | None = None  # None: the GPU where there is one
    shots: int | None = None  # of tasks asked for without a number; None: their own

    def __post_init__(self) -> None:
        for name in ("limit", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}; 1 or more is valid")
        if self.shots is not None and self.shots < 0:
            raise UserError(f"--shots {self.shots}; 0 or more is valid")

    @property
    def place(self) -> str:
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Sitting:
    """What one call works on."""

    out: Path
    settings: Settings
    say: Callable[[str], None]

    def key(self, candidate: Candidate, task: Task) -> Record:
        """The values of KEY."""
        limit, chat = self.settings.limit, self.settings.chat
        return {
            "identity": candidate.identity, "task": task.name, "shots": task.shots,
            "limit": limit, "chat": chat, "content": task.content, "harness": VERSION,
        }  # fmt: skip

    def done(self) -> dict[str, Record]:
        """Records by key; of several the last."""
        found = read_lines(self.out / "results.jsonl", SCORE)
        return {_text({name: record.get(name) for name in KEY}): record for record in found}


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """The directory, for one process at a time; the lock dies with it, so none is ever stale."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out} is being written by another `anytrain evaluate`") from None
        yield


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def evaluate(
    names: Sequence[str],
    words: Sequence[str],
    out: Path,
    settings: Settings,
    say: Callable[[str], None] = lambda _: None,
    also: Callable[[Candidate, Model], None] | None = None,
) -> list[Record]:
    """Records of all weights on all tasks, in the order asked for: new ones, and those in `out`.

    `also` is given every model, for what is no task of the harness. Raises UserError before any
    model is loaded where names, data or templates are not to be had.
    """
    sitting = Sitting(out, settings, say)
    with without_network(settings.offline), ExitStack() as stack:
        tasks = _distinct([task for one in asked(words, settings.shots) for task in find(one)])
        candidates = [stack.enter_context(opened(name)) for name in names]
        _check(candidates, settings)
        done = sitting.done()
        missing = [(c, t) for c in candidates for t in tasks
                   if _text(sitting.key(c, t)) not in done]  # fmt: skip
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anytrain-")))
        pending = {task.label for _, task in missing}
        loaded = {task.label: load(task, cache) for task in tasks if task.label in pending}
        stack.enter_context(_held(out))
        for candidate in candidates:
            left = [task for c, task in missing if c is candidate]
            if left or also is not None:
                _measure(sitting, candidate, left, loaded, also)
        done = sitting.done()
    # an old record may know the weights by another path
    return [
        done[_text(sitting.key(c, t))] | {"weights": c.source, "label": t.label}
        for c in candidates
        for t in tasks
    ]


def _distinct(tasks: Sequence[Task]) -> list[Task]:
    """Each task once; UserError where different ones have one name and could not be told apart."""
    found = list({(task.label, task.content): task for task in tasks}.values())
    for label, count in Counter(task.label for task in found).items():
        if count > 1:
            raise UserError(f"{count} different tasks are named {label}; different names are valid")
    return found


def _check(candidates: Sequence[Candidate], settings: Settings) -> None:
    for identity, count in Counter(c.identity for c in candidates).items():
        if count > 1:
            same = ", ".join(c.source for c in candidates if c.identity == identity)
            raise UserError(f"{same} are the same weights; each of them once is valid")
    if settings.chat:
        for candidate in candidates:
            check_chat(candidate)


def _measure(
    sitting: Sitting,
    candidate: Candidate,
    tasks: Sequence[Task],
    loaded: Mapping[str, Sequence[Any]],
    also: Callable[[Candidate, Model], None] | None,
) -> None:
    """All that is missing of one candidate, with its model loaded once."""
    models = sitting.out / "models"
    models.mkdir(exist_ok=True)
    folder, own_code = directory(candidate, models)
    settings = sitting.settings
    model = open_model(folder, candidate.source, own_code, settings.place, settings.batch)
    for task in tasks:
        sitting.say(f"{candidate.source}: {task.label}")
        found = score(model, task, loaded[task.label], settings.limit, settings.chat)
        _keep(sitting, candidate, task, found)
    if also is not None:
        also(candidate, model)
    shutil.rmtree(models)


def _keep(sitting: Sitting, candidate: Candidate, task: Task, found: Score) -> None:
    """The documents first, so that a record that is there is complete."""
    key = sitting.key(candidate, task)
    folder = sitting.out / "documents"
    folder.mkdir(exist_ok=True)
    name = f"{task.name}-{hashlib.sha256(_text(key).encode()).hexdigest()[:12]}.jsonl"
    write_atomic(folder / name, "".join(json.dumps(line) + "\n" for line in found.documents))
    numbers = asdict(found) | {"documents": len(found.documents)}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    append_line(
        sitting.out / "results.jsonl",
        {"weights": candidate.source, "label": task.label, **key, **numbers, "file": name,
         "versions": versions, "time": datetime.now(UTC).isoformat(timespec="seconds")},
    )  # fmt: skip
