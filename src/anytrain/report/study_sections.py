"""What a study's page says, part by part, from its findings."""

from anytrain.compare.findings import Findings
from anytrain.compare.winners import winners
from anytrain.report.cost_charts import cost_charts
from anytrain.report.difference_charts import difference_charts, regret_chart
from anytrain.report.loss_charts import loss_charts
from anytrain.report.sections import Cell, Section, Table
from anytrain.report.study_tables import (
    answer,
    asked_table,
    choice_table,
    difference_table,
    loss_table,
    regret_table,
    spent_table,
    transient_table,
    winner_table,
)
from anytrain.report.tuning_charts import average_charts, rate_charts
from anytrain.words import tokens


def own_sections(found: Findings) -> tuple[Section, ...]:
    """The answers, then what they rest on; parts that nothing is known of yet are left out."""
    parts = (
        _answers(found),
        _curves(found),
        _differences(found),
        _transient(found),
        _regret(found),
        _cost(found),
        _averages(found),
        _tuning(found),
    )
    return tuple(part for part in parts if part.charts or part.tables)


def facts(found: Findings, command: str) -> Section:
    """The last part: model, data, batch, device, versions, seeds, and the command."""
    results = found.results
    done, known = results.jobs
    return Section(
        "The study",
        facts={
            "unit": f"{tokens(results.unit)} tokens",
            **results.facts,
            "horizons": ", ".join(f"{h:g}×" for h in results.horizons),
            "seeds": f"tuned with {_list(results.tune_seeds)}, "
            f"reported with {_list(results.report_seeds)}",
            "jobs": f"{done} of {known} done, {tokens(results.trained)} tokens trained",
            "figures": "also as PNG and PDF, in figures/ beside this file",
            "regenerate": command,
        },
    )


def _list(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _answers(found: Findings) -> Section:
    rows = tuple((Cell(v.question), answer(v), Cell(v.numbers or "—")) for v in found.verdicts)
    note = "Differences in nats/token, with 95% intervals over seeds in brackets."
    settled = "Not settled: report seeds are missing, or the interval has both answers inside."
    lost = [
        f"{arm} diverged before {h:g}× on seed {seed}, and that seed is missing from its means."
        for arm, h, seed in found.results.diverged
    ]
    table = Table(("question", "answer", "numbers"), rows, "What was asked", (note, settled, *lost))
    others = asked_table(found)
    return Section("Answers", tables=(table, *((others,) if others else ())))


def _curves(found: Findings) -> Section:
    table = loss_table(found)
    known = any(cell.value is not None for row in table.rows for cell in row)
    return Section("Loss against tokens", (), loss_charts(found), (table,) if known else ())


def _differences(found: Findings) -> Section:
    table = difference_table(found)
    return Section(
        "Differences, and the paper's own",
        charts=difference_charts(found) if table.rows else (),
        tables=(table,) if table.rows else (),
    )


def _transient(found: Findings) -> Section:
    if not found.transient:
        return Section("The transient")
    inside = [t for t in found.transient if t.inside]
    base = found.results.baseline
    said = (
        f"Of {len(found.transient)} horizons, {len(inside)} "
        f"{'is' if len(inside) == 1 else 'are'} inside the transient: "
        f"{', '.join(f'{t.horizon:g}×' for t in inside)}. What arms gain on {base} there is not "
        "evidence for longer runs."
        if inside
        else f"No horizon is inside the transient: {found.branch} is nowhere more than 0.02 "
        f"nats/token ahead of {base}."
    )
    return Section("The transient", (said,), tables=(transient_table(found),))


def _regret(found: Findings) -> Section:
    chart = regret_chart(found)
    if chart is None:
        return Section("Regret")
    return Section("Regret", charts=(chart,), tables=(regret_table(found),))


def _cost(found: Findings) -> Section:
    charts = cost_charts(found)
    return Section("Tokens", charts=charts, tables=(spent_table(found),) if charts else ())


def _averages(found: Findings) -> Section:
    free = [arm.name for arm in found.results.arms.values() if arm.kind == "free"]
    won = tuple(w for arm in free if (w := winners(found.results, arm)) is not None)
    return Section(
        "Which average wins when",
        charts=average_charts(found),
        tables=(winner_table(won),) if won else (),
    )


def _tuning(found: Findings) -> Section:
    said = []
    if found.at_edge:
        arms = ", ".join(dict.fromkeys(choice.arm for choice in found.at_edge))
        said.append(
            f"A chosen value is at the edge of its grid for {arms}: a better one may lie outside."
        )
    elif found.results.choices:
        said.append("No chosen value is at the edge of its grid.")
    charts = rate_charts(found)
    if charts:
        said.append(
            "The charts show the loss above a horizon's best, one line a horizon, darker is "
            "longer; other settings are at their best for each value."
        )
    return Section(
        "Tuning",
        tuple(said),
        charts=charts,
        tables=(choice_table(found),) if found.results.choices else (),
    )
