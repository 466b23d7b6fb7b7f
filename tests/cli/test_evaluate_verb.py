"""`anytrain evaluate` on a run that is being trained: what it prints, writes and refuses."""

import json
from pathlib import Path

import pytest

from anytrain.posttrain.local_tasks import choice_task, exact_match_task
from tiny import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    from tiny import write_recipe

    folder = tmp_path_factory.mktemp("evaluate")
    made = write_recipe(folder / "r.toml", corpus)
    assert cli("train", made, "--run", folder / "run", "--until", "16").code == 0
    return folder / "run"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    words = ["the", "of", "and", "to", "in", "is"]
    rows = [
        {"question": word, "choices": words, "answer": (i + 1) % 6} for i, word in enumerate(words)
    ]
    choice_task(rows, "next_word", folder)
    exact_match_task([{"question": "the", "answer": "of"}] * 2, "said", folder, tokens=4)
    return folder


def test_two_averages_of_a_run(run: Path, tasks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("evaluate", f"{run}:raw", f"{run}:uniform", "--out", out,
               "--tasks", f"{tasks}/next_word.yaml,{tasks}/said.yaml")  # fmt: skip
    said = cli(*command)
    assert said.code == 0, said.err
    for part in (f"A  {run}@16:raw", f"B  {run}@16:uniform", "acc_norm", "exact_match", "mean of 2",
                 "mean without", "B − A", "± is 95%"):  # fmt: skip
        assert part in said.out, part
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(r["weights"], r["task"]) for r in records] == [
        (f"{run}@16:{name}", task) for name in ("raw", "uniform") for task in ("next_word", "said")
    ]
    found = cli(*command, "--json")  # from the records: nothing is measured
    assert found.err == ""
    printed = json.loads(found.out)
    assert printed["weights"] == [f"{run}@16:raw", f"{run}@16:uniform"]
    cell = printed["tasks"]["next_word:0"][f"{run}@16:uniform"]
    assert cell["score"] == records[2]["score"]
    assert cell["difference"]["mean"] == pytest.approx(records[2]["score"] - records[0]["score"])
    assert len((out / "results.jsonl").read_text().splitlines()) == 4


def test_without_a_directory_nothing_is_left(
    run: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = cli("evaluate", f"{run}:raw", "--tasks", tasks / "next_word.yaml", "--limit", "2")
    assert said.code == 0, said.err
    assert "difference" not in said.out  # one set of weights has none
    assert list(tmp_path.iterdir()) == []


def test_answers_for_a_judge(run: Path, tmp_path: Path) -> None:
    """AlpacaEval's format, from JSON and from JSON lines."""
    rows = [{"instruction": "the of", "dataset": "mine"}, {"instruction": "and to"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outputs = []
    for file in ("a.json", "b.jsonl"):
        out = tmp_path / f"out-{file}"
        said = cli("evaluate", f"{run}:raw", "--instructions", tmp_path / file, "--out", out)
        assert (said.code, "judge them with alpaca_eval" in said.err) == (0, True), said.err
        (written,) = out.glob("answers-*/model_outputs.json")
        outputs.append(json.loads(written.read_text()))
    assert outputs[0] == outputs[1]
    assert [(o["instruction"], o["dataset"], o["generator"]) for o in outputs[0]] == [
        ("the of", "mine", f"{run}@16:raw"), ("and to", "instructions", f"{run}@16:raw")
    ]  # fmt: skip
    assert all(set(o) == {"dataset", "instruction", "output", "generator"} for o in outputs[0])
    assert outputs[0][0]["output"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("{run}:raw", "--tasks or --instructions is needed"),
        ("{run}:raw --instructions x.json", "--out DIR is needed"),
        ("{run}:raw --instructions {tasks}/no.json --out o", "No such file"),
        ("{run}:raw --instructions {tasks}/said.yaml --out o", "is no JSON"),
        ("{run}:raw --instructions {tasks}/said.jsonl --out o", "row 1 has no text 'instruction'"),
        ("{run}:raw --tasks {tasks}/no.yaml", "no such file; a task's name or its YAML"),
        ("{run}:raw --tasks {tasks}/said.yaml --chat", "has no chat template"),
        ("{run}:raw --tasks {tasks}/said.yaml --limit 0", "--limit 0; 1 or more is valid"),
        ("{run}:raw --tasks {tasks}/said.yaml --out {tasks}/said.yaml", "is a file; a directory"),
        ("{run}:ema26 --tasks {tasks}/said.yaml", "did you mean 'ema25'?"),
        ("{run}x --tasks {tasks}/said.yaml", "is not a run"),
        ("{run}:raw {run}@16:raw --tasks {tasks}/said.yaml", "are the same weights"),
    ],
)
def test_what_is_not_valid(
    words: str, sentence: str, run: Path, tasks: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    said = cli("evaluate", *words.format(run=run, tasks=tasks).split())
    assert (said.code, sentence in said.err) == (2, True), said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "o").exists()
