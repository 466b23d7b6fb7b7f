"""What the arms cost: tokens to have a model for every horizon, to tune, and to repeat."""

from collections.abc import Callable

from anytrain.compare.findings import Findings
from anytrain.compare.results import Spent
from anytrain.report.cast import cast
from anytrain.report.charts import Axis, Bar, BarChart
from anytrain.words import tokens

_KINDS: tuple[tuple[str, str, Callable[[Spent], int]], ...] = (
    ("a model for every horizon, once", "best", lambda s: s.one),
    ("tuning", "average", lambda s: s.tuning),
    ("reruns for the report", "plain", lambda s: s.reporting),
)


def cost_charts(found: Findings) -> tuple[BarChart, ...]:
    """One chart of what it takes once, one of what the study spent."""
    spent = [s for s in found.results.spent if s.one or s.tuning or s.reporting]
    if not spent:
        return ()
    ours, theirs = found.spent(found.anytime), found.spent(found.results.baseline)
    once, study = "Tokens for a model at every horizon", "Tokens that the study takes"
    if ours and theirs and ours.one and theirs.one:
        share = 1 - ours.one / theirs.one
        once = (
            f"One {ours.arm} run serves all horizons with {_fewer(share)} tokens than "
            f"a {theirs.arm} for each"
        )
    if ours and theirs and ours.reporting and theirs.reporting:
        share = 1 - (ours.tuning + ours.reporting) / (theirs.tuning + theirs.reporting)
        study = f"With tuning and reruns, {ours.arm} took {_fewer(share)} than {theirs.arm}"
    parts = cast(found.results, found.anytime)
    roles = tuple(parts[s.arm].role for s in spent)
    charts = [_chart("spent", study, spent, _KINDS[1:])]
    if any(s.one for s in spent):  # something is chosen
        charts.insert(0, _chart("cost", once, spent, _KINDS[:1], roles))
    return tuple(charts)


def _fewer(share: float) -> str:
    return f"{abs(share):.0%} {'fewer' if share >= 0 else 'more'}"


def _chart(
    name: str,
    title: str,
    spent: list[Spent],
    kinds: tuple[tuple[str, str, Callable[[Spent], int]], ...],
    roles: tuple[str, ...] = (),
) -> BarChart:
    most = max(amount(s) for s in spent for _, _, amount in kinds)
    scale, suffix = next(
        (x, n) for x, n in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1, "")) if most >= x
    )
    bars = tuple(
        Bar(
            label,
            tuple(amount(s) / scale if amount(s) else None for s in spent),
            tuple(tokens(amount(s)) for s in spent),
            role,
            roles,
        )
        for label, role, amount in kinds
    )
    return BarChart(
        name,
        title,
        Axis(f"tokens trained, {suffix}" if suffix else "tokens trained"),
        tuple(s.arm for s in spent),
        bars,
    )
