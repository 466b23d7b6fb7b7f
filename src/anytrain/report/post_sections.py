"""The page of a post-training study: answers, the scatter, differences, sharpness, rates."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from anytrain.compare.correlation import Correlation, correlation, task_correlation
from anytrain.compare.paired import Interval, over_seeds
from anytrain.compare.post import (
    PostResults,
    answers,
    best,
    decimals,
    forgetting,
    leave_one_out,
    members,
    minus_means,
    per_seed,
)
from anytrain.report.key_figures import KeyFigure
from anytrain.report.post_charts import differences, forgotten, rates, scatter
from anytrain.report.post_published import published_sections
from anytrain.report.sections import Cell, Section, Table, number
from anytrain.report.sharpness_chart import sharpness_charts
from anytrain.words import chance, signed


def headline(results: PostResults) -> str:
    """The first question that is answered, in a sentence."""
    found = answers(results)
    known = [a for a in found if a.word != "not measured"]
    if not known:
        done, count = results.steps
        return f"{done} of {count} steps are done; nothing can be compared yet."
    return " ".join(f"{a.question} {a.word.capitalize()}: {a.numbers}." for a in known[:2])


def key_figures(results: PostResults) -> tuple[KeyFigure, ...]:
    """The best of each kind."""
    out = []
    for kind, label in (("raw", "Never decayed"), ("decayed", "Decayed"), ("averaged", "Averaged")):
        base = best(results, kind)  # type: ignore[arg-type]
        if base is not None:
            mean = over_seeds(list(per_seed(results, base, results.tasks).values()))
            note = "one seed" if mean.half is None else f"± {100 * mean.half:.1f}"
            out.append(KeyFigure(label, f"{100 * mean.mean:.1f}%", f"{base}, {note}"))
    return tuple(out)


def sections(results: PostResults, command: str) -> tuple[Section, ...]:
    """Every part that has something to say."""
    parts = [_answers(results), *_scores(results), *_sharpness(results), *_along(results),
             *_rates(results),
             *_lost(results), *published_sections(results)]  # fmt: skip
    done, count = results.steps
    seeds = ", ".join(map(str, results.seeds))
    facts = {**results.facts, "seeds": seeds, "steps": f"{done} of {count} done",
             "figures": "also as PNG and PDF, in figures/ beside this file",
             "regenerate": command}  # fmt: skip
    return (*parts, Section("The study", facts=facts))


def _answers(results: PostResults) -> Section:
    rows = tuple(
        (Cell(a.question), Cell(a.word, mark="ahead" if a.word == "yes" else ""), Cell(a.numbers))
        for a in answers(results)
    )
    notes = (
        "Scores are percentages of the report rows, means over tasks; 95% intervals over "
        "pre-training seeds in brackets.",
        "Means over all bases of a kind choose nothing. The best base of a kind is chosen on the "
        "rows it is reported on, which favours each kind by as much as it has members.",
    )
    return Section("Answers", tables=(Table(("question", "answer", "numbers"), rows, "Answers",
                                            notes),))  # fmt: skip


def _level(found: Interval | None, digits: int = 4, scale: float = 1.0) -> Cell:
    if found is None:
        return Cell("—")
    return Cell(found.around(digits, scale, sign=False), scale * found.mean)


def _points(columns: Sequence[Sequence[Interval | None]], *, sign: bool) -> list[list[Cell]]:
    """Columns of scores or of their differences, each with decimals of its own."""
    return [[_of_points(found, decimals(column), sign) for found in column] for column in columns]


def _of_points(found: Interval | None, digits: int, sign: bool) -> Cell:
    if found is None:
        return Cell("—")
    return Cell(found.around(digits, 100, sign=sign), 100 * found.mean)


def _scores(results: PostResults) -> Iterator[Section]:
    other = best(results, "decayed")
    charts = [scatter(results, "loss"), differences(results, other) if other else None]
    of_tasks = [[task] for task in results.tasks] + [list(results.tasks)]
    scores = _points(
        [[_mean(per_seed(results, base, tasks)) for base in results.bases] for tasks in of_tasks],
        sign=False,
    )
    rows = []
    for i, (base, kind) in enumerate(results.bases.items()):
        losses = {
            p.seed: p.loss for p in results.pretrained if p.base == base and p.loss is not None
        }
        rows.append(
            (Cell(base), Cell(kind), _level(_mean(losses)), *(column[i] for column in scores))
        )
    columns = ("base", "kind", "pre-training loss", *results.tasks, "mean score")
    tables = [Table(columns, tuple(rows), "Before and after fine-tuning",
                    ("Means over pre-training seeds with 95% intervals.",))]  # fmt: skip
    tables += [*_by_task(results), *_without(results)]
    yield Section(
        "Loss before and score after",
        charts=tuple(chart for chart in charts if chart is not None), tables=tuple(tables),
    )  # fmt: skip


def _mean(by_seed: Mapping[int, float]) -> Interval | None:
    return over_seeds(list(by_seed.values())) if by_seed else None


def _to_decayed(results: PostResults) -> list[tuple[str, list[str], list[str]]]:
    """(name, bases, the decayed ones beside them): every base, and the averaged ones together."""
    decayed, averaged = members(results, "decayed"), members(results, "averaged")
    found = [(base, [base], [o for o in decayed if o != base]) for base in results.bases]
    if len(averaged) > 1:
        found.append((f"mean of {len(averaged)} averaged", averaged, decayed))
    return found


def _by_task(results: PostResults) -> list[Table]:
    """Minus the mean of the decayed bases, task by task: nothing is chosen."""
    compared = _to_decayed(results)
    of_tasks = [[task] for task in results.tasks]
    heads = ["base", *results.tasks]
    if len(results.tasks) > 1:
        of_tasks.append(list(results.tasks))
        heads.append("all tasks")
    columns = [[minus_means(results, bases, others, tasks) for _, bases, others in compared]
               for tasks in of_tasks]  # fmt: skip
    if not any(found is not None for column in columns for found in column):
        return []
    cells = _points(columns, sign=True)
    rows = [(Cell(name), *(column[i] for column in cells)) for i, (name, *_) in enumerate(compared)]
    notes = ("Points, paired by pre-training seed, with 95% intervals. A decayed base is compared "
             "with the others.",)  # fmt: skip
    title = "Score minus the mean of the decayed bases, task by task"
    return [Table(tuple(heads), tuple(rows), title, notes)]


def _without(results: PostResults) -> list[Table]:
    """The same without each task in turn."""
    if len(results.tasks) < 2:
        return []
    found = [
        (name, whole, leave_one_out(results, bases, others))
        for name, bases, others in _to_decayed(results)
        if (whole := minus_means(results, bases, others)) is not None
    ]
    if not found:
        return []
    columns: list[list[Interval | None]] = [[whole for _, whole, _ in found]]
    columns += [[rest.get(task) for _, _, rest in found] for task in results.tasks]
    cells = _points(columns, sign=True)
    rows = [(Cell(name), *(column[i] for column in cells)) for i, (name, *_) in enumerate(found)]
    heads = ("base", "all tasks", *(f"without {task}" for task in results.tasks))
    notes = ("A sign that turns without one task says that this task carries the difference.",)
    title = "Score minus the mean of the decayed bases, leaving tasks out"
    return [Table(heads, tuple(rows), title, notes)]


def _sharpness(results: PostResults) -> Iterator[Section]:
    chart = scatter(results, "trace")
    if chart is None:
        return
    found = correlation(results, "trace")
    said = "Neither side varies." if found is None else (
        f"Pearson's r between trace and score is {signed(found.r, 2)} over n = {found.n} bases"
        f"{_by_chance(found)}. arXiv:2603.16127 reports −0.71 over n = 7, which is p = 0.07. "
        "Bases that are made of one run are not independent of each other, so p is too small here."
    )  # fmt: skip
    tasks = [t for t in results.tasks if any(t in p.task_traces for p in results.pretrained)]
    table = Table(("base", "pre-training text", "standard error over probes", *tasks),
                  tuple(_traces(results, tasks)), "Trace of the Hessian of the loss before tuning",
                  tuple(_task_correlations(results, tasks)))  # fmt: skip
    yield Section("Sharpness", (said,), (chart,), (table,))


def _traces(results: PostResults, tasks: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    for base in results.bases:
        found = [p for p in results.pretrained if p.base == base and p.trace is not None]
        if not found:
            continue
        errors = [p.trace_stderr for p in found if p.trace_stderr is not None]
        cells = [Cell(base), _level(over_seeds([float(p.trace or 0) for p in found]), 1),
                 number(fmean(errors) if errors else None, 2)]  # fmt: skip
        for task in tasks:
            values = [p.task_traces[task] for p in found if task in p.task_traces]
            cells.append(_level(over_seeds(values) if values else None, 1))
        yield tuple(cells)


def _task_correlations(results: PostResults, tasks: Sequence[str]) -> Iterator[str]:
    """Whether the trace on a task's rows goes with the score on it."""
    for task in tasks:
        found = task_correlation(results, task)
        if found is not None:
            r = f"{signed(found.r, 2)}, n = {found.n}{_by_chance(found)}"
            yield f"On the rows of {task}, r with its score is {r}."


