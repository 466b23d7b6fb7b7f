"""Going on where it was stopped, what a record is a record of, data that are not here."""

import fcntl
import json
import time
from pathlib import Path
from typing import Any

import pytest
from task_models import rigged, write

from anytrain.errors import UserError
from anytrain.posttrain import tasks
from anytrain.posttrain.local_tasks import choice_task, exact_match_task
from anytrain.posttrain.tasks import Settings, evaluate

ROW = {"question": "Is it?", "choices": ["y", "n"], "answer": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return tuple(str(write(folder / c, rigged({" ": c}))) for c in "yn")  # type: ignore[return-value]


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    rows = [{**ROW, "answer": i % 2} for i in range(5)]
    return [str(choice_task(rows, name, tmp_path / "tasks")) for name in ("first", "second")]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels of the tasks that are really measured."""
    seen: list[str] = []
    real = tasks.score

    def spy(model: Any, task: Any, *rest: Any) -> Any:
        seen.append(task.label)
        return real(model, task, *rest)

    monkeypatch.setattr(tasks, "score", spy)
    return seen


def test_the_same_command_goes_on(
    models: tuple[str, str], two: list[str], scored: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = evaluate(models, two, tmp_path / "whole", Settings())
    assert scored == ["first:0", "second:0"] * 2
    assert [r["score"] for r in whole] == [0.6, 0.6, 0.4, 0.4]

    real, calls = tasks.append_line, 0

    def dies_at_the_third(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        real(*arguments)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(tasks, "append_line", dies_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            evaluate(models, two, out, Settings())
    with (out / "results.jsonl").open("a") as file:
        file.write('{"weights": "torn')  # by a power cut
    scored.clear()
    again = evaluate(models, two, out, Settings())
    assert scored == ["first:0", "second:0"]  # of the second weights only
    vary = ("seconds", "time")
    assert [{k: v for k, v in r.items() if k not in vary} for r in again] == [
        {k: v for k, v in r.items() if k not in vary} for r in whole
    ]
    scored.clear()
    assert evaluate(models, two, out, Settings()) == again
    assert scored == []


def test_what_a_record_is_a_record_of(
    models: tuple[str, str], scored: list[str], tmp_path: Path
) -> None:
    """Other documents, shots or weights are measured anew; the same weights elsewhere are not."""
    out, folder = tmp_path / "out", tmp_path / "tasks"
    task = choice_task([ROW] * 4 + [{**ROW, "answer": 1}], "one", folder)

    def measure(*words: str, weights: str = models[0], **settings: Any) -> float:
        scored.clear()
        return float(evaluate([weights], words, out, Settings(**settings))[0]["score"])

    assert measure(str(task)) == 0.8
    assert scored
    assert measure(str(task), limit=4) == 1.0
    assert scored
    measure(f"{task}:1")
    assert scored
    assert measure(str(task), limit=4) == 1.0
    assert not scored
    (tmp_path / "elsewhere").symlink_to(models[0])
    assert measure(str(task), weights=str(tmp_path / "elsewhere")) == 0.8
    assert not scored
    data = folder / "one.jsonl"
    data.write_text("".join(json.dumps({**ROW, "answer": i % 2}) + "\n" for i in range(2)))
    assert measure(str(task)) == 0.5
    assert scored


def test_data_that_are_not_here(
    models: tuple[str, str], two: list[str], scored: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One sentence at once, before any model is loaded; what there is stays."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "empty")
    out = tmp_path / "out"
    evaluate(models[:1], two, out, Settings())
    kept = (out / "results.jsonl").read_bytes()
    scored.clear()
    remote = tmp_path / "remote.yaml"
    remote.write_text(Path(two[0]).read_text().replace("json\n", "nobody/nothing-of-the-name\n")
                      .replace("task: first", "task: remote").partition("dataset_kwargs")[0]
                      + "output_type: multiple_choice\ntest_split: test\n")  # fmt: skip
    began = time.monotonic()
    with pytest.raises(UserError, match=r"task remote: nobody/nothing.* the network is off"):
        evaluate(models, [*two, str(remote)], out, Settings(offline=True))
    assert time.monotonic() - began < 5
    assert scored == []
    assert (out / "results.jsonl").read_bytes() == kept
    assert not datasets.config.HF_HUB_OFFLINE  # as it was


def test_one_process_at_a_time(models: tuple[str, str], two: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (out / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="out is being written by another"):
            evaluate(models, two, out, Settings())
    assert len(evaluate(models, two, out, Settings())) == 4


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no task of the harness"),
        ("output_type: multiple_choice\n", "is no task of the harness|has no key 'task'"),
        ("task: a\ndataset_path: json\ndataset_kwargs: {data_files: {test: no.jsonl}}\n",
         r"bad\.yaml: data_files names no\.jsonl"),
        ("task: a\ndoc_to_text: !function nowhere.f\n", "is no task of the harness: .*nowhere"),
        ("group: a\ntask: [b]\n", "has no key 'task' with a name"),
        ("task: a\nnum_fewshot: 0\ndataset_path: json\n", "a.*: the task is defined with 0 shots"),
    ],
)  # fmt: skip
def test_files_that_are_no_tasks(
    text: str, sentence: str, models: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    word = f"{tmp_path / 'bad.yaml'}{':2' if 'num_fewshot' in text else ''}"
    with pytest.raises(UserError, match=sentence):
        evaluate(models, [word], tmp_path / "out", Settings())
    assert not (tmp_path / "out").exists()


def test_settings_and_weights_that_are_not_valid(
    models: tuple[str, str], two: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="--limit 0; 1 or more is valid"):
        Settings(limit=0)
    with pytest.raises(UserError, match="are the same weights"):
        evaluate([models[0], models[0]], two, tmp_path / "out", Settings())
    other = choice_task([ROW], "first", tmp_path / "others")
    with pytest.raises(UserError, match="2 different tasks are named first:0"):
        evaluate(models, [two[0], str(other)], tmp_path / "out", Settings())
    with pytest.raises(UserError, match="cannot be loaded on device 'abacus'"):
        evaluate(models, two, tmp_path / "out", Settings(device="abacus"))
    assert not (tmp_path / "out" / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "row 2: question = None; a text is valid"),
        ({"question": "?", "choices": ["a"], "answer": 0}, "a list of two texts or more"),
        ({"question": "?", "choices": ["a", ""], "answer": 0}, "a list of two texts or more"),
        ({"question": "?", "choices": ["a", "b"], "answer": 2}, "a number from 0 to 1 is valid"),
        ({"question": "?", "choices": ["a", "b"], "answer": True}, "a number from 0 to 1 is valid"),
    ],
)
def test_rows_that_are_no_questions(row: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        choice_task([ROW, row], "t", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_and_places_of_tasks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task name 'a b'"):
        choice_task([ROW], "a b", tmp_path)
    with pytest.raises(UserError, match="task t has no rows"):
        choice_task([], "t", tmp_path)
    with pytest.raises(UserError, match="row 1: answer = 3; a text is valid"):
        exact_match_task([{"question": "?", "answer": 3}], "t", tmp_path)
    with pytest.raises(UserError, match="tokens = 0; 1 or more"):
        exact_match_task([{"question": "?", "answer": "y"}], "t", tmp_path, tokens=0)
    made = choice_task([ROW], "t", tmp_path)
    before = made.read_bytes()
    with pytest.raises(UserError, match=r"t\.yaml is there already"):
        exact_match_task([{"question": "?", "answer": "y"}], "t", tmp_path)
    assert made.read_bytes() == before
