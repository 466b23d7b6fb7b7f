"""What `anytrain theory sweep` found, as text and as comma-separated values."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from anytrain.words import signed

if TYPE_CHECKING:
    from anytrain.theory.slopes import Local, Slope
    from anytrain.theory.sweep import Curve, Panel, Setting

ARMS = {
    "constant": "constant",
    "inverse_sqrt": "bare 1/√t",
    "inverse_sqrt_offset": "offset 1/√t",
    "power": "t^−γ*",
    "wsd": "WSD",
    "cosine": "cosine",
}
PROBLEM = ("dim", "capacity", "source", "noise")
SEARCHED = ("multiplier", "window", "offset", "hold")
CHOICE = ("arm", "weights", "chosen", *SEARCHED)
RESULTS = (*PROBLEM, *CHOICE, "rate", "edge", "step", "risk", "bias", "variance", "error_bound")
SLOPES = (*PROBLEM, *CHOICE, "edge", "first", "last", "risk", "slope", "theory", "difference")
LOCAL = (*PROBLEM, *CHOICE, "step", "risk", "slope", "theory", "error_bound")


# --- text ------------------------------------------------------------------------------------


def text(panel: "Panel", slopes: Sequence["Slope"]) -> str:
    """A line a choice: the setting, the risk at the end, its slope and theory's exponent."""
    problem, found = panel.problem, panel.rates
    head = (
        f"a = {problem.capacity:g}, b = {problem.source:g}: γ* = {found.gamma:.3g}, "
        f"minimax −{found.minimax.value:.3f}, tr H = {problem.trace:.4g}"
    )
    last = panel.checkpoints[-1]
    cells: list[tuple[str, ...]] = [
        ("", "m", "window", "offset", "hold", f"R({last:,})", "slope", "theory")
    ]
    cells += [_cells(panel, row) for row in slopes if _shown(panel, row)]
    first, *rest = (max(len(row[k]) for row in cells) for k in range(len(cells[0])))
    lines = (
        "  ".join([name.ljust(first), *(c.rjust(w) for c, w in zip(values, rest, strict=True))])
        for name, *values in cells
    )
    return "\n".join([head, *(f"  {line}" for line in lines)])


def _shown(panel: "Panel", row: "Slope") -> bool:
    """Of t^(−γ*) that is another arm, and of a rate of 1/tr H, one line says enough."""
    from anytrain.theory.slopes import TAIL

    if row.chosen == "fixed":
        return row.setting.window == TAIL
    return not (row.arm == "power" and panel.twin)


def _cells(panel: "Panel", row: "Slope") -> tuple[str, ...]:
    name = ARMS[row.arm]
    if row.arm == panel.twin or (row.arm == "power" and panel.twin):
        name = f"{ARMS[panel.twin]} = t^−γ*"
    if row.arm in ("wsd", "cosine"):
        name += ", tuned at each N" if row.chosen == "horizon" else ", one choice"
    else:
        name += " + averaging" if row.weights == "average" else ", last iterate"
        name += " at m = 1" if row.chosen == "fixed" else ""
    values = [
        "" if value is None else f"{value:g}" + ("*" if field in row.edges else "")
        for field, value in zip(SEARCHED, row.setting, strict=True)
    ]
    return (name, *values, f"{row.risk:.3e}", _three(row.value), _three(row.theory))


def _three(value: float | None) -> str:
    return signed(value if value is not None and isfinite(value) else None, 3)


# --- comma-separated values ------------------------------------------------------------------


def results(panels: Iterable["Panel"]) -> str:
    """A row a choice and checkpoint, with bias and variance; the minimax line as an arm."""
    return _csv(RESULTS, (row for panel in panels for row in _results(panel)))


def _results(panel: "Panel") -> Iterator[dict[str, Any]]:
    for curve in panel.curves:
        for k, step in enumerate(panel.checkpoints):
            yield {
                **_problem(panel),
                **_choice(curve, curve.settings[k]),
                "rate": curve.settings[k].multiplier / panel.problem.trace,
                "edge": "+".join(curve.edges[k]),
                "step": step,
                "risk": curve.risk[k],
                "bias": curve.bias[k],
                "variance": curve.risk[k] - curve.bias[k],
                "error_bound": curve.bound,
            }
    if panel.minimax is not None:
        for step, risk in zip(panel.checkpoints, panel.minimax, strict=True):
            yield {**_problem(panel), "arm": "minimax", "step": step, "risk": risk}


def slopes(panels: Iterable[tuple["Panel", Sequence["Slope"]]]) -> str:
    """A row a choice: the least-squares slope of its last decade, and theory's."""
    return _csv(SLOPES, (row for panel, some in panels for row in records(panel, some)))


def records(panel: "Panel", slopes: Iterable["Slope"]) -> list[dict[str, Any]]:
    """The rows of slopes.csv as plain data; absent is None."""
    return [
        {
            **_problem(panel),
            **_choice(row, row.setting),
            "edge": "+".join(row.edges),
            "first": next(n for n in panel.checkpoints if 10 * n >= panel.checkpoints[-1]),
            "last": panel.checkpoints[-1],
            "risk": row.risk,
            "slope": row.value if isfinite(row.value) else None,
            "theory": row.theory,
            "difference": None
            if row.theory is None or not isfinite(row.value)
            else row.value - row.theory,
        }
        for row in slopes
    ]


def grid(panels: Sequence["Panel"]) -> str:
    """A row a setting: its mean and its risk at every checkpoint, inf where it diverges."""
    steps = [f"risk_{step}" for step in panels[0].checkpoints]
    rows = (
        {
            **_problem(panel),
            "arm": found.arm,
            "weights": found.weights,
            **setting._asdict(),
            "mean": float(np.mean(risk)),
            **dict(zip(steps, risk, strict=True)),
        }
        for panel in panels
        for found in panel.grids
        for setting, risk in zip(found.settings, found.risk, strict=True)
    )
    return _csv((*PROBLEM, "arm", "weights", *SEARCHED, "mean", *steps), rows)


def local(panels: Iterable[tuple["Panel", Sequence["Local"]]]) -> str:
    """A row a run and step: its risk and its local slope."""
    rows = (
        {
            **_problem(panel),
            **_choice(line, line.setting),
            "dim": line.dim,
            "step": step,
            "risk": risk,
            "slope": value,
            "theory": line.theory,
            "error_bound": line.bound,
        }
        for panel, lines in panels
        for line in lines
        for step, risk, value in zip(line.steps, line.risk, line.slope, strict=True)
    )
    return _csv(LOCAL, rows)


def _problem(panel: "Panel") -> dict[str, Any]:
    return {name: getattr(panel.problem, name) for name in PROBLEM}


def _choice(one: "Curve | Slope | Local", setting: "Setting") -> dict[str, Any]:
    return {"arm": one.arm, "weights": one.weights, "chosen": one.chosen, **setting._asdict()}


def _csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _value(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _value(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
