"""Validation losses as the metrics hold them."""

from pathlib import Path

from anytrain.evaluations import Evaluation, evaluations, last_evaluation
from anytrain.rundir import RunDir


def test_the_last_evaluation_up_to_a_step(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert evaluations(run) == []
    assert last_evaluation(run, 100) is None
    for step in (1, 5, 9):
        run.log({"step": step, "tokens": 10 * step, "loss": 1.0})
        run.log({"step": step, "tokens": 10 * step, "val/loss/raw": 1.0 / step,
                 "val/stderr/raw": 0.1, "val/loss/ema25": 0.5 / step})  # fmt: skip
    run.log({"step": 10, "tokens": 100, "loss": 1.0})
    nine = Evaluation(9, 90, {"raw": 1 / 9, "ema25": 0.5 / 9}, {"raw": 0.1})
    assert last_evaluation(run, 10) == nine
    assert last_evaluation(run, 8) == Evaluation(5, 50, {"raw": 0.2, "ema25": 0.1}, {"raw": 0.1})
    assert last_evaluation(run, 0) is None
    assert nine.best == ("ema25", 0.5 / 9)
    assert nine.shown("raw") == "0.1111 ± 0.1000"
    assert nine.shown("ema25") == "0.0556"
    assert nine.shown("ema50") == "not measured"
