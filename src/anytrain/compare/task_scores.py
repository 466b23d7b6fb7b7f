"""Scores of several weights on several tasks: means, what one task decides, paired differences.

The mean over K tasks counts every task alike, M = (1/K) Σ_k s_k, with the standard error
(1/K) √(Σ_k e_k²) of independent tasks. All weights answer the same documents, so the difference of
two is surer than each: on a task it is the mean of the documents' differences d_i with the paired-t
interval of `paired.over_seeds`, and over tasks (1/K) Σ_k d̄_k with the error (1/K) √(Σ_k e_k²) on

    ν = (Σ_k e_k²)² / Σ_k e_k⁴/(n_k − 1)                           (Welch 1947, Satterthwaite 1946)

degrees of freedom. That is the spread over documents alone: other seeds of training are other
weights. Leaving one task out at a time shows whether a single one decides which weights are best.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

from anytrain.compare.paired import Interval, over_seeds
from anytrain.errors import UserError
from anytrain.files import inside, read_lines
from anytrain.forms import DOCUMENT

Record = Mapping[str, Any]
Documents = dict[tuple[str, int, str], float]  # task, number, checksum of the text -> score


@dataclass(frozen=True)
class Cell:
    """One task of one of the weights."""

    metric: str
    in_mean: bool  # whether it is a share of right answers, which alone are averaged
    score: float
    stderr: float | None
    documents: int
    truncated: int  # requests cut to fit the model's context
    file: Path

    @cached_property
    def scores(self) -> Documents:
        """Of every document that has a number."""
        found = read_lines(self.file, DOCUMENT)
        return {
            (line["task"], line["doc"], line["hash"]): line["score"]
            for line in found
            if line.get("score") is not None
        }


@dataclass(frozen=True)
class Without:
    """The means when one task is left out."""

    task: str
    means: tuple[float, ...]  # in the order of the weights
    flips: bool  # whether the order of the weights is another than with all tasks


@dataclass(frozen=True)
class TaskScores:
    """Every weights on every task; the first weights are what the others are compared with."""

    weights: tuple[str, ...]
    tasks: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]  # by weights and task

    @property
    def averaged(self) -> tuple[str, ...]:
        """Tasks that the mean is over: their metric is the same for all weights, and a share."""
        return tuple(task for task in self.tasks if self._alike(task))

    def _alike(self, task: str) -> bool:
        cells = [self.cells[name, task] for name in self.weights]
        return all(cell.in_mean and cell.metric == cells[0].metric for cell in cells)

    def mean(self, weights: str) -> tuple[float, float | None] | None:
        """Mean over tasks and its standard error; None where no task can be averaged."""
        cells = [self.cells[weights, task] for task in self.averaged]
        if not cells:
            return None
        errors = [cell.stderr for cell in cells if cell.stderr is not None]
        whole = len(errors) == len(cells)
        error = sqrt(sum(e * e for e in errors)) / len(cells) if whole else None
        return sum(cell.score for cell in cells) / len(cells), error

    def left_out(self) -> list[Without]:
        """The means without each of the tasks, where there are two or more."""
        tasks = self.averaged
        if len(tasks) < 2:
            return []
        order = _order(self._means(tasks))
        found = []
        for out in tasks:
            means = self._means([task for task in tasks if task != out])
            found.append(Without(out, means, _order(means) != order))
        return found

    def _means(self, tasks: Sequence[str]) -> tuple[float, ...]:
        return tuple(
            sum(self.cells[name, task].score for task in tasks) / len(tasks)
            for name in self.weights
        )

    def difference(self, weights: str, task: str) -> Interval | None:
        """Of `weights` to the first ones over a task's documents; None where these do not pair."""
        theirs, first = self.cells[weights, task], self.cells[self.weights[0], task]
        if theirs.metric != first.metric or theirs.scores.keys() != first.scores.keys():
            return None
        if not first.scores:
            return None
        return over_seeds([theirs.scores[key] - value for key, value in first.scores.items()])

    def mean_difference(self, weights: str) -> Interval | None:
        """Of the means over tasks, from the differences of documents."""
        found = [self.difference(weights, task) for task in self.averaged]
        pairs = [interval for interval in found if interval is not None]
        if not pairs or len(pairs) < len(found):
            return None
        return _over_tasks(pairs)


def _over_tasks(pairs: Sequence[Interval]) -> Interval:
    count, documents = len(pairs), sum(pair.seeds for pair in pairs)
    mean = sum(pair.mean for pair in pairs) / count
    errors = [pair.error for pair in pairs if pair.error is not None]
    if len(errors) < count:
        return Interval(mean, documents)
    total = sum(e * e for e in errors)
    spread = sum((pair.error or 0.0) ** 4 / (pair.freedom or 1.0) for pair in pairs)
    freedom = total * total / spread if spread else float(documents - count)
    return Interval(mean, documents, sqrt(total) / count, freedom)


def _order(means: Sequence[float]) -> list[int]:
    """For every mean, how many are above it: equal means have equal places."""
    return [sum(other > mean for other in means) for mean in means]


def task_scores(records: Sequence[Record], folder: Path) -> TaskScores:
    """The records of DIR/results.jsonl; UserError where one is missing for a pair or a file lies.

    `folder` is DIR, which holds the documents' scores.
    """
    weights = tuple(dict.fromkeys(str(record["weights"]) for record in records))
    tasks = tuple(dict.fromkeys(str(record["label"]) for record in records))
    cells = {(str(r["weights"]), str(r["label"])): _cell(r, folder) for r in records}
    for name in weights:
        for task in tasks:
            if (name, task) not in cells:
                raise UserError(f"{folder}: {name} has no score on {task}; the others have")
    return TaskScores(weights, tasks, cells)


def _cell(record: Record, folder: Path) -> Cell:
    error = record.get("stderr")
    file = inside(folder / "documents", str(record["file"]))
    if not file.is_file():
        raise UserError(f"{file} is missing, which {folder / 'results.jsonl'} names")
    return Cell(
        metric=str(record["metric"]),
        in_mean=record.get("in_mean") is True,
        score=float(record["score"]),
        stderr=None if error is None else float(error),
        documents=int(record["documents"]),
        truncated=int(record["truncated"]),
        file=file,
    )
