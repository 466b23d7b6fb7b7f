"""Held-out rows as questions of several choices: the row's answer among those of other rows.

A model that cannot write an answer word for word may still know it from others: of OTHERS + 1
texts after the same prompt the likeliest is its choice, by log-likelihood per byte as
lm-evaluation-harness's acc_norm has it, the end of the turn included. Only the last turn counts.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anytrain.errors import UserError
from anytrain.posttrain.rows import Row
from anytrain.posttrain.tokens import Choice, Encoded, EncodedRow, encode

OTHERS = 3  # wrong answers beside the right one; chance is 1 in 4


def with_choices(rows: Sequence[Row], tokenizer: Any) -> list[EncodedRow]:
    """Every row as tokens, with its own answer first among its choices.

    The others are drawn from the same rows by the row's hash, so they are the same for every base
    and do not move when rows are read in another order. Raises UserError where fewer than four
    different answers are there.
    """
    answers = sorted({_said(row) for row in rows})
    if len(answers) <= OTHERS:
        raise UserError(
            f"--metric choice: {len(answers)} different answers are held out, of {len(rows)} rows; "
            f"{OTHERS + 1} or more are valid"
        )
    return [_with(row, answers, tokenizer) for row in rows]


def _with(row: Row, answers: Sequence[str], tokenizer: Any) -> EncodedRow:
    drawn = random.Random(row.key).sample(answers, OTHERS + 1)
    wrong = [text for text in drawn if text != _said(row)][:OTHERS]
    found = encode(row, tokenizer)
    texts = [found.answer, *(encode(_saying(row, text), tokenizer).answer for text in wrong)]
    sizes = [len(text.encode()) for text in (_said(row), *wrong)]
    choices = [Choice(_last(text), size) for text, size in zip(texts, sizes, strict=True)]
    return replace(found, choices=tuple(choices))


def _said(row: Row) -> str:
    return row.answer[-1]["content"]


def _saying(row: Row, text: str) -> Row:
    last = {**row.answer[-1], "content": text}
    return replace(row, answer=(*row.answer[:-1], last))


def _last(text: Encoded) -> Encoded:
    """Only the last turn counts."""
    start = text.last_turn
    return Encoded(text.ids, [0] * start + text.learnt[start:])
