"""Which colour and mark an arm or a horizon has in every chart of a study, and where ticks are."""

from dataclasses import dataclass

from anytrain.compare.results import Results
from anytrain.report.charts import SHAPES, Axis, Shape
from anytrain.words import tokens

_ROLES = ("other1", "other2", "other3", "plain", "ink", "average")
_RAMP = tuple(f"ramp{i}" for i in range(1, 7))


@dataclass(frozen=True)
class Part:
    """How an arm is drawn."""

    role: str
    shape: Shape


def cast(results: Results, anytime: str | None) -> dict[str, Part]:
    """The anytime arm and the baseline in their own colours, the others in the file's order."""
    out: dict[str, Part] = {}
    rest = 0
    for number, arm in enumerate(results.arms):
        shape = SHAPES[number % len(SHAPES)]
        if arm == anytime:
            out[arm] = Part("best", shape)
        elif arm == results.baseline:
            out[arm] = Part("baseline", shape)
        else:
            out[arm] = Part(_ROLES[rest % len(_ROLES)], shape)
            rest += 1
    return out


def ramp(number: int, count: int) -> str:
    """The role of the horizon that is `number` of `count`: darker is longer."""
    if count == 1:
        return _RAMP[3]
    first, last = (0, 4) if count <= 5 else (0, 5)
    return _RAMP[round(first + (last - first) * number / (count - 1))]


def token_axis(results: Results, first: float | None = None) -> Axis:
    """Tokens on a logarithmic axis with a tick at every horizon: tokens above, units below."""
    ends = [h * results.unit for h in results.horizons]
    edge = 1.06
    low = first if first is not None else ends[0]
    return Axis(
        "tokens, and multiples of the unit",
        log=True,
        ticks=tuple((end, f"{tokens(end)}\n{units(end / results.unit)}") for end in ends),
        range=(low / edge, ends[-1] * edge),
    )


def horizon_axis(results: Results) -> Axis:
    """The same, for points that stand beside one another at a horizon."""
    axis = token_axis(results)
    low, high = results.horizons[0] * results.unit, results.horizons[-1] * results.unit
    return Axis(axis.title, True, axis.ticks, (low / 1.35, high * 1.35))


def beside(at: float, number: int, count: int, width: float = 0.3) -> float:
    """`at` moved for the `number`-th of `count` points there; `width` is of all, in doublings."""
    shift = (number - (count - 1) / 2) / max(count - 1, 1)
    return float(at * 2 ** (width * shift))


def units(value: float) -> str:
    return f"{value:.3g}×"
