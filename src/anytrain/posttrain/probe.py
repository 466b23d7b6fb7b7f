"""A short fine-tuning and the curvature of every candidate of a checkpoint: what to publish."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anytrain.advice import Advice, Candidate, for_finetuning
from anytrain.curvature.held_out import held_out
from anytrain.curvature.hvp import Exact
from anytrain.curvature.objective import Objective
from anytrain.curvature.trace import hutchinson
from anytrain.errors import UserError
from anytrain.models.decoder import Decoder
from anytrain.posttrain import bases, rows
from anytrain.posttrain.points import Key, Points, chosen
from anytrain.posttrain.settings import Settings
from anytrain.posttrain.sweep import Plan, Sweep
from anytrain.references import open_weights

_PROBES = 10  # of the trace
_TOKENS = 4096  # of the trace


def probe(
    names: dict[str, float | None], weights: Callable[[str], str], data: str | None, chat: Path,
    rates: Sequence[float], aside: Path, say: Callable[[str], Any],
) -> Advice:  # fmt: skip
    """Fine-tune every candidate on `chat` at every rate, one seed, and choose by what comes out.

    `names`: candidates and their validation loss; `weights`: a name -> RUN@WHEN:WEIGHTS. The work
    goes on in `aside` where it was stopped, and is removed at the end. UserError where no
    candidate's tuning ends in a number.
    """
    found = rows.split(chat, None, "sft")
    settings = Settings("sft", "loss", batch=_batch(len(found["train"])))
    opened = [bases.opened(weights(name), name, aside, None) for name in names]
    points = Points(aside)
    with points.beginning(), points.locked():
        sweep = Sweep(Plan(opened, found, settings, rates, 0, "none"), points, say)
        points.begin(settings.as_json())
        sweep.run()
    made = [
        _with_trace(_candidate(name, loss, points), weights(name), data)
        for name, loss in names.items()
    ]
    advice = for_finetuning(made)
    if advice is None:
        raise UserError(f"{chat}: fine-tuning diverged at every rate; lower --probe-lr is valid")
    shutil.rmtree(aside)
    return advice


def _batch(count: int) -> int:
    """As the paper's, but at least twenty steps."""
    return max(1, min(128, count // 20))


def _candidate(name: str, loss: float | None, points: Points) -> Candidate:
    """At its best rate."""
    known = points.read()
    lr = chosen(known, name, "loss")
    if lr is None:
        return Candidate(name, loss)
    best = known[Key(name, lr, 0)]
    return Candidate(
        name, loss, lr=lr, score=best["selection_score"], tuned_loss=best["selection_loss"]
    )


def _with_trace(candidate: Candidate, text: str, data: str | None) -> Candidate:
    """On the run's own held-out text, where it is still there."""
    if data is None or not Path(data).exists():
        return candidate
    with open_weights(text) as weights:
        batches = held_out(weights, data, max(_TOKENS, weights.shape.context))
        model = Decoder.loaded(weights.shape, weights.tensors)
        trace = hutchinson(Exact(Objective.of_decoder(model, batches)), _PROBES)
    return replace(candidate, trace=trace.mean, trace_stderr=trace.stderr)
