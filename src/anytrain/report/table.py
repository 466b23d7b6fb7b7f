"""The frontier as rows of text, Markdown, CSV and JSON. Losses are nats/token."""

import csv
import io
from typing import Any

from anytrain.compare.frontier import Frontier, Row
from anytrain.evaluations import RAW
from anytrain.words import signed, tokens

NONE = "—"
Cells = list[str]


def header(found: Frontier) -> Cells:
    """Column names: where, every weights of the trunk, what it is compared with, differences."""
    averages = [name for name in found.weights if name != RAW]
    return [
        "units",
        "steps",
        "tokens",
        *([RAW] if found.weights else []),
        *averages,
        *found.kinds,
        *found.others,
        "best",
        *(f"best − {kind}" for kind in found.kinds),
        "best − raw",
    ]


def cells(found: Frontier, row: Row) -> Cells:
    """One row, as a person reads it."""
    name = row.best[0] if row.best else NONE
    beside = [row.others.get(other) for other in found.others]
    return [
        f"{row.units:.3g}",
        f"{row.step:,}" if row.step is not None else NONE,
        tokens(row.tokens),
        *(_loss(row.losses.get(weights)) for weights in found.weights),
        *(_loss(row.decayed[k].loss if k in row.decayed else None) for k in found.kinds),
        *(_loss(best[1] if best else None) for best in beside),
        name,
        *(signed(row.minus(kind)) for kind in found.kinds),
        signed(row.minus_raw),
    ]


def _loss(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def text(found: Frontier) -> str:
    """Columns aligned to the right."""
    lines = [header(found), *(cells(found, row) for row in found.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def markdown(found: Frontier) -> str:
    """A table for a README, the best of each row in bold."""
    names = header(found)
    out = [f"| {' | '.join(names)} |", f"|{'|'.join(['---:'] * len(names))}|"]
    for row in found.rows:
        line = cells(found, row)
        if row.best:
            column = names.index(row.best[0])
            line[column] = f"**{line[column]}**"
        out.append(f"| {' | '.join(line)} |")
    notes = [f"- {note}" for note in caption(found)]
    return "\n".join([*out, "", *notes]) + "\n"


def caption(found: Frontier) -> list[str]:
    """What the columns mean and how sure the numbers are."""
    said = [f"Validation loss in nats/token; one unit is {tokens(found.unit)} tokens."]
    errors = [error for e in found.evaluations[-1:] for error in e.stderr.values()]
    if errors:
        said.append(
            f"Standard error of one loss ±{max(errors):.4f}, from the validation windows; "
            "all weights read the same windows, so differences are surer than that."
        )
    if found.kinds:
        said.append(
            f"{', '.join(found.kinds)}: raw weights of a run that ended here, at equal total "
            "tokens; of several of a kind the best."
        )
    return [*said, *found.notes]


def records(found: Frontier) -> list[dict[str, Any]]:
    """One flat record a row, full precision; absent is None."""
    out = []
    for row in found.rows:
        record: dict[str, Any] = {"units": row.units, "step": row.step, "tokens": row.tokens}
        for weights in found.weights:
            record[weights] = row.losses.get(weights)
            record[f"{weights}/stderr"] = row.stderr.get(weights)
        for kind in found.kinds:
            branch = row.decayed.get(kind)
            record[kind] = branch.loss if branch else None
            record[f"{kind}/stderr"] = branch.end.stderr.get(RAW) if branch else None
            record[f"{kind}/run"] = branch.name if branch else None
        for other in found.others:
            record[f"{other}/best"] = row.others[other][1] if other in row.others else None
        record["best"], record["best/loss"] = row.best or (None, None)
        for kind in found.kinds:
            record[f"best-{kind}"] = row.minus(kind)
        record["best-raw"] = row.minus_raw
        out.append(record)
    return out


def comma_separated(found: Frontier) -> str:
    """`records` as CSV; absent is empty."""
    out = io.StringIO()
    rows = records(found)
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["units", "step", "tokens"])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
