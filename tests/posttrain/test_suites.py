"""The words after --tasks, and whether the installed harness knows every task of the suites."""

from pathlib import Path

import pytest
from task_models import rigged, write

from anytrain.errors import UserError
from anytrain.posttrain.suites import SUITES, Asked, asked
from tiny import cli


def test_words_are_tasks() -> None:
    assert asked(["gsm8k:8,arc_easy", "my/task.yaml:2"]) == [
        Asked("gsm8k", 8), Asked("arc_easy"), Asked("my/task.yaml", 2)
    ]  # fmt: skip
    assert asked(["wso-sft", "truthfulqa_mc2:0"]) == list(SUITES["wso-sft"])  # each of them once
    both = asked(["wso-sft-mid,wso-midtrain"])
    assert Asked("drop", 5) in both
    assert len(both) == len(set(both)) == 6 + 4  # drop:5 is in both
    assert asked(["my/task.yaml:2"])[0].path is not None
    assert asked(["gsm8k:8"])[0].path is None


def test_shots_for_tasks_that_say_none() -> None:
    assert asked(["arc_easy", "gsm8k:8", "my/task.yaml"], shots=2) == [
        Asked("arc_easy", 2), Asked("gsm8k", 8), Asked("my/task.yaml", 2)
    ]  # fmt: skip
    assert asked(["wso-sft-mid"], shots=2) == list(SUITES["wso-sft-mid"])


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.yaml file is in this folder"):
        asked([f"{tmp_path}/"])
    for name in ("b.yaml", "a.yml", "data.jsonl"):
        (tmp_path / name).touch()
    files = [str(tmp_path / name) for name in ("a.yml", "b.yaml")]
    assert asked([f"{tmp_path}/"]) == [Asked(file) for file in files]
    assert asked([f"{tmp_path}:3"]) == [Asked(file, 3) for file in files]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("arc_easy,,piqa", "has an empty name"),
        ("arc_easy:many", "'many' is no number of shots"),
        ("arc_easy:-1", "'-1' is no number of shots"),
        (":5", "NAME:5 is valid"),
        ("wso-sft:5", "wso-sft has its own numbers of shots"),
        ("no/such/folder", "no such folder"),
    ],
)
def test_words_that_are_none(word: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        asked([word])


def test_the_harness_knows_every_task_of_the_suites() -> None:
    """Offline, in its index: the names, and that each of them can have the paper's shots."""
    from anytrain.posttrain import harness, index

    for name, tasks in SUITES.items():
        for one in tasks:
            found = harness.find(one)
            assert [task.name for task in found] == [one.task], name  # no tag, which is several
            assert found[0].shots == one.shots
    cot = index.manager("gsm8k_cot").task_index["gsm8k_cot"].cfg
    assert cot is not None
    assert (cot["num_fewshot"], len(cot["fewshot_config"]["samples"])) == (8, 8)
    bbh = "bbh_cot_fewshot_navigate"
    three = index.manager(bbh).task_index[bbh].cfg
    assert three is not None
    assert three["num_fewshot"] == 3

    assert {task.name for task in harness.find(Asked("truthfulqa"))} == {
        "truthfulqa_gen", "truthfulqa_mc1", "truthfulqa_mc2"
    }  # fmt: skip
    assert harness.find(Asked("gsm8k"))[0].label == "gsm8k:5"  # its own number
    with pytest.raises(UserError, match=r"no task 'arc_esy'.*did you mean 'arc_easy'"):
        harness.find(Asked("arc_esy"))
    with pytest.raises(UserError, match="truthfulqa_mc2:5: the task is defined with 0 shots"):
        harness.find(Asked("truthfulqa_mc2", 5))


def test_a_part_of_the_index_has_what_the_whole_has() -> None:
    """For every task of the suites: the same files, for a group with all that it holds."""
    from anytrain.posttrain import index

    for name in {one.task for tasks in SUITES.values() for one in tasks}:
        part, whole = index.manager(name), index.whole()
        assert len(part.task_index) < len(whole.task_index) / 10
        for inner in [name, *(n for n in part.task_index if n.startswith(name))]:
            assert part.task_index[inner].yaml_path == whole.task_index[inner].yaml_path
            assert part.task_index[inner].tags == whole.task_index[inner].tags


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("gsm8k_cott", "no task 'gsm8k_cott' (did you mean 'gsm8k_cot'?)"),
        ("arc_easy,gsm8k --offline", "allenai/ai2_arc is not on this machine and the network is"),
        ("wso-sft --offline", "truthfulqa/truthful_qa is not on this machine and the network is"),
    ],
)
def test_names_that_the_verb_refuses(
    words: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one sentence, before a directory is made; data of an earlier download do not count."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "none")
    model = write(tmp_path / "m", rigged({}))
    said = cli("evaluate", model, "--out", tmp_path / "out", "--tasks", *words.split())
    assert (said.code, sentence in said.err, said.err.count("\n")) == (2, True, 1), said.err
    assert not (tmp_path / "out").exists()
