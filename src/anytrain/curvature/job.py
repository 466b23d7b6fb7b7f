"""Several weights on several data sets: what is to be measured, and records that say of what."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from anytrain.curvature.held_out import read
from anytrain.curvature.measure import Measure, measured
from anytrain.curvature.objective import Batch, Objective
from anytrain.errors import UserError
from anytrain.files import read_lines
from anytrain.models.decoder import Decoder
from anytrain.references import Weights, open_weights
from anytrain.schema import NUMBER, SIZE, TABLE, TEXT

FORM = {
    "weights": TEXT, "data": TEXT, "run?": TEXT, "name?": TEXT, "tokens?": NUMBER, "batches": TEXT,
    "settings": TABLE, "parameters": SIZE, "targets": SIZE, "loss": NUMBER, "method": TEXT,
    "trace": {"mean": NUMBER, "stderr": NUMBER, "samples": [NUMBER]},
    "critical?": {"sharpness": NUMBER}, "eigenvalues?": [NUMBER],
    "density?": {"values": [NUMBER], "weights": [NUMBER]},
    "noise?": [{"sigma": NUMBER, "mean": NUMBER, "stderr": NUMBER}],
    "slice?": {"losses": [NUMBER]}, "plane?": {"at": [NUMBER], "losses": [[NUMBER]]},
    "barrier?": {"height": NUMBER},
}  # fmt: skip
Record = dict[str, Any]
Key = tuple[str, str, str, str]  # weights, data, its tokens, settings


@dataclass(frozen=True)
class Request:
    """What is asked of every pair of weights and data."""

    measure: Measure
    tokens: int  # targets, at most
    context: int | None = None  # tokens of a sequence; None: the model's
    size: int = 8  # sequences at once
    barrier: bool = False  # to the first weights
    drop_long: bool = False  # rows of a chat file past the context


@dataclass(frozen=True)
class Job:
    """One set of weights on one data set."""

    weights: Weights
    data: str
    batches: Sequence[Batch]
    measure: Measure
    first: Weights | None  # where the barrier is measured to

    @property
    def settings(self) -> Record:
        """As JSON has it."""
        settings = {**asdict(self.measure), "barrier": self.first and self.first.source}
        found: Record = json.loads(json.dumps(settings))
        return found

    @property
    def digest(self) -> str:
        """Of the tokens and targets, whatever they are batched in."""
        found = hashlib.sha256()
        for batch in self.batches:
            for row in (*batch.tokens, *batch.targets):
                found.update(row.numpy().tobytes())
        return found.hexdigest()[:16]

    @property
    def key(self) -> Key:
        settings = json.dumps(self.settings, sort_keys=True)
        return self.weights.source, self.data, self.digest, settings


def key_of(record: Record) -> Key:
    """The `Job.key` that a record was made for."""
    settings = json.dumps(record["settings"], sort_keys=True)
    return record["weights"], record["data"], record["batches"], settings


def known(out: Path | None) -> dict[Key, Record]:
    """What a file of records has already."""
    if out is None:
        return {}
    if out.is_dir():
        raise UserError(f"{out} is a directory; a file of records is valid")
    return {key_of(record): record for record in read_lines(out, FORM)}


@contextmanager
def opened(texts: Sequence[str], data: Sequence[str], request: Request) -> Iterator[list[Job]]:
    """Every pair, weights by weights; a run that trains deletes none of them meanwhile.

    All data are read here, so that what is wrong with the last pair is said before the first is
    measured. Raises UserError for what cannot be read, and a barrier between different shapes.
    """
    with ExitStack() as stack:
        every: dict[str, Weights] = {}
        for text in texts:
            weights = stack.enter_context(open_weights(text))
            every.setdefault(weights.source, weights)
        first = next(iter(every.values()))
        if request.barrier:
            _check_barrier(list(every.values()))
        jobs = []
        for weights in every.values():
            for path in dict.fromkeys(data):
                batches = read(weights, path, request.tokens, request.context, request.size,
                               request.drop_long)  # fmt: skip
                to = first if request.barrier else None
                jobs.append(Job(weights, path, batches, request.measure, to))
        yield jobs


def _check_barrier(every: Sequence[Weights]) -> None:
    first = every[0]
    if len(every) < 2:
        raise UserError(f"a barrier from {first.source} to itself; two WEIGHTS or more are valid")
    for weights in every[1:]:
        if weights.shape.tensors() != first.shape.tensors():
            raise UserError(
                f"no line leads from {weights.source} to {first.source}: their shapes differ; "
                "weights of the same shape are valid for a barrier"
            )


def record(job: Job) -> Record:
    """Measure one pair. UserError, naming it, where its loss is not finite or does not settle."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = perf_counter()
    weights, origin = job.weights, job.weights.origin
    model = Decoder.loaded(weights.shape, weights.tensors, device)
    batches = [Batch(tokens.to(device), targets.to(device)) for tokens, targets in job.batches]
    other = None
    if job.first is not None and job.first is not weights:
        tensors = job.first.tensors
        other = {name: tensors[name].float().to(device) for name in tensors}
    try:
        found = measured(Objective.of_decoder(model, batches), job.measure, other)
    except UserError as error:
        raise UserError(f"{weights.source} on {job.data}: {error}") from error
    return {
        "weights": weights.source,
        "run": str(origin.run.path) if origin else None,
        "name": origin.chosen if origin else None,
        "step": origin.checkpoint.step if origin else None,
        "tokens": origin.checkpoint.tokens if origin else None,
        "data": job.data,
        "batches": job.digest,
        "settings": job.settings,
        **found,
        "device": device.type,
        "seconds": round(perf_counter() - start, 3),
    }
