"""Loss and right answers of a model on held-out rows, each row for itself.

Greedy decoding gives an answer exactly when, with the answer itself as the text so far, the
likeliest token is at every place the answer's next one: the first place where it is not is where
decoding leaves the answer. So one forward pass over a row says what a decoding token by token
would, and how far off it is (`tests/posttrain/test_measure.py` decodes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite, log1p
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anytrain.posttrain.tokens import IGNORED, Encoded, EncodedRow

_LOGITS = 2**25  # of one forward pass at most, 128 MiB in fp32


@dataclass(frozen=True)
class Scored:
    """What a model makes of one text."""

    nats: float  # summed over the learnt tokens
    tokens: int  # learnt ones
    right: bool  # greedy decoding gives the last turn, its end included


@dataclass(frozen=True)
class Measured:
    """One held-out row."""

    key: str  # of the row
    loss: float  # nats, of all its learnt tokens (sft); −log σ(margin) (dpo)
    tokens: int  # that the loss is divided by: learnt tokens (sft), 1 (dpo)
    correct: bool  # answered exactly, or chosen (sft); the better answer preferred (dpo)


def scored(model: Any, texts: Sequence[Encoded]) -> list[Scored]:
    """Every text; processes share them out, and each has the results of all."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    process = PartialState(cpu=not torch.cuda.is_available())
    count = process.num_processes
    mine = _scored(model, texts[process.process_index :: count])
    everyone = gather_object([mine]) if count > 1 else [mine]
    return [everyone[n % count][n // count] for n in range(len(texts))]


@torch.no_grad()
def _scored(model: Any, texts: Sequence[Encoded]) -> list[Scored]:
    """In batches of like lengths."""
    model.eval()
    device = next(model.parameters()).device
    vocab = model.get_output_embeddings().weight.shape[0]
    found: dict[int, Scored] = {}
    order = sorted(range(len(texts)), key=lambda n: len(texts[n].ids))
    while order:
        # the longest is the last; a batch is as wide as that
        fit = max(1, _LOGITS // (vocab * len(texts[order[-1]].ids)))
        part, order = order[-fit:], order[:-fit]
        for number, one in zip(part, _batch(model, [texts[n] for n in part], device), strict=True):
            found[number] = one
    return [found[n] for n in range(len(texts))]


def _batch(model: Any, texts: Sequence[Encoded], device: torch.device) -> list[Scored]:
    width = max(len(text.ids) for text in texts)
    ids, labels = torch.zeros(2, len(texts), width, dtype=torch.long)  # (n, T) each
    labels += IGNORED
    seen = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        labels[row, : len(text.ids)] = torch.tensor(text.labels)
        seen[row, : len(text.ids)] = 1
    logits = model(input_ids=ids.to(device), attention_mask=seen.to(device)).logits  # (n, T, V)
    targets = labels[:, 1:].to(device)  # (n, T − 1)
    nats = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, reduction="none")
    hit = logits[:, :-1].argmax(-1) == targets
    counts = (targets != IGNORED).sum(1).tolist()
    sums = nats.double().sum(1).tolist()
    found = []
    for row, text in enumerate(texts):
        first = max(text.last_turn, 1)  # the first token of a text is not predicted
        last = text.last_turn + sum(text.learnt[text.last_turn :])
        right = bool(hit[row, first - 1 : last - 1].all())
        found.append(Scored(sums[row], counts[row], right))
    return found


def measured(
    model: Any, rows: Sequence[EncodedRow], reference: Sequence[float], beta: float
) -> list[Measured]:
    """Every row; `reference` holds, for DPO, the base's log-ratio of the two answers of each."""
    answers = scored(model, [row.answer for row in rows])
    if not reference:
        right = picked(model, rows) or [one.right for one in answers]
        return [
            Measured(row.row.key, one.nats, one.tokens, correct)
            for row, one, correct in zip(rows, answers, right, strict=True)
        ]
    made = []
    ratios = log_ratios(model, rows, answers)
    for row, ratio, before in zip(rows, ratios, reference, strict=True):
        margin = beta * (ratio - before)  # arXiv:2305.18290, equation 7
        made.append(Measured(row.row.key, _softplus(-margin), 1, margin > 0))
    return made


def picked(model: Any, rows: Sequence[EncodedRow]) -> list[bool]:
    """Whether the right choice of every row, its first, is the likeliest per byte; [] without."""
    found = iter(scored(model, [choice.text for row in rows for choice in row.choices]))
    per_byte = [[next(found).nats / choice.size for choice in row.choices] for row in rows]
    return [nats[0] < min(nats[1:]) for nats in per_byte if nats]


def log_ratios(
    model: Any, rows: Sequence[EncodedRow], answers: Sequence[Scored] | None = None
) -> list[float]:
    """log p(chosen) − log p(rejected) of every row, in nats."""
    answers = answers or scored(model, [row.answer for row in rows])
    others = scored(model, [row.rejected for row in rows if row.rejected is not None])
    return [other.nats - one.nats for one, other in zip(answers, others, strict=True)]


def _softplus(x: float) -> float:
    """log(1 + eˣ) without overflow."""
    return x + log1p(exp(-x)) if x > 0 else log1p(exp(x))


def mean_loss(rows: Sequence[Measured]) -> float | None:
    """Nats/token (sft) or nats/preference (dpo) over all rows; None where it is not finite."""
    total = sum(row.loss for row in rows) / sum(row.tokens for row in rows)
    return total if isfinite(total) else None


def score(rows: Sequence[Measured]) -> float:
    """The share of rows that are correct."""
    return sum(row.correct for row in rows) / len(rows)


def text_loss(model: Any, windows: Tensor) -> float | None:
    """Mean loss of plain text (N, T + 1), nats/token; None where it is not finite."""
    texts = [Encoded(ids, [1] * len(ids)) for ids in windows.tolist()]
    found = scored(model, texts)
    total = sum(one.nats for one in found) / sum(one.tokens for one in found)
    return total if isfinite(total) else None
