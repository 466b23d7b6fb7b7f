"""What does not knowing the budget cost? Writes the tables and the figures beside this.

python experiments/0004-anytime-regret/run.py [WORKERS]

Each panel is kept in `parts/` (not in the repository) when it is done: a run that is stopped goes
on with those that are missing.
"""

import pickle
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from outside import MIDDLE, Shape, Values, begin_rates, knots, rate_axes, shapes, two_powers

from anytrain import rules, schedules
from anytrain.report.theory_advice import rule_text, shape, to_csv
from anytrain.report.theory_regret import by_budget, by_width
from anytrain.theory.baselines import ARMS, Baseline, baselines
from anytrain.theory.plans import FURTHER, Bench
from anytrain.theory.problem import Problem
from anytrain.theory.regret import Advice, Candidate, Range, advise, compare, families, horizons

HERE = Path(__file__).parent
PANELS = ((1.5, 3.0), (1.9, 3.8), (1.1, 2.2), (1.5, 1.5))
LAST, WIDEST = 1_000_000, 1_000  # steps; the last budget over the first
WIDTHS = tuple(10 ** (k / 2) for k in range(7))
FREE_FORM = (1_000, 10_000, 100_000)  # budgets, steps
# The first panel otherwise: noise, batch, horizons a decade
OTHERWISE = ((0.01, 1, 8), (0.001, 1, 4), (0.1, 1, 4), (0.01, 16, 4))
NAMES = {"two powers": "two exponents", "knots": "free form"}
Row = dict[str, Any]


# --- baselines and widths --------------------------------------------------------------------


