"""The tables of a study's page: differences, regret, averages, choices, tokens."""

from anytrain.compare.findings import FAIR, Findings
from anytrain.compare.paired import Interval
from anytrain.compare.readings import Difference, Variant, reading, told
from anytrain.compare.verdicts import CLOSE, Verdict
from anytrain.compare.winners import Winners
from anytrain.report.cast import units
from anytrain.report.sections import Cell, Table, gap, number
from anytrain.words import signed, tokens

CHOSEN: dict[Variant, str] = {"one": "one for all", "each": "per horizon"}


def asked_table(found: Findings) -> Table | None:
    """The questions of the page, of every arm without a horizon; None where there is one only."""
    if len(found.asked) < 2:
        return None
    base, branch = found.results.baseline, found.branch
    both = f"{base} and {branch}" if branch else base
    asked = (f"within {CLOSE:g} of {base}", "ahead on average", f"ahead of {both} everywhere")
    gaps = {0: f"worst − {base}"} | ({2: f"worst − {branch}"} if branch else {})
    rows = [
        (Cell(arm), *map(answer, verdicts), *(_gap(verdicts[i]) for i in gaps))
        for arm, verdicts in found.asked.items()
    ]
    return Table(
        ("arm", *asked, *gaps.values()),
        tuple(rows),
        "The same of every arm without a horizon, each at its one setting",
        (
            f"Tuning preferred {found.anytime}, before any report. The more arms are asked, the "
            "likelier is a lucky one among them.",
        ),
    )


def _gap(verdict: Verdict) -> Cell:
    found = verdict.gap
    return Cell(found.text(), found.mean) if found else Cell("—")


def answer(verdict: Verdict) -> Cell:
    """Yes in colour, No, Not settled."""
    return Cell(verdict.word, mark="ahead" if verdict.answer else "")


def difference_table(found: Findings) -> Table:
    """Every arm minus the baseline at every horizon, with both intervals."""
    base = found.results.baseline
    inside = {t.horizon for t in found.transient if t.inside}
    rows = [
        _difference(d, variant, d.horizon in inside)
        for (arm, variant), by_horizon in found.differences.items()
        if variant in told(found.results, arm)
        for d in by_horizon.values()
    ]
    return Table(
        (
            *("horizon", "arm", "chosen", "weights", "loss", f"− {base}", "95% over seeds"),
            *("95% over seeds and sequences", "seeds", "note"),
        ),
        tuple(rows),
        f"Differences to {base}, nats/token; below zero is better than {base}",
        (
            f"Coloured: zero is outside the interval over seeds. Every horizon's {base} is tuned "
            "and trained for it, and differences are of runs that share a seed and so the order "
            "of the data.",
            "Over seeds and sequences: the held-out sequences are a sample too (crossed random "
            "effects, Satterthwaite; never narrower than over seeds alone).",
        ),
    )


def _difference(d: Difference, variant: Variant, inside: bool) -> tuple[Cell, ...]:
    choice = d.reading.choice
    return (
        Cell(units(d.horizon), d.horizon),
        Cell(d.arm),
        Cell(CHOSEN[variant]),
        Cell(choice.weights),
        number(d.reading.loss),
        gap(d.seeds.mean, d.seeds.sure),
        ends(d.seeds),
        ends(d.sequences),
        Cell(str(d.seeds.seeds), d.seeds.seeds),
        Cell("inside the transient" if inside else ""),
    )


def ends(found: Interval | None) -> Cell:
    """−0.0010 to +0.0072, sorted by its lower end."""
    if found is None or found.low is None:
        return Cell("—")
    return Cell(f"{signed(found.low)} to {signed(found.high)}", found.low)


def loss_table(found: Findings) -> Table:
    """A row an arm, a column a horizon: the loss, the best of a horizon marked."""
    results = found.results
    table = {
        (arm, variant): [reading(results, arm, h, variant) for h in results.horizons]
        for arm in results.arms
        for variant in told(results, arm)
    }
    least = [
        min((row[i].loss for row in table.values() if row[i]), default=None)  # type: ignore[union-attr]
        for i in range(len(results.horizons))
    ]
    rows = []
    for (arm, variant), readings in table.items():
        cells = [Cell(arm), Cell(CHOSEN[variant])]
        for r, low in zip(readings, least, strict=True):
            loss = r.loss if r else None
            best = loss is not None and loss == low
            cells.append(Cell(f"{loss:.4f}", loss, "best" if best else "") if loss else Cell("—"))
        mean = found.averages.get((arm, variant))
        cells += [gap(mean.mean, mean.sure) if mean else Cell("—"), ends(mean)]
        rows.append(tuple(cells))
    heads = tuple(f"{units(h)}, {tokens(h * results.unit)}" for h in results.horizons)
    return Table(
        ("arm", "chosen", *heads, f"mean − {results.baseline}", "95% over seeds"),
        tuple(rows),
        "Validation loss of the chosen models, nats/token, mean over the report seeds",
        (
            "In colour: the lowest of each horizon. Arms without a horizon also have the choice "
            "per horizon where it is another one.",
        ),
    )


