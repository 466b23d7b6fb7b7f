"""A part of a page: a heading, sentences, charts and tables, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from anytrain.report.charts import Drawn
from anytrain.words import signed


@dataclass(frozen=True)
class Cell:
    """What stands in a table, and what a click on the header sorts it by."""

    text: str
    value: float | None = None  # None: sorted as text
    mark: Literal["", "ahead", "behind", "best"] = ""


@dataclass(frozen=True)
class Table:
    """Rows under a header; columns whose cells have values are numbers, to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"{self.caption}: a row has {len(row)} cells, there are {len(self.columns)} "
                    "columns"
                )

    def numbers(self, column: int) -> bool:
        return any(row[column].value is not None for row in self.rows)


@dataclass(frozen=True)
class Section:
    """Charts come after the sentences, tables after the charts."""

    title: str
    paragraphs: tuple[str, ...] = ()
    charts: tuple[Drawn, ...] = ()
    tables: tuple[Table, ...] = ()
    facts: Mapping[str, str] | None = None  # a list of names and values at the end


def number(value: float | None, digits: int = 4) -> Cell:
    """0.0123, or — where there is none."""
    return Cell("—") if value is None else Cell(f"{value:.{digits}f}", value)


def gap(value: float | None, sure: bool = False) -> Cell:
    """+0.0123, marked where the sign is sure."""
    if value is None:
        return Cell("—")
    return Cell(signed(value), value, ("ahead" if value < 0 else "behind") if sure else "")
