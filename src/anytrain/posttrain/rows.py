"""Conversations and preferences from JSONL, checked row by row, in three parts that stay.

A row's part is a function of what it says: adding rows moves none, and rows that say the same are
in one part, whatever else they carry, so nothing that was trained on is measured.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from anytrain.errors import UserError
from anytrain.files import parsed

Message = dict[str, str]  # role and content
Method = Literal["sft", "dpo"]
Part = Literal["train", "selection", "report"]

PARTS: tuple[Part, ...] = get_args(Part)
ROLES = ("system", "user", "assistant")
TRAIN, SELECTION = 0.9, 0.05  # shares of the rows; what is left is for the report

_FORMS = {
    "sft": '{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]} or '
    '{"prompt": …, "completion": …}',
    "dpo": '{"prompt" or "messages": [messages], "chosen": [messages], "rejected": [messages]}',
}


@dataclass(frozen=True)
class Row:
    """One conversation, or one prompt with a better and a worse answer."""

    where: str  # file and line
    key: str  # hash of the row, 16 hexadecimal digits
    prompt: tuple[Message, ...]  # given: no answer in it is learnt; may be empty
    answer: tuple[Message, ...]  # its assistant's turns are learnt; DPO's chosen one
    rejected: tuple[Message, ...] = ()  # DPO's other one

    @property
    def share(self) -> float:
        """Where the row's hash lies, in [0, 1)."""
        return int(self.key, 16) / 16.0**16


Rows = dict[Part, list[Row]]


def split(data: Path, validation: Path | None, method: Method) -> Rows:
    """The rows of a file in three parts; `validation` is held out instead of a part of `data`.

    Raises UserError for a row that is not valid, a part without rows, and a held-out row that is
    in `data` too.
    """
    rows = list(read(data, method))
    found: Rows
    if validation is None:
        found = {part: [] for part in PARTS}
        for row in rows:
            found[_part(row.share)].append(row)
    else:
        held = list(read(validation, method))
        _check_apart(rows, held)
        halves: Rows = {"selection": [], "report": []}
        for row in held:
            halves["selection" if row.share < 0.5 else "report"].append(row)
        found = {"train": rows, **halves}
    for part, inside in found.items():
        if not inside:
            source = data if part == "train" or validation is None else validation
            count = len(rows) if source == data else sum(map(len, found.values())) - len(rows)
            raise UserError(
                f"{source}: none of its {count} rows is in the {part} part; more rows (a few "
                "hundred), or a --validation FILE of its own, are valid"
            )
    return found


def _part(share: float) -> Part:
    if share < TRAIN:
        return "train"
    return "selection" if share < TRAIN + SELECTION else "report"


def _check_apart(rows: Sequence[Row], held: Sequence[Row]) -> None:
    known = {row.key: row.where for row in rows}
    for row in held:
        if row.key in known:
            raise UserError(
                f"{row.where} is also {known[row.key]}; a row that is trained on measures nothing, "
                "other rows are valid"
            )


def read(path: Path, method: Method) -> Iterator[Row]:
    """The rows of a JSONL file; blank lines are none."""
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
                raise UserError(
                    f"{where} is not JSON: {error}; valid is {_FORMS[method]}"
                ) from error
            yield _row(value, where, method)


def _row(value: Any, where: str, method: Method) -> Row:
    valid = f"valid is {_FORMS[method]}"
    if not isinstance(value, dict):
        raise UserError(f"{where} is no object; {valid}")
    names: tuple[str, ...] = ("messages",) if "messages" in value else ("prompt", "completion")
    if method == "dpo":
        given = "prompt" if "prompt" in value or "messages" not in value else "messages"
        names = (given, "chosen", "rejected")
    for name in names:
        if name not in value:
            raise UserError(f"{where} has no {name!r}; {valid}")
    turns = {name: _messages(value, name, where) for name in names}
    key = _key({name: value[name] for name in names})
    for name in names[1:] or names:
        _check_answer(turns[name], name, where)
    if method == "dpo":
        if turns["chosen"] == turns["rejected"]:
            raise UserError(f"{where}: chosen and rejected are the same; two answers are valid")
        return Row(where, key, turns[names[0]], turns["chosen"], turns["rejected"])
    if "messages" in turns:
        return Row(where, key, (), turns["messages"])
    return Row(where, key, turns["prompt"], turns["completion"])


def _key(said: Mapping[str, Any]) -> str:
    """The hash of what a row says; an id or a source beside it makes no other row of it."""
    for name, turns in said.items():
        if isinstance(turns, list):
            said = {**said, name: [{"role": t["role"], "content": t["content"]} for t in turns]}
    canonical = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _messages(value: Mapping[str, Any], name: str, where: str) -> tuple[Message, ...]:
    """Messages as they are; a text is one message of whoever speaks there."""
    found = value[name]
    if isinstance(found, str) and name != "messages":
        found = [{"role": "user" if name == "prompt" else "assistant", "content": found}]
    if not isinstance(found, list) or not found:
        raise UserError(f"{where}: {name} = {_short(found)}; a list of messages is valid")
    for number, message in enumerate(found):
        _check_message(message, f"{where}: {name}[{number}]")
    return tuple({"role": m["role"], "content": m["content"]} for m in found)


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise UserError(f'{where} = {_short(message)}; {{"role": …, "content": …}} is valid')
    for name in ("role", "content"):
        if name not in message:
            raise UserError(f"{where} has no {name!r}; a role and a content are valid")
    if message["role"] not in ROLES:
        raise UserError(f"{where}: role = {_short(message['role'])}; {', '.join(ROLES)} are valid")
    content = message["content"]
    if not isinstance(content, str) or not content.strip():
        raise UserError(f"{where}: content = {_short(content)}; a text that is not empty is valid")


def _check_answer(turns: Sequence[Message], name: str, where: str) -> None:
    if turns[-1]["role"] != "assistant":
        raise UserError(
            f"{where}: the last of {name} is of role {turns[-1]['role']!r}; a turn of the "
            "assistant, to learn from, is valid"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