def regret_table(found: Findings) -> Table:
    """The worst horizon of every arm."""
    rows = tuple(
        (
            Cell(r.arm),
            Cell(CHOSEN[r.variant]),
            number(r.nats),
            Cell(f"{r.ratio:.4f}", r.ratio),
            Cell(units(r.horizon), r.horizon),
            Cell(r.best),
        )
        for r in found.regrets
        if r.variant in told(found.results, r.arm)
    )
    return Table(
        ("arm", "chosen", "regret, nats/token", "regret, ratio", "worst at", "best arm there"),
        rows,
        "Regret: an arm's loss against the best arm's, at its worst horizon",
        ("The ratio is of the losses, at the horizon where it is largest.",),
    )


def transient_table(found: Findings) -> Table:
    """Whether a horizon is long enough for decay to matter."""
    names = f"{found.results.baseline} − {found.branch}"
    rows = tuple(
        (
            Cell(units(t.horizon), t.horizon),
            gap(t.gap),
            Cell("inside the transient" if t.inside else "fair" if t.fair else "decay leads"),
        )
        for t in found.transient
    )
    return Table(
        ("horizon", f"{names}, nats/token", "regime"),
        rows,
        f"Is it long enough? Tuned {names} at every horizon",
        (
            f"Fair: at most {FAIR:g} apart. Inside the transient: {found.branch} leads by more; "
            "a high rate still counts for more than decay there, and so the lead of any arm that "
            "does not decay early says little of longer runs.",
        ),
    )


def winner_table(found: tuple[Winners, ...]) -> Table:
    """Which average is best at which horizon, and the raw weights' distance."""
    rows = []
    for w in found:
        chosen = w.choice.weights
        for h, row in w.above.items():
            raw = w.raw.get(h)
            rows.append(
                (
                    Cell(w.choice.arm),
                    Cell(units(h), h),
                    Cell(w.best[h]),
                    number(row.get(chosen)),
                    Cell(signed(raw), raw) if raw is not None else Cell("—"),
                )
            )
    return Table(
        ("arm", "horizon", "best weights", "the chosen one above it", "raw − the chosen one"),
        tuple(rows),
        "Which weights are best when, nats/token",
        ("At the one setting of each arm, mean over the report seeds.",),
    )


def choice_table(found: Findings) -> Table:
    """Everything that tuning chose, and where its grid ended."""
    rows = tuple(
        (
            Cell(c.arm),
            Cell("all", 0.0) if c.horizon is None else Cell(units(c.horizon), c.horizon),
            Cell(c.setting),
            Cell(c.weights),
            number(c.loss),
            Cell(", ".join(c.at_edge)),
        )
        for c in found.results.choices
    )
    return Table(
        ("arm", "horizon", "setting", "weights", "tuning loss", "at the edge of its grid"),
        rows,
        "What tuning chose",
        (
            "Chosen by the loss on one half of the held-out sequences with the tune seeds alone; "
            "everything reported is on the other half, with other seeds. For all: the mean over "
            "the horizons decided.",
        ),
    )


def spent_table(found: Findings) -> Table:
    """Tokens of every arm."""
    base = found.spent(found.results.baseline)
    rows = []
    for s in found.results.spent:
        saved = 1 - s.one / base.one if base and base.one and s is not base else None
        whole = s.tuning + s.reporting
        cells = [Cell(tokens(v), v) for v in (s.one, s.tuning, s.reporting, whole)]
        share = (
            Cell("—")
            if saved is None
            else Cell(f"{signed(100 * saved, 0).removeprefix('+')}%", saved)
        )
        rows.append((Cell(s.arm), *cells, share))
    return Table(
        (
            *("arm", "a model for every horizon, once", "tuning", "reruns for the report"),
            *("tuning and reruns", f"saved against {found.results.baseline}"),
        ),
        tuple(rows),
        "Tokens trained",
        (
            "As planned by what is chosen so far. A trunk that arms share counts for each of them; "
            "trained in all, counted once: "
            f"{tokens(found.results.trained)}. Saved: of the models for every horizon, once.",
        ),
    )
