"""Losses of averages that are rebuilt from what a run kept, at its horizons."""

from collections.abc import Mapping, Sequence

from anytrain import rules as rule_book
from anytrain.grammar import Quantity, WeightsName
from anytrain.losses import keep
from anytrain.merging.rebuild import history
from anytrain.rundir import RunDir
from anytrain.selection.scoring import Scorer
from anytrain.selection.widths import tensors_of
from anytrain.training.evaluate import Loss


def rebuild(run: RunDir, into: RunDir, rules: Mapping[str, str], horizons: Sequence[int]) -> None:
    """Evaluate each rule at each horizon (tokens) as the run itself would have; write records.

    The half of the held-out sequences is the run's own.
    """
    scorer = Scorer(run)
    train = scorer.run.recipe.train
    split = scorer.run.recipe.evaluate.split
    into.path.mkdir(parents=True, exist_ok=True)
    (into.path / "metrics.jsonl").unlink(missing_ok=True)  # of a start that was killed
    for tokens in horizons:
        step = -(-tokens // (train.batch * train.context))
        losses: dict[str, Loss] = {}
        with history(WeightsName(str(run.path), Quantity(float(step), "steps"))) as past:
            for name, spec in rules.items():
                found = past.rebuild(rule_book.rule(spec, train.tokens_per_step))
                losses[name] = Loss.of(scorer.losses(tensors_of(found), split))
        keep(into, step, {name: loss.each.numpy() for name, loss in losses.items()})
        record = {"step": step, "tokens": step * train.batch * train.context, "t": past.t}
        for name, loss in losses.items():
            record |= {f"val/loss/{name}": loss.mean, f"val/stderr/{name}": loss.stderr}
        into.log(record | {"eval_why": "rebuilt"})