def _by_chance(found: Correlation) -> str:
    return "" if found.p is None else f", {chance(found.p)}"


def _along(results: PostResults) -> Iterator[Section]:
    """Traces at moments of each run, one pre-training seed."""
    charts = tuple(sharpness_charts(results.along).values())
    if charts:
        yield Section(
            "Sharpness along training", (f"Of seed {results.seeds[0]}, raw weights.",), charts[:1]
        )


def _rates(results: PostResults) -> Iterator[Section]:
    charts = [chart for task in results.tasks if (chart := rates(results, task)) is not None]
    if not charts:
        return
    rows = []
    for base in results.bases:
        cells = [Cell(base)]
        for task in results.tasks:
            chosen = [o.lr for o in results.outcomes if (o.base, o.task) == (base, task)]
            cells.append(Cell(", ".join(f"{rate:g}" for rate in chosen) or "—"))
        rows.append(tuple(cells))
    table = Table(("base", *results.tasks), tuple(rows), "Chosen fine-tuning rates, a seed each")
    yield Section("Which rate each base prefers", charts=tuple(charts), tables=(table,))


def _lost(results: PostResults) -> Iterator[Section]:
    chart = forgotten(results)
    if chart is None:
        return
    risen = [(base, forgetting(results, base)) for base in results.bases]
    rows = tuple(
        (Cell(base), Cell(found.around(), found.mean) if found else Cell("—"))
        for base, found in risen
    )
    table = Table(("base", "rise of pre-training loss"), rows, "Forgetting, nats/token",
                  ("At the rate each base was given: a higher rate forgets more.",))  # fmt: skip
    yield Section("What fine-tuning forgot", charts=(chart,), tables=(table,))
