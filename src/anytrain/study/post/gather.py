"""From what fine-tuning and curvature wrote to a study's results. No torch."""

from collections.abc import Iterable, Iterator, Mapping
from math import exp
from statistics import fmean
from typing import Any

from anytrain.compare.post import Kind, Outcome, PostResults, Pretrained
from anytrain.files import read_lines
from anytrain.posttrain.points import Key, Point, Points, chosen
from anytrain.schedules import Constant, Cosine, Linear
from anytrain.study.post.conducted import PostStudy
from anytrain.study.post.design import Design, Task
from anytrain.words import tokens

Record = Mapping[str, Any]


def kind(design: Design, name: str) -> Kind:
    """How a base came to be: an average, or a run whose last rate is below its peak, or raw."""
    base = design.table.bases[name]
    if base.way in ("average", "merge"):
        return "averaged"
    if base.way == "decay":
        return "decayed"
    if base.way == "mid":
        return "decayed" if base.final not in (None, 1.0) else kind(design, str(base.of))
    return "decayed" if design.ends_by_itself(name) else "raw"


def arm(design: Design, name: str) -> str | None:
    """What arXiv:2603.16127 calls a base (`compare.published`); None: it ran no such one."""
    base = design.table.bases[name]
    if base.way != "mid":
        found = _pretrained(design, name)
        return found and (found[0] if found[0] == "WSO" else f"{found[0]} a={found[1]:g}")
    found = _pretrained(design, str(base.of))
    if found is None:
        return None
    before, after = found[1], 1.0 if base.final is None else base.final
    family = "WSD" if found[0] == "WSO" and after < 1 else found[0]
    return f"{family} ({before:g},{after:g})"


def _pretrained(design: Design, name: str) -> tuple[str, float] | None:
    """The paper's name of a schedule of pre-training, and α_pre, the share of the rate left."""
    base = design.table.bases[name]
    if base.way == "decay":
        trunk = _pretrained(design, str(base.of))
        return ("WSD", base.final or 0.0) if trunk == ("WSO", 1.0) else None
    if base.way != "train":
        return None
    schedule = design.recipe(name, design.table.seeds[0]).built_schedule()
    match schedule:
        case Constant():
            return "WSO", 1.0
        case Linear() | Cosine():
            return type(schedule).__name__, schedule.final
    return None


def results(study: PostStudy) -> PostResults:
    """All that is there."""
    design = study.design
    table = design.table
    outcomes: list[Outcome] = []
    before: list[Pretrained] = []
    for name in table.bases:
        for seed in table.seeds:
            losses: list[float] = []
            for task, how in table.tasks.items():
                folder = study.out / "finetuned" / task / f"{name}-s{seed}"
                points = Points(folder).read()
                losses += _known(p for p in points.values() if p["phase"] == "before")
                choosing = points
                if (by := design.tuned_by(seed)) != seed:
                    choosing = Points(folder.with_name(f"{name}-s{by}")).read()
                outcomes += _outcomes(name, seed, task, how.metric, points, choosing)
            traces = {record["data"]: record["trace"] for record in
                      read_lines(study.out / "sharpness" / f"{name}-s{seed}.jsonl")}  # fmt: skip
            tasks = {task: traces.pop(how.data)["mean"] for task, how in table.tasks.items()
                     if how.data in traces}  # fmt: skip
            trace: Record = next(iter(traces.values()), {})  # what is left is of the corpus
            if losses or trace:
                before.append(
                    Pretrained(name, seed, fmean(losses) if losses else None,
                               trace.get("mean"), trace.get("stderr"), tasks)
                )  # fmt: skip
    done = sum(study.over(step) for step in study.steps.values())
    return PostResults(
        table.name, {name: kind(design, name) for name in table.bases}, tuple(table.seeds),
        tuple(table.tasks), tuple(outcomes), tuple(before), _facts(design),
        (done, len(study.steps)),
        tuple(record for name in table.bases
              for record in read_lines(study.out / "sharpness" / f"along-{name}.jsonl")),
        {name: found for name in table.bases if (found := arm(design, name)) is not None},
    )  # fmt: skip


def _known(points: Iterable[Point]) -> list[float]:
    """Losses on pre-training text, where they were measured."""
    found = (point.get("retention_loss") for point in points)
    return [float(loss) for loss in found if loss is not None]


def _outcomes(
    base: str, seed: int, task: str, metric: str, points: Mapping[Key, Point],
    choosing: Mapping[Key, Point],
) -> Iterator[Outcome]:  # fmt: skip
    """The outcome of one sweep, once a seed is there at the rate that is the best now.

    The rate is chosen by the points of `choosing`, the same ones or another seed's.

    A sweep that rates were added to has reports at rates that were the best before.
    """
    best = {chosen(choosing, key.base, metric) for key in choosing}
    reported = [p for key, p in points.items()
                if p["phase"] == "report" and not p["diverged"] and key.lr in best]  # fmt: skip
    if not reported:
        return
    kept = _known(reported)
    tuned = sorted((p["lr"], None if p["diverged"] else _score(p, "selection", metric))
                   for p in points.values() if p["phase"] == "tune")  # fmt: skip
    yield Outcome(
        base, seed, task, reported[0]["lr"],
        tuple(_score(p, "report", metric) for p in reported), tuple(tuned),
        fmean(kept) if kept else None,
    )  # fmt: skip


def _score(point: Point, part: str, metric: str) -> float:
    """0 to 1: the share of exact answers, or exp(−loss), what a token of them is given on average.

    The geometric mean of the probabilities: a score that is averaged with shares of exact answers.
    """
    if metric == "loss":
        return exp(-float(point[f"{part}_loss"]))
    return float(point[f"{part}_score"])


def _facts(design: Design) -> dict[str, str]:
    table = design.table
    recipe = design.recipe(next(n for n, b in table.bases.items() if b.way == "train"),
                           table.seeds[0])  # fmt: skip
    return {
        "model": ", ".join(f"{key} {value}" for key, value in recipe.table()["model"].items()),
        "pre-training": f"{tokens(design.tokens.amount)} tokens of {recipe.data.path}",
        "fine-tuning rates": ", ".join(f"{rate:g}" for rate in table.finetune.lr)
        + f", chosen on {table.finetune.tune}",
        **{f"task {name}": _task(how) for name, how in table.tasks.items()},
    }


def _task(how: Task) -> str:
    rates = "" if how.lr is None else f", rates {', '.join(f'{rate:g}' for rate in how.lr)}"
    settings = "".join(f", {key} {value}" for key, value in how.settings.items())
    return f"{how.data}, {how.metric}{rates}{settings}"
