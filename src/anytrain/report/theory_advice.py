"""What `anytrain theory advise` found, as text, as comma-separated values and as plain data."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from anytrain import rules, schedules
from anytrain.schedules import Constant

if TYPE_CHECKING:
    from anytrain.rules import Rule
    from anytrain.theory.baselines import Tuned
    from anytrain.theory.regret import Advice, Candidate

LAST = "last iterate"
RATIOS = ("family", "budget", "risk", "ratio", "ratio_to_decayed")
FAMILIES = ("family", "regret", "worst", "multiplier", "schedule", "rule", "edges", "evaluations")
BASELINES = ("budget", "arm", "risk", "ratio", "multiplier", "schedule", "rule", "edges")


# --- text ------------------------------------------------------------------------------------


def text(advice: "Advice") -> str:
    """The advice, and the other families beside it."""
    chosen, problem = advice.chosen, advice.problem
    first, last = chosen.horizons[0], chosen.horizons[-1]
    low, high = _ends(advice, chosen)
    head = (
        f"a = {problem.capacity:g}, b = {problem.source:g}, σ² = {problem.noise:g}, "
        f"d = {problem.dim:,}, batch {advice.batch:g}; budgets of {first:,} to {last:,} steps"
    )
    lines = [
        head,
        "",
        f"  schedule    {schedules.spec(chosen.schedule)}",
        f"  multiplier  {chosen.multiplier:.4g}, the peak times tr H",
        f"  average     {rules.spec(chosen.rule)}",
        f"  regret      {chosen.regret:.3f}: at {chosen.worst:,} steps the risk is so many times "
        "the least of what is tuned for the budget",
        f"  decayed     {low:.2f} to {high:.2f} times the risk of the best of WSD, cosine and "
        "linear tuned for the budget",
        "",
        *_table(advice),
        "",
        *_notes(advice),
    ]
    return "\n".join(lines)


def _table(advice: "Advice") -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("", "regret", "worst at", "to decayed", "multiplier", "exponent", "offset", "average")
    ]
    for one in advice.candidates:
        low, high = _ends(advice, one)
        rows.append(
            (
                one.family,
                f"{one.regret:.3f}",
                f"{one.worst:,}",
                f"{low:.2f} to {high:.2f}",
                *(f"{value:.4g}" for value in (one.multiplier, *shape(one)[:2])),
                rules.spec(one.rule),
            )
        )
    first, *rest = (max(len(row[k]) for row in rows) for k in range(len(rows[0])))
    return [
        "  ".join([f"  {name:<{first}}", *(c.rjust(w) for c, w in zip(cells, rest, strict=True))])
        for name, *cells in rows
    ]


def shape(one: "Candidate") -> tuple[float, float, float]:
    """γ, α and the warmup of a candidate's schedule; a constant rate has γ = 0 and α = 1."""
    schedule = one.schedule
    exponent = getattr(schedule, "exponent", 0.0 if isinstance(schedule, Constant) else 0.5)
    return exponent, getattr(schedule, "offset", 1.0), getattr(schedule, "warmup", 0.0)


def _ends(advice: "Advice", one: "Candidate") -> tuple[float, float]:
    against = advice.against_decayed(one)
    return float(against.min()), float(against.max())


def _notes(advice: "Advice") -> list[str]:
    """What the numbers are measured against, and where a search ended at its edge."""
    lines = advice.baselines
    counts = Counter(line.best.name for line in lines)
    best = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
    kinds = ", ".join(f"{kind} {regret:.4f}" for kind, regret in advice.chosen.rules.items())
    notes = [
        f"Tuned for each of {len(lines)} budgets: {', '.join(arm.name for arm in lines[-1].arms)}.",
        f"The least risk was that of {best}.",
        "Decayed: wsd, cosine and linear, read at their last iterate.",
        f"Regret by kind of average: {kinds}.",
        *(["No schedule warms up."] if not advice.warmup else []),
    ]
    notes += [
        f"{one.family}: {', '.join(one.edges)} at an end of the range searched."
        for one in advice.candidates
        if one.edges
    ]
    return notes


# --- data ------------------------------------------------------------------------------------


def record(advice: "Advice") -> dict[str, Any]:
    """Everything, as plain data; the families from the least regret on."""
    problem = advice.problem
    return {
        "capacity": problem.capacity,
        "source": problem.source,
        "noise": problem.noise,
        "dim": problem.dim,
        "batch": advice.batch,
        "warmup": advice.warmup,
        "families": [
            {
                **_family(one),
                "edges": list(one.edges),
                "rules": one.rules,
                "budgets": [
                    {name: row[name] for name in RATIOS if name != "family"}
                    for row in _ratios(advice, one)
                ],
            }
            for one in advice.candidates
        ],
        "baselines": [
            {**row, "edges": row["edges"].split("+") if row["edges"] else []}
            for row in _baselines(advice)
        ],
    }


def families(advice: "Advice") -> str:
    """A row a family."""
    return to_csv(FAMILIES, map(_family, advice.candidates))


def ratios(advice: "Advice") -> str:
    """A row a family and budget."""
    return to_csv(RATIOS, (row for one in advice.candidates for row in _ratios(advice, one)))


def baselines(advice: "Advice") -> str:
    """A row a budget and arm, tuned for it."""
    return to_csv(BASELINES, _baselines(advice))


def _family(one: "Candidate") -> dict[str, Any]:
    return {
        "family": one.family,
        "regret": one.regret,
        "worst": one.worst,
        "multiplier": one.multiplier,
        "schedule": schedules.spec(one.schedule),
        "rule": rules.spec(one.rule),
        "edges": "+".join(one.edges),
        "evaluations": one.evaluations,
    }


def _ratios(advice: "Advice", one: "Candidate") -> list[dict[str, Any]]:
    against = advice.against_decayed(one).tolist()
    rows = zip(one.horizons, one.risk, one.ratios, against, strict=True)
    return [dict(zip(RATIOS, (one.family, *row), strict=True)) for row in rows]


def _baselines(advice: "Advice") -> list[dict[str, Any]]:
    trace = advice.problem.trace
    return [
        {"budget": line.horizon, "ratio": arm.risk / line.best.risk, **_arm(arm, trace)}
        for line in advice.baselines
        for arm in line.arms
    ]


def _arm(arm: "Tuned", trace: float) -> dict[str, Any]:
    return {
        "arm": arm.name,
        "risk": arm.risk,
        "multiplier": (schedules.peak(arm.schedule) or 0.0) * trace,
        "schedule": schedules.spec(arm.schedule),
        "rule": rule_text(arm.rule),
        "edges": "+".join(arm.edges),
    }


def rule_text(rule: "Rule | None") -> str:
    """The spec of a rule, or that the last iterate is read."""
    return LAST if rule is None else rules.spec(rule)


def to_csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Rows of `columns`, numbers to six digits."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: row[name] for name in columns}
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in cells.items()})
    return out.getvalue()
