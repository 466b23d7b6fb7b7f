"""The answer of a row among those of other rows."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_sweeps import WORDS, row

from anytrain.errors import UserError
from anytrain.posttrain import measure
from anytrain.posttrain.bases import Base
from anytrain.posttrain.choices import OTHERS, with_choices
from anytrain.posttrain.rows import Row


def questions() -> list[Row]:
    """One of two turns among them, and two rows that say the same answer."""
    words = [*WORDS.split()[:8], "the"]
    found = [row(("user", f"{n} ?"), ("assistant", word)).answer for n, word in enumerate(words)]
    found.append(
        row(("user", "a"), ("assistant", "is it"), ("user", "b"), ("assistant", "was")).answer
    )
    return [Row("x", f"{n:016x}", (), turns) for n, turns in enumerate(found)]


def test_the_right_one_is_first_and_the_others_are_other_rows(tokenizer: Any) -> None:
    rows = questions()
    answers = {one.answer[-1]["content"] for one in rows}
    for asked, found in zip(rows, with_choices(rows, tokenizer), strict=True):
        said = [tokenizer.decode([t for t, on in zip(c.text.ids, c.text.learnt, strict=True) if on])
                for c in found.choices]  # fmt: skip
        said = [text.replace(tokenizer.eos_token, "").strip() for text in said]
        assert said[0] == asked.answer[-1]["content"]
        assert len(set(said)) == len(said) == OTHERS + 1
        assert set(said) <= answers
        assert [c.size for c in found.choices] == [len(text) for text in said]


def test_choices_do_not_hang_on_the_order_of_rows(tokenizer: Any) -> None:
    rows = questions()
    forward = {one.row.key: one.choices for one in with_choices(rows, tokenizer)}
    backward = {one.row.key: one.choices for one in with_choices(rows[::-1], tokenizer)}
    assert forward == backward


def test_the_likeliest_per_byte_is_picked(bases: dict[str, Base], tokenizer: Any) -> None:
    """By a forward pass of each text alone."""
    model = bases["llama"].model()
    rows = with_choices(questions(), tokenizer)
    expected = []
    for found in rows:
        per_byte = []
        for choice in found.choices:
            ids = torch.tensor([choice.text.ids])
            nats = F.cross_entropy(model(ids).logits[0, :-1].detach(), ids[0, 1:], reduction="none")
            counted = torch.tensor(choice.text.learnt[1:]) == 1
            per_byte.append(float(nats[counted].sum()) / choice.size)
        expected.append(min(range(len(per_byte)), key=per_byte.__getitem__) == 0)
    assert measure.picked(model, rows) == expected
    assert 0 < sum(expected) < len(expected)
    assert [one.correct for one in measure.measured(model, rows, [], 0.1)] == expected


def test_too_few_answers(tokenizer: Any) -> None:
    rows = [one for one in questions() if one.answer[-1]["content"] in ("the", "of")]
    with pytest.raises(UserError, match="2 different answers are held out, of 3 rows; 4 or more"):
        with_choices(rows, tokenizer)
