import json
from pathlib import Path
from typing import Any

import pytest
from small_sweeps import conversations, preferences, write_rows

from anytrain.errors import UserError
from anytrain.posttrain.rows import PARTS, Method, Rows, read, split


def keys(found: Rows) -> dict[str, set[str]]:
    return {part: {row.key for row in found[part]} for part in PARTS}


def test_adding_rows_moves_none(tmp_path: Path) -> None:
    rows = conversations(2000)
    before = keys(split(write_rows(tmp_path / "a", rows[:700]), None, "sft"))
    after = keys(split(write_rows(tmp_path / "b", rows[::-1]), None, "sft"))
    for part in PARTS:
        assert before[part] < after[part]
    assert sum(map(len, after.values())) == 2000
    assert len(after["train"]) == pytest.approx(1800, abs=40)  # three standard deviations
    assert len(after["selection"]) == pytest.approx(100, abs=30)


def test_equal_rows_are_in_one_part(tmp_path: Path) -> None:
    """However they are spelt: what was trained on is not measured."""
    rows = conversations(400)
    turned = [dict(reversed(r.items())) for r in rows]
    found = keys(split(write_rows(tmp_path / "a", [*rows, *turned]), None, "sft"))
    assert sum(map(len, found.values())) == 400
    assert not found["train"] & (found["selection"] | found["report"])


def test_what_stands_beside_a_row_does_not_move_it(tmp_path: Path) -> None:
    """An id, a source, a weight of a message: the same words under two ids are one row."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    more = [{**turn, "weight": 1} for turn in said]
    values = [{"messages": said}, {"id": 1, "messages": said}, {"id": 2, "messages": more}]
    assert len({row.key for row in read(write_rows(tmp_path / "a", values), "sft")}) == 1
    texts = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b", "source": "c"}]
    assert len({row.key for row in read(write_rows(tmp_path / "b", texts), "sft")}) == 1


def test_a_validation_file_is_held_out_instead(tmp_path: Path) -> None:
    rows = conversations(100)
    train = write_rows(tmp_path / "a", rows[:50])
    held = write_rows(tmp_path / "b", rows[50:])
    found = split(train, held, "sft")
    assert len(found["train"]) == 50
    assert len(found["selection"]) + len(found["report"]) == 50
    both = write_rows(tmp_path / "c", [*rows[50:], rows[7]])
    with pytest.raises(UserError, match=r"c, line 51 is also .*a, line 8"):
        split(train, both, "sft")


def test_an_empty_part_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of its 3 rows is in the (train|selection|report)"):
        split(write_rows(tmp_path / "a", conversations(3)), None, "sft")


def test_the_forms_of_rows(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file = write_rows(
        tmp_path / "a",
        [{"messages": said}, {"prompt": "a", "completion": "b"},
         {"prompt": said[:1], "completion": said[1:]}],
    )  # fmt: skip
    messages, texts, lists = read(file, "sft")
    assert messages.prompt == ()
    assert messages.answer == tuple(said)
    assert texts.prompt == lists.prompt == tuple(said[:1])
    assert texts.answer == lists.answer == tuple(said[1:])
    (pair,) = read(write_rows(tmp_path / "b", preferences(1)), "dpo")
    assert (pair.answer[0]["content"], pair.rejected[0]["content"]) == ("that is", "not by he")
    given = {"messages": said[:1], "chosen": said[1:], "rejected": "c"}
    (pair,) = read(write_rows(tmp_path / "c", [given]), "dpo")
    assert (pair.prompt, pair.answer) == (tuple(said[:1]), tuple(said[1:]))


USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("method", "value", "says"),
    [
        ("sft", 3, "line 2 is no object"),
        ("sft", {"text": "a"}, "line 2 has no 'prompt'; valid is"),
        ("sft", {"prompt": "a"}, "has no 'completion'"),
        ("sft", {"messages": "a"}, "messages = 'a'; a list"),
        ("sft", {"messages": []}, r"messages = \[\]; a list"),
        ("sft", {"messages": [USER]}, "the last of messages is of role 'user'"),
        ("sft", {"messages": [USER, 5]}, r"messages\[1\] = 5"),
        ("sft", {"messages": [USER, {"role": "assistant"}]}, r"messages\[1\] has no 'content'"),
        ("sft", {"messages": [{"content": "a"}, ASSISTANT]}, r"messages\[0\] has no 'role'"),
        ("sft", {"messages": [USER | {"role": "bot"}, ASSISTANT]}, "role = 'bot'; system, user"),
        ("sft", {"messages": [USER, ASSISTANT | {"content": " "}]}, "content = ' '; a text"),
        ("sft", {"messages": [USER, ASSISTANT | {"content": None}]}, "content = None; a text"),
        ("dpo", {"prompt": "a", "chosen": "b"}, "has no 'rejected'"),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": [USER]}, "the last of rejected is"),
        ("dpo", {"chosen": "a", "rejected": "b"}, "has no 'prompt'"),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b"}, "rejected are the same"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, method: Method, value: Any, says: str) -> None:
    good = preferences(1) if method == "dpo" else conversations(1)
    with pytest.raises(UserError, match=says) as error:
        list(read(write_rows(tmp_path / "chat.jsonl", [*good, value]), method))
    assert f"{tmp_path}/chat.jsonl, line 2" in str(error.value)


def test_what_is_not_json_and_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(conversations(1)[0]) + "\n\n{torn\n")
    with pytest.raises(UserError, match="line 3 is not JSON"):
        list(read(path, "sft"))
    with pytest.raises(UserError, match="No such file"):
        list(read(tmp_path / "none", "sft"))
