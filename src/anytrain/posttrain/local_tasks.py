"""Rows of one's own as tasks of the harness: a YAML file and its data, in one folder.

The text of a row is used as it stands: nothing in it is taken for a template. The harness puts one
space between a question and an answer; spaces around a generated answer do not count.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anytrain.errors import UserError
from anytrain.files import write_atomic

Row = Mapping[str, Any]

_CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

_EXACT = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: generate_until
test_split: test
doc_to_text: question
doc_to_target: answer
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: {tokens}
  do_sample: false
filter_list:  # spaces around an answer do not count
  - name: none
    filter:
      - function: regex
        regex_pattern: '(?s)^\\s*(.*?)\\s*$'
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def choice_task(rows: Sequence[Row], name: str, folder: Path) -> Path:
    """Write a multiple-choice task and return its YAML file; the likeliest choice is the answer.

    A row has `question`, `choices` (two or more texts) and `answer` (the number of the right one,
    from 0). The metrics are acc and acc_norm, which divides log-likelihoods by bytes. Raises
    UserError for a row of another form, and where the file is there already.
    """
    return _write(rows, name, folder, _choices_problem, _CHOICE)


def exact_match_task(rows: Sequence[Row], name: str, folder: Path, tokens: int = 32) -> Path:
    """Write a task whose answer is generated greedily, up to a line's end, and return its YAML.

    A row has the texts `question` and `answer`; the metric is exact_match. `tokens` is the most
    that is generated: with the question it has to fit the model's context. Raises UserError as
    `choice_task` does.
    """
    if tokens < 1:
        raise UserError(f"task {name}: tokens = {tokens}; 1 or more is valid")
    return _write(rows, name, folder, _answer_problem, _EXACT.replace("{tokens}", str(tokens)))


def _write(
    rows: Sequence[Row], name: str, folder: Path, problem: Callable[[Row], str], form: str
) -> Path:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise UserError(f"task name {name!r}; a letter, then letters, digits, _ and - are valid")
    if not rows:
        raise UserError(f"task {name} has no rows; one or more is valid")
    for number, row in enumerate(rows, 1):
        if wrong := problem(row):
            raise UserError(f"task {name}, row {number}: {wrong}")
    made, data = folder / f"{name}.yaml", folder / f"{name}.jsonl"
    for path in (made, data):
        if path.exists():
            raise UserError(f"{path} is there already; another name or folder is valid")
    folder.mkdir(parents=True, exist_ok=True)
    # the data first: a YAML file that is there is complete
    write_atomic(data, "".join(json.dumps(dict(row)) + "\n" for row in rows))
    write_atomic(made, form.format(name=name, data=json.dumps(data.name)))
    return made


def _choices_problem(row: Row) -> str:
    choices, answer = row.get("choices"), row.get("answer")
    if wrong := _text_problem(row, "question"):
        return wrong
    if not isinstance(choices, list) or len(choices) < 2 or not all(map(_is_text, choices)):
        return f"choices = {choices!r}; a list of two texts or more is valid"
    if type(answer) is not int or not 0 <= answer < len(choices):
        return f"answer = {answer!r}; a number from 0 to {len(choices) - 1} is valid"
    return ""


def _answer_problem(row: Row) -> str:
    return _text_problem(row, "question") or _text_problem(row, "answer")


def _text_problem(row: Row, key: str) -> str:
    value = row.get(key)
    return "" if _is_text(value) else f"{key} = {value!r}; a text is valid"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
