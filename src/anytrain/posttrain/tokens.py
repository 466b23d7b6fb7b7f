"""Rows as tokens, with a mark on those that are learnt; rows of a batch laid side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anytrain.errors import UserError
from anytrain.posttrain.rows import Message, Row

IGNORED = -100  # a label that does not count, as torch's cross_entropy has it


@dataclass(frozen=True)
class Encoded:
    """One text as tokens."""

    ids: list[int]
    learnt: list[int]  # 1 on the assistant's tokens and ends of turn, else 0; as long as ids

    @property
    def labels(self) -> list[int]:
        """Tokens to predict. The first has nothing before it to be predicted from."""
        found = [t if on else IGNORED for t, on in zip(self.ids, self.learnt, strict=True)]
        return [IGNORED, *found[1:]]

    @property
    def last_turn(self) -> int:
        """Where the last run of learnt tokens begins."""
        start = len(self.learnt) - 1
        while not self.learnt[start]:
            start -= 1
        while start and self.learnt[start - 1]:
            start -= 1
        return start


@dataclass(frozen=True)
class Choice:
    """One of several answers to the same question."""

    text: Encoded
    size: int  # bytes of the answer


@dataclass(frozen=True)
class EncodedRow:
    """A row as tokens; `rejected` is there for DPO, `choices` (the right one first) if scored."""

    row: Row
    answer: Encoded
    rejected: Encoded | None = None
    choices: tuple[Choice, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens."""
        others = [self.rejected] if self.rejected else []
        others += [choice.text for choice in self.choices]
        return max(len(text.ids) for text in (self.answer, *others))


def encode(row: Row, tokenizer: Any) -> EncodedRow:
    """UserError where the row spells a special token, or its prompt changes before its answer."""
    special = set(tokenizer.all_special_tokens)
    for message in (*row.prompt, *row.answer, *row.rejected):
        spelt = next((token for token in special if token in message["content"]), None)
        if spelt is not None:
            raise UserError(
                f"{row.where}: a content holds {spelt!r}, which the tokenizer reads as the end of "
                "a turn; a text without it is valid"
            )
    prefers = bool(row.rejected)
    answer = _encoded(row.prompt, row.answer, row.where, tokenizer, prefers)
    if not prefers:
        return EncodedRow(row, answer)
    return EncodedRow(row, answer, _encoded(row.prompt, row.rejected, row.where, tokenizer, True))


def _encoded(
    prompt: Sequence[Message], answer: Sequence[Message], where: str, tokenizer: Any, whole: bool
) -> Encoded:
    turns = [*prompt, *answer]
    try:
        found = tokenizer.apply_chat_template(
            turns, return_dict=True, return_assistant_tokens_mask=True
        )
        asked = _asked(turns[:-1], tokenizer)
    except Exception as error:  # jinja's own, and whatever a template raises
        raise UserError(f"{where}: the chat template refuses it: {error}") from error
    ids, learnt = list(found["input_ids"]), list(found["assistant_masks"])
    if not any(learnt):
        raise UserError(f"{where}: the chat template marks none of its tokens as the assistant's")
    if prompt:
        given = len(_asked(prompt, tokenizer))
        # a preference is between whole answers, whatever their template marks, as in TRL
        learnt = [int(n >= given and (on or whole)) for n, on in enumerate(learnt)]
    made = Encoded(ids, learnt)
    if asked and asked != ids[: made.last_turn]:
        raise UserError(
            f"{where}: the tokens before the last answer are others when the answer is not there "
            "yet; a --template that puts a line break or a special token before it is valid"
        )
    return made


def _asked(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """The tokens after which the assistant is to speak; none where nothing was said."""
    if not messages:
        return []
    found = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_dict=True
    )
    return list(found["input_ids"])


# --- batches --------------------------------------------------------------------------------------


def packed(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Texts in rows of at most `width` tokens: each, longest first, where it leaves least room.

    Best-fit decreasing (Johnson 1973), at most 11/9 of the fewest rows and a constant.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        need = lengths[number]
        fits = [n for n, left in enumerate(room) if left >= need]
        if fits:
            best = min(fits, key=lambda n: room[n])
            rows[best].append(number)
            room[best] -= need
        else:
            rows.append([number])
            room.append(width - need)
    return rows


@dataclass(frozen=True)
class Packer:
    """A batch's texts side by side in rows, none seeing another: TRL's `data_collator`.

    Every text begins again at position 0, and that is what transformers reads: with positions and
    no mask, attention stays inside a text under SDPA too. A batch holds the same texts as without
    packing, so packing changes no gradient; TRL's own packs the whole set first, which makes a
    batch of 128 rows hold many more texts, and lays a micro-batch into one row, whose mask takes
    the square of its length where there is no flash attention.
    """

    width: int  # tokens of a row at most

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        rows = packed([len(e["input_ids"]) for e in examples], self.width)
        longest = max(sum(len(examples[n]["input_ids"]) for n in row) for row in rows)
        made: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": []}
        for row in rows:
            ids = [token for n in row for token in examples[n]["input_ids"]]
            labels = [label for n in row for label in examples[n]["labels"]]
            positions = [p for n in row for p in range(len(examples[n]["input_ids"]))]
            left = longest - len(ids)  # padding is a text of its own
            made["input_ids"].append(ids + [0] * left)
            made["labels"].append(labels + [IGNORED] * left)
            made["position_ids"].append(positions + list(range(left)))
        return {name: torch.tensor(values) for name, values in made.items()}
