"""arXiv:2603.16127's results, our own differences beside its."""

from collections.abc import Iterator

from anytrain.compare.post import PostResults, decimals
from anytrain.compare.published import Stage, beside, best_published, published
from anytrain.report.sections import Cell, Section, Table, number
from anytrain.words import signed

_ONE_SEED = "other data, tasks and sizes than here: signs compare, numbers do not."


def published_sections(results: PostResults) -> Iterator[Section]:
    """Differences side by side for the stages that the study has, then the paper's own numbers."""
    stages: tuple[Stage, ...] = ("two", "three")
    side = {stage: table for stage in stages if (table := _beside(results, stage)) is not None}
    whole = [_whole(stage) for stage in side or stages[:1]]
    yield Section("What arXiv:2603.16127 reports", tables=(*side.values(), *whole))


def _beside(results: PostResults, stage: Stage) -> Table | None:
    other, found = beside(results, stage)
    if other is None or len(found) < 2:
        return None
    models = list(dict.fromkeys(row.model for row in published(stage)))
    best = {model: best_published(stage, model) for model in models}
    digits = decimals([row.ours for row in found])
    rows = tuple(
        (
            Cell(row.base), Cell(row.arm),
            Cell(row.ours.text(digits, 100), row.ours.mean) if row.ours else Cell("—"),
            *(Cell(signed(row.theirs.get(model), 1), row.theirs.get(model)) for model in models),
        )
        for row in found
    )  # fmt: skip
    return Table(
        ("base", "the paper's arm", "here", *models),
        rows,
        f"Score after fine-tuning minus the best decayed arm's, {stage} stages",
        (
            f"Points. Here: minus {other}'s, with 95% intervals over seeds.",
            "The paper, one seed: minus "
            + ", ".join(f"{row.arm} at {model}" for model, row in best.items())
            + f"; {_ONE_SEED}",
        ),
    )


def _whole(stage: Stage) -> Table:
    rows = tuple(
        (Cell(r.model), Cell(r.arm), number(r.loss, 3), number(r.score, 1), Cell(r.rate or "—"))
        for r in published(stage)
    )
    after = "loss after mid-training" if stage == "three" else "pre-training loss"
    columns = ("model", "schedule", after, "score after fine-tuning", "rate")
    name = stage.capitalize()
    return Table(columns, rows, f"{name}-stage results of the paper", (f"One seed; {_ONE_SEED}",))
