"""Task scores as lines that a person reads, and as one JSON object. Scores are shares of 1."""

from typing import Any

from anytrain.compare.paired import Interval
from anytrain.compare.task_scores import TaskScores
from anytrain.words import signed


def lines(found: TaskScores) -> list[str]:
    """Scores, means, the means without each task, differences to the first weights, warnings."""
    parts = [_scores(found), _left_out(found), _differences(found), _warnings(found)]
    return [line for part in parts if part for line in ["", *part]][1:]


def _named(found: TaskScores) -> dict[str, str]:
    """Letters for weights whose names would make columns too wide."""
    return {name: _letter(number) for number, name in enumerate(found.weights)}


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"W{number + 1}"


def _scores(found: TaskScores) -> list[str]:
    letters = _named(found)
    rows = [["task", "metric", "documents", *letters.values()]]
    for task in found.tasks:
        cells = [found.cells[name, task] for name in found.weights]
        metrics = "/".join(dict.fromkeys(cell.metric for cell in cells))
        rows.append([task, metrics, f"{cells[0].documents:,}",
                     *(_pm(cell.score, cell.stderr) for cell in cells)])  # fmt: skip
    if averaged := found.averaged:
        means = [found.mean(name) for name in found.weights]
        shown = [_pm(*mean) if mean else "—" for mean in means]
        rows.append([f"mean of {len(averaged)}", "", "", *shown])
    legend = [f"{letter}  {name}" for name, letter in letters.items()]
    out = [task for task in found.tasks if task not in found.averaged]
    notes = [f"not in the mean: {', '.join(out)}"] if out else []
    return [*legend, "", *_table(rows), *notes]


def _left_out(found: TaskScores) -> list[str]:
    without = found.left_out()
    if len(found.weights) < 2 or not without:
        return []
    rows = [["mean without", *_named(found).values(), ""]]
    for one in without:
        flips = "the order flips" if one.flips else ""
        rows.append([one.task, *(f"{mean:.4f}" for mean in one.means), flips])
    count = sum(one.flips for one in without)
    said = f"the order of the means flips without {count} of {len(without)} tasks"
    return [*_table(rows), said if count else "no single task decides the order of the means"]


def _differences(found: TaskScores) -> list[str]:
    if len(found.weights) < 2:
        return []
    letters = _named(found)
    others = found.weights[1:]
    rows = [["difference", *(f"{letters[name]} − A" for name in others)]]
    for task in found.tasks:
        rows.append([task, *(_interval(found.difference(name, task)) for name in others)])
    if found.averaged:
        rows.append([f"mean of {len(found.averaged)}",
                     *(_interval(found.mean_difference(name)) for name in others)])  # fmt: skip
    return [*_table(rows), "± is 95%, over the documents, which are the same for all; * without 0"]


def _warnings(found: TaskScores) -> list[str]:
    return [
        f"{name}: {cell.truncated:,} requests of {task} were cut to fit the model's context"
        for (name, task), cell in found.cells.items()
        if cell.truncated
    ]


def _pm(value: float, error: float | None) -> str:
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def _interval(found: Interval | None) -> str:
    if found is None:
        return "—"
    half = f" ± {found.half:.4f}" if found.half is not None else ""
    return f"{signed(found.mean)}{half}{' *' if found.sure else ''}"


def _table(rows: list[list[str]]) -> list[str]:
    """Names to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def summary(found: TaskScores) -> dict[str, Any]:
    """Everything that is printed, in full precision; absent is None."""
    return {
        "weights": list(found.weights),
        "tasks": {
            task: {name: _cell(found, name, task) for name in found.weights}
            for task in found.tasks
        },
        "in_mean": list(found.averaged),
        "mean": {name: _mean(found, name) for name in found.weights},
        "without": {
            one.task: {
                "means": dict(zip(found.weights, one.means, strict=True)), "flips": one.flips
            }
            for one in found.left_out()
        },
    }  # fmt: skip


def _cell(found: TaskScores, name: str, task: str) -> dict[str, Any]:
    cell = found.cells[name, task]
    return {
        "metric": cell.metric,
        "score": cell.score,
        "stderr": cell.stderr,
        "documents": cell.documents,
        "truncated": cell.truncated,
        "difference": _numbers(found.difference(name, task)),
    }


def _mean(found: TaskScores, name: str) -> dict[str, Any] | None:
    mean = found.mean(name)
    if mean is None:
        return None
    return {"score": mean[0], "stderr": mean[1],
            "difference": _numbers(found.mean_difference(name))}  # fmt: skip


def _numbers(found: Interval | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    return {"mean": found.mean, "low": found.low, "high": found.high}
