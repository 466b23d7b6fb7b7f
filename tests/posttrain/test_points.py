from pathlib import Path
from typing import Any

import pytest

from anytrain.errors import UserError
from anytrain.posttrain.measure import Measured
from anytrain.posttrain.points import Key, Points, chosen
from anytrain.posttrain.settings import Settings, passed_on, rates


def tuned(
    lr: float, loss: float | None, score: float, phase: str = "tune"
) -> tuple[Key, dict[str, Any]]:
    values = {"lr": lr, "phase": phase, "selection_loss": loss, "selection_score": score}
    return Key("a", lr, 0), {**values, "diverged": loss is None}


def test_the_best_rate() -> None:
    points = dict([tuned(1e-5, 3.0, 0.2), tuned(1e-4, 1.0, 0.4), tuned(1e-3, 2.0, 0.5),
                   tuned(1e-2, None, 0.9), tuned(1e-6, 2.5, 0.5)])  # fmt: skip
    assert chosen(points, "a", "exact_match") == 1e-3  # not the diverged; of two the lower loss
    assert chosen(points, "a", "loss") == 1e-4
    assert chosen(points, "b", "loss") is None
    points |= dict([tuned(1e-7, 0.1, 1.0, "report")])
    assert chosen(points, "a", "loss") == 1e-4  # what is reported does not choose
    assert chosen(dict([tuned(1e-2, None, 0.9)]), "a", "loss") is None


def test_what_is_not_a_number_is_written_as_none(tmp_path: Path) -> None:
    points = Points(tmp_path)
    row = Measured("0", float("nan"), 3, False)
    points.add(Key("a", 1e-3, 0), {"base": "a", "lr": 1e-3, "seed": 0}, {"report": [row]})
    assert '"loss": null' in (tmp_path / "rows" / "a-lr0.001-seed0.jsonl").read_text()
    assert list(points.read()) == [Key("a", 1e-3, 0)]


def test_one_at_a_time(tmp_path: Path) -> None:
    with Points(tmp_path).locked(), pytest.raises(UserError, match="in use by another finetune"):
        Points(tmp_path).locked().__enter__()
    with Points(tmp_path).locked():
        pass


def test_settings() -> None:
    assert rates("3e-5,1e-5") == [1e-5, 3e-5]
    assert passed_on([], "sft") == {}
    assert passed_on(["sft.weight_decay=1", "sft.optim=sgd"], "sft") == {
        "weight_decay": 1.0, "optim": "sgd",
    }  # fmt: skip
    for word, says in (
        ("sft.gradient_checkpointing=1", "true or false is valid"),
        ("sft.adam_beta2=x", "a number is valid"),
        ("sft.learning_rate=1", "the sweep sets it itself"),
    ):
        with pytest.raises(UserError, match=says):
            passed_on([word], "sft")
    with pytest.raises(UserError, match="--metric exact_match: with --method dpo, accuracy and"):
        Settings("dpo", "exact_match")
    assert [Settings("sft", "loss", epochs=2).steps(n) for n in (1, 128, 129)] == [2, 2, 4]
