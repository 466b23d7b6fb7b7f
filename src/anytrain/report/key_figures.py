"""The few numbers at the top of a study's page."""

from dataclasses import dataclass

from anytrain.compare.findings import Findings
from anytrain.compare.readings import variants
from anytrain.report.cast import units
from anytrain.words import signed, tokens


@dataclass(frozen=True)
class KeyFigure:
    """A number, what it is, and how sure or where."""

    name: str
    value: str
    note: str


def key_figures(found: Findings) -> tuple[KeyFigure, ...]:
    """Average and worst difference, tokens saved, regret; only what is known."""
    results, arm = found.results, found.anytime
    if arm is None or not found.one:
        done, known = results.jobs
        return (
            KeyFigure(
                "Jobs done", f"{done} of {known}", "no arm without a horizon is reported yet"
            ),
        )
    out = []
    for name, mean in (
        (f"Mean − tuned {results.baseline}", found.averages.get((arm, "one"))),
        ("Mean outside the transient", found.settled),
    ):
        if mean is not None:
            note = (
                "one seed, no interval"
                if mean.low is None
                else f"{signed(mean.low)} to {signed(mean.high)} over {mean.seeds} seeds"
            )
            out.append(KeyFigure(name, signed(mean.mean), f"nats/token; {note}"))
    worst = max(found.one.values(), key=lambda d: d.seeds.mean)
    out.append(
        KeyFigure("At the worst horizon", signed(worst.seeds.mean), f"at {units(worst.horizon)}")
    )
    ours, theirs = found.spent(arm), found.spent(results.baseline)
    if ours and theirs and ours.one and theirs.one:
        note = f"{tokens(ours.one)} instead of {tokens(theirs.one)} for every horizon"
        share = 1 - ours.one / theirs.one
        name = "Fewer tokens" if share >= 0 else "More tokens"
        out.append(KeyFigure(name, f"{abs(share):.0%}", note))
    for regret in found.regrets:
        if (regret.arm, regret.variant) == (arm, variants(results, arm)[0]):
            note = f"nats/token behind the best arm, {regret.best}, at {units(regret.horizon)}"
            out.append(KeyFigure("Regret", f"{regret.nats:.4f}", note))
    return tuple(out)