def lines_of(bench: Bench) -> list[Baseline]:
    """Every arm at every horizon; cosine and linear with an average where schedules warm up."""
    arms = (*ARMS, *FURTHER) if bench.warmup else ARMS
    return baselines(bench, horizons(LAST // WIDEST, LAST), arms)


def baseline_rows(bench: Bench, lines: Sequence[Baseline]) -> Iterable[Row]:
    for line, arm in [(one, arm) for one in lines for arm in one.arms]:
        yield {
            **_problem(bench),
            "budget": line.horizon,
            "arm": arm.name,
            "risk": arm.risk,
            "ratio": arm.risk / line.best.risk,
            "multiplier": (schedules.peak(arm.schedule) or 0.0) * bench.trace,
            "schedule": schedules.spec(arm.schedule),
            "rule": rule_text(arm.rule),
            "edges": "+".join(arm.edges),
            "evaluations": arm.evaluations,
        }


def width_row(bench: Bench, width: float, one: Candidate, decayed: np.ndarray) -> Row:
    exponent, offset, warmup = shape(one)
    against = np.array(one.risk) / decayed
    return {
        **_problem(bench),
        "width": width,
        "family": one.family,
        "regret": one.regret,
        "worst": one.worst,
        "least_to_decayed": float(against.min()),
        "most_to_decayed": float(against.max()),
        "multiplier": one.multiplier,
        "exponent": exponent,
        "offset": offset,
        "warmup_steps": warmup,
        "rule": rules.spec(one.rule),
        **{f"regret_{kind}": regret for kind, regret in one.rules.items()},
        "edges": "+".join(one.edges),
        "evaluations": one.evaluations,
    }


def span_of(lines: Sequence[Baseline], width: float) -> tuple[Range, np.ndarray]:
    """The horizons of the last `width`, their best risks, and those of the decayed arms."""
    within = [line for line in lines if line.horizon >= 0.97 * LAST / width]
    at = tuple(line.horizon for line in within)
    best = np.array([line.best.risk for line in within])
    return Range(at, best), np.array([line.decayed.risk for line in within])


# --- outside the families --------------------------------------------------------------------


Found = dict[tuple[str, str], Values]  # what each shape came to, by schedule and averages


def outside_rows(bench: Bench, lines: Sequence[Baseline], best: Candidate) -> Iterable[Row]:
    """Each shape begins from the simpler ones before it; the widest range."""
    span, _ = span_of(lines, WIDEST)
    exponent, offset, warmup = shape(best)
    level = best.schedule(MIDDLE) * bench.trace
    power = {"level": level, "warmup": warmup, "exponent": exponent, "offset": offset}
    found: Found = {("one power", ""): {**power, "average": getattr(best.rule, "p", 1.0)}}
    for kind in shapes(bench, span):
        ended = kind.search(bench, span, _begin(bench, kind, found), 1e-3)
        found[kind.schedule, kind.average] = ended.values
        regret, weights = kind.exact(bench, span, ended.values)
        yield {
            **_problem(bench),
            "schedule": NAMES.get(kind.schedule, kind.schedule),
            "averages": kind.average,
            "regret": regret,
            "in_strides": ended.least,
            "settings": " ".join(f"{n}={v:.4g}" for n, v in ended.values.items()),
            "p": " ".join(f"{p:.3g}" for p in kind.powers(ended.values)),
            "weights": " ".join(f"{c:.3f}" for c in weights),
            "evaluations": ended.evaluations,
        }


def _begin(bench: Bench, kind: Shape, found: Found) -> list[Values]:
    match kind.schedule, kind.average:
        case "one power", "one":
            return [found["one power", ""]]
        case "two powers", "one":
            bends = [{"more": m, "bend": at} for m in (-0.2, 0.2) for at in (3e3, 1e5)]
            return [{**found["one power", "one"], **bend} for bend in bends]
        case "two powers", "two":
            straight = {**found["one power", "two"], "more": 0.0, "bend": 3e3}
            return [straight, *_further(found["two powers", "one"])]
        case "knots", "one":
            values = found["two powers", "one"]
            schedule = two_powers(bench, values)
            rates = begin_rates(schedule, bench, rate_axes(bench, LAST))
            return [{**rates, "average": values["average"]}]
        case "knots", _:
            return [found["knots", "one"]]
    return _further(found["one power", "one"])


def _further(values: Values) -> list[Values]:
    """A second average beside the one of `values`."""
    return [{**values, "further": further} for further in (1.0, 10.0)]


def free_rows(bench: Bench, lines: Sequence[Baseline]) -> Iterable[Row]:
    """Free-form rates and one average, tuned for one budget: how good the arms are."""
    for line in (line for line in lines if line.horizon in FREE_FORM):
        span = Range((line.horizon,), np.array([line.best.risk]))
        axes = [*rate_axes(bench, line.horizon), shapes(bench, span)[0].axes[-1]]
        kind = Shape("knots", "one", knots, lambda values: (values["average"],), axes)
        best = next(arm for arm in line.arms if arm.name == "power + average")
        begin = begin_rates(best.schedule, bench, axes[:-1])
        p = getattr(best.rule, "p", 1.0)
        ended = kind.search(bench, span, [{**begin, "average": p}], 1e-3)
        ratio, _ = kind.exact(bench, span, ended.values)
        yield {
            **_problem(bench),
            "budget": line.horizon,
            "ratio": ratio,
            "settings": " ".join(f"{n}={v:.4g}" for n, v in ended.values.items()),
            "evaluations": ended.evaluations,
        }


# --- all of it -------------------------------------------------------------------------------


def _problem(bench: Bench) -> Row:
    problem = bench.problem
    assert isinstance(problem, Problem)
    return {"capacity": problem.capacity, "source": problem.source, "warmup": bench.warmup}


def kept(task: tuple[Any, ...]) -> Any:
    """The result of one task, made now or by a run before."""
    path = HERE / "parts" / ("-".join(str(x) for x in task).replace(" ", "") + ".pickle")
    if not path.exists():
        result = (panel if len(task) == 2 else otherwise)(task)  # type: ignore[operator]
        path.parent.mkdir(exist_ok=True)
        aside = path.with_suffix(".partial")
        aside.write_bytes(pickle.dumps(result))
        aside.rename(path)
    return pickle.loads(path.read_bytes())


def panel(task: tuple[tuple[float, float], bool]) -> tuple[dict[str, list[Row]], Advice]:
    """All rows of one (a, b), with warmup or without."""
    (a, b), warmup = task
    problem = Problem(500_000, a, b, 0.01)
    bench = Bench(problem, LAST, 1.0, warmup)
    lines = lines_of(bench)
    rows: dict[str, list[Row]] = {"baselines": list(baseline_rows(bench, lines)), "widths": []}
    widest: list[Candidate] = []
    for width in WIDTHS if warmup else WIDTHS[2::2]:
        span, decayed = span_of(lines, width)
        widest = sorted(compare(bench, span, families(problem)), key=lambda one: one.regret)
        rows["widths"] += [width_row(bench, width, one, decayed) for one in widest]
    if warmup:
        best = next(one for one in widest if one.family == "power")
        rows["outside"] = list(outside_rows(bench, lines, best))
        rows["free_form"] = list(free_rows(bench, lines))
    return rows, Advice(problem, 1.0, warmup, tuple(lines), tuple(widest))


def otherwise(task: tuple[float, int, int]) -> list[Row]:
    """The first panel with other noise, another batch or more horizons; the widest range."""
    noise, batch, per_decade = task
    problem = Problem(500_000, *PANELS[0], noise)
    advice = advise(problem, LAST // WIDEST, LAST, batch=batch, per_decade=per_decade)
    decayed = np.array([line.decayed.risk for line in advice.baselines])
    bench = Bench(problem, LAST, batch)
    more = {"noise": noise, "batch": batch, "horizons_a_decade": per_decade}
    return [more | width_row(bench, WIDEST, one, decayed) for one in advice.candidates]


def main(workers: int) -> None:
    with ProcessPoolExecutor(workers) as pool:
        panels = pool.map(kept, [*product(PANELS, (True,)), (PANELS[0], False)])
        other = pool.map(kept, OTHERWISE)
        found = list(panels)
        tables = {"otherwise": [row for rows in other for row in rows]}
    for name in ("baselines", "widths", "outside", "free_form"):
        tables[name] = [row for rows, _ in found for row in rows.get(name, [])]
    for name, rows in tables.items():
        (HERE / f"{name}.csv").write_text(to_csv(list(rows[0]), rows), encoding="utf-8")
    draw([advice for _, advice in found if advice.warmup], found)
    fill(tables)


def draw(advices: Sequence[Advice], found: Sequence[tuple[dict[str, list[Row]], Advice]]) -> None:
    (HERE / "budgets.png").write_bytes(by_budget(*advices))
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for tables, advice in found:
        if not advice.warmup:
            continue
        heading = f"a = {advice.problem.capacity:g}, b = {advice.problem.source:g}"
        for row in tables["widths"]:
            points = curves.setdefault(heading, {}).setdefault(row["family"], [])
            points.append((float(row["width"]), row["regret"]))
    below = f"anytime regret; the last budget is {LAST:,} steps"
    (HERE / "widths.png").write_bytes(by_width(curves, below, ""))


def fill(tables: dict[str, list[Row]]) -> None:
    """The tables of the README, between its markers, from the rows of the CSVs."""
    page, (begin, end) = HERE / "README.md", ("<!-- tables -->", "<!-- end of tables -->")
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(begin)
    page.write_text(
        f"{head}{begin}\n\n{by_family(tables)}\n{outside_table(tables)}\n{end}{rest.split(end)[1]}",
        encoding="utf-8",
    )


def by_family(tables: dict[str, list[Row]]) -> str:
    """Regret by family at the widest range, and what the best is."""
    out = [
        "| a | b | power | offset 1/√t | constant | bare 1/√t | γ | α | warmup | m | average | "
        "power, against the best decayed last iterate |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [r for r in tables["widths"] if r["width"] == WIDEST and r["warmup"]]
    for a, b in PANELS:
        own = {r["family"]: r for r in rows if (r["capacity"], r["source"]) == (a, b)}
        best = own["power"]
        regrets = [own[f]["regret"] for f in ("power", "1/√t", "constant", "1/√t, bare")]
        out.append(
            f"| {a:g} | {b:g} | " + " | ".join(f"{x:.3f}" for x in regrets)
            + f" | {best['exponent']:.2f} | {best['offset']:.0f} | {best['warmup_steps']:.0f} | "
            f"{best['multiplier']:.2g} | `{best['rule']}` | "
            f"{best['least_to_decayed']:.2f} … {best['most_to_decayed']:.2f} |"
        )  # fmt: skip
    return "\n".join(out) + "\n"


def outside_table(tables: dict[str, list[Row]]) -> str:
    """Regret of shapes outside the families, the widest range."""
    kinds = [(r["schedule"], r["averages"]) for r in tables["outside"]]
    kinds = list(dict.fromkeys(kinds))
    out = [
        "| a | b | " + " | ".join(f"{s}, {n} average{'s' * (n != 'one')}" for s, n in kinds) + " |",
        "|---|---|" + "---|" * len(kinds),
    ]
    for a, b in PANELS:
        own = {
            (r["schedule"], r["averages"]): r["regret"]
            for r in tables["outside"]
            if (r["capacity"], r["source"]) == (a, b)
        }
        out.append(f"| {a:g} | {b:g} | " + " | ".join(f"{own[k]:.3f}" for k in kinds) + " |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
