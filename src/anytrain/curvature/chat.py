"""Conversations as batches in which what the assistant says counts: a fine-tuning loss.

Rows of (token ids, marks of those that are learnt) come from here, for a JSONL file of messages, or
from whatever else renders conversations.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from anytrain.curvature.objective import Batch
from anytrain.data import tokenizer as tokenizers
from anytrain.errors import UserError
from anytrain.files import parsed
from anytrain.models.cross_entropy import IGNORED
from anytrain.references import Weights

ROLES = ("system", "user", "assistant")
_VALID = '{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}'


class Marked(NamedTuple):
    """One text as tokens."""

    ids: Sequence[int]
    learnt: Sequence[int]  # 1 on what the loss counts, else 0; as long as ids


def chat(
    weights: Weights,
    path: Path,
    tokens: int,
    context: int | None = None,
    size: int = 8,
    drop_long: bool = False,
) -> list[Batch]:
    """Rows of a file until `tokens` of the assistant's count, in an order that a fixed seed gives.

    UserError for a row that is not valid, one longer than the context where these are not to be
    left out, and for weights without a tokenizer or end of text.
    """
    length = context or weights.shape.context
    if weights.tokenizer is None or weights.eot is None:
        lacks = "tokenizer" if weights.tokenizer is None else "end-of-text token"
        raise UserError(f"{weights.source} has no {lacks}, which conversations need")
    rows = list(_encoded(path, weights.tokenizer, weights.eot))
    if not rows:
        raise UserError(f"{path} has no rows; {_VALID} a line is valid")
    long = [row for row in rows if len(row.ids) > length + 1]
    if drop_long and len(long) < len(rows):
        rows = [row for row in rows if len(row.ids) <= length + 1]
    elif long:
        raise UserError(
            f"{path}: {len(long)} of {len(rows)} rows are longer than {length} + 1 tokens, the "
            f"longest {max(len(row.ids) for row in long)}; shorter rows, a larger --context, "
            "or --drop-long to leave them out, are valid"
        )
    largest = max(max(row.ids) for row in rows)
    if largest >= weights.shape.tokens:
        raise UserError(
            f"{path} has token {largest} and {weights.source} {weights.shape.tokens} tokens; the "
            "model's own tokenizer is valid"
        )
    chosen, counted = [], 0
    for number in np.random.default_rng(0).permutation(len(rows)):
        chosen.append(rows[number])
        counted += sum(rows[number].learnt[1:])
        if counted >= tokens:
            break
    return padded(chosen, size * (length + 1))


def padded(rows: Sequence[Marked], most: int) -> list[Batch]:
    """Batches of at most `most` numbers, or of one row: rows of like length beside each other.

    Each is filled up to its longest row with what does not count; attention is causal, so that what
    stands after a row changes nothing in it. A hundred questions of ten tokens take one pass.
    """
    batches, part = [], list[Marked]()
    for row in sorted(rows, key=lambda row: len(row.ids)):  # the last of a batch is its longest
        if part and (len(part) + 1) * len(row.ids) > most:
            batches.append(_batch(part))
            part = []
        part.append(row)
    return [*batches, _batch(part)] if part else []


def _batch(rows: Sequence[Marked]) -> Batch:
    """(B, T) tokens and targets, T one less than the longest row has."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    targets = torch.full((len(rows), width), IGNORED)
    for place, row in enumerate(rows):
        here = torch.tensor(list(row.ids))  # (T,)
        ids[place, : len(here)] = here
        targets[place, : len(here)] = here.where(torch.tensor(list(row.learnt)) > 0, IGNORED)
    return Batch(ids[:, :-1], targets[:, 1:])


def _encoded(path: Path, tokenizer_file: Path, eot: int) -> Iterator[Marked]:
    """Each row by the plain template of fine-tuning: `User:`, a line break, the text, a line break;
    the assistant's texts end with the end-of-text token, which is learnt too."""
    tokenizer = tokenizers.read(tokenizer_file)
    for where, messages in _rows(path):
        row = Marked([], [])
        given = ""  # what stands before the next answer, encoded as one text
        for message in messages:
            head, content = f"{message['role'].capitalize()}:\n", message["content"].strip()
            if message["role"] != "assistant":
                given += f"{head}{content}\n"
                continue
            with tokenizers.refusing(f"{where}: the tokenizer cannot encode it"):
                before = tokenizer.encode(given + head, add_special_tokens=False).ids
                answer = [*tokenizer.encode(content, add_special_tokens=False).ids, eot]
            row = Marked(
                [*row.ids, *before, *answer], [*row.learnt, *[0] * len(before), *[1] * len(answer)]
            )
            given = ""
        if not row.ids:
            raise UserError(f"{where} has no turn of the assistant; {_VALID} is valid")
        yield row


def _rows(path: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """(file and line, messages) of each row; blank lines are none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                value = parsed(line)
            except ValueError as error:
                raise UserError(f"{where} is not JSON: {error}; {_VALID} is valid") from error
            yield where, _messages(value, where)


def _messages(value: Any, where: str) -> list[dict[str, str]]:
    found = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(found, list) or not all(_is_message(message) for message in found):
        raise UserError(
            f"{where}: messages with a role ({', '.join(ROLES)}) and a content each are needed; "
            f"{_VALID} is valid"
        )
    return found


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("role") in ROLES
        and isinstance(value.get("content"), str)
    )
