"""The page of a study: one HTML file that needs nothing else, its figures as files, a summary."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from anytrain.compare.findings import findings, headline
from anytrain.compare.results import Results
from anytrain.errors import UserError, missing_extra
from anytrain.files import write_atomic
from anytrain.report import chart_matplotlib, chart_plotly, figures
from anytrain.report.charts import DARK, BarChart, Drawn
from anytrain.report.key_figures import KeyFigure, key_figures
from anytrain.report.sections import Cell, Section, Table
from anytrain.report.study_sections import facts, own_sections
from anytrain.report.summary import summary

_LONG = 34  # letters of a cell that may be broken


@dataclass(frozen=True)
class Top:
    """The head of a page."""

    name: str
    question: str
    answer: str
    figures: tuple[KeyFigure, ...]


def write_page(
    results: Results, sections: Sequence[Section], out: Path, command: str
) -> list[Path]:
    """Write OUT/page.html, OUT/summary.md and OUT/figures/*.png, *.pdf; `command` makes them again.

    `sections` come after the study's own. A missing extra is said before anything is written.
    """
    figures.require()
    plotly = bundle()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; a directory, there or not, is valid")
    found = findings(results)
    parts = (*own_sections(found), *sections, facts(found, command))
    top = Top(found.results.name, "one run for every horizon?", headline(found), key_figures(found))
    return write(top, parts, out, plotly)


def write(top: Top, parts: Sequence[Section], out: Path, plotly: str) -> list[Path]:
    """The page, the summary and each figure of `parts`, all of them or none."""
    written: dict[Path, str | bytes] = {}
    for chart in (chart for part in parts for chart in part.charts):
        written[out / "figures" / f"{chart.name}.png"] = chart_matplotlib.drawn(chart, "png")
        written[out / "figures" / f"{chart.name}.pdf"] = chart_matplotlib.drawn(chart, "pdf")
    written[out / "summary.md"] = summary(top.name, top.answer, parts)
    written[out / "page.html"] = html(top, parts, plotly)
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for path, content in written.items():
            write_atomic(path, content)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from error
    return list(written)


def bundle() -> str:
    """plotly.js, the full bundle, 4.8 MB: the Python package has no smaller one."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise missing_extra("plotly", "report", "the page of a study") from error
    return str(get_plotlyjs())


def html(top: Top, parts: Sequence[Section], plotly: str) -> str:
    """The whole file."""
    charts = {chart.name: chart for part in parts for chart in part.charts}
    assert len(charts) == sum(len(part.charts) for part in parts), "two charts of one name"
    drawings = {name: chart_plotly.figure(chart) for name, chart in charts.items()}
    body = "\n".join([_top(top), _contents(parts), *(_section(part) for part in parts)])
    scripts = "\n".join(
        [
            f'<script type="application/json" id="charts">{_json(drawings)}</script>',
            f'<script type="application/json" id="dark">{_json(DARK)}</script>',
            f"<script>{plotly}</script>",
            f'<script type="module">{_text("study_page.js")}</script>',
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(top.name)}: {escape(top.question)}</title>\n"
        f"<style>{_text('study_page.css')}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n{scripts}\n</body>\n</html>\n"
    )


def _json(value: Any) -> str:
    """JSON that cannot end the script it stands in."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _text(name: str) -> str:
    return files("anytrain.report").joinpath(name).read_text(encoding="utf-8")


def _top(top: Top) -> str:
    """The answer in one sentence, then the numbers behind it."""
    boxes = "".join(
        f"<div><dt>{escape(k.name)}</dt><dd>{escape(k.value)}"
        f"<small>{escape(k.note)}</small></dd></div>"
        for k in top.figures
    )
    return (
        f"<header><h1>{escape(top.name)}: {escape(top.question)}</h1>\n"
        f'<p class="answer">{escape(top.answer)}</p></header>\n<dl class="now">{boxes}</dl>'
    )


def _contents(parts: Sequence[Section]) -> str:
    items = "".join(
        f'<li><a href="#{anchor(part.title)}">{escape(part.title)}</a></li>' for part in parts
    )
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def anchor(title: str) -> str:
    """Which average wins when -> which-average-wins-when."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _section(part: Section) -> str:
    out = [f'<section id="{anchor(part.title)}"><h2>{escape(part.title)}</h2>']
    out += [f"<p>{escape(text)}</p>" for text in part.paragraphs]
    if part.charts:
        out.append(f'<div class="panels">{"".join(map(_figure, part.charts))}</div>')
    out += [_table(table) for table in part.tables]
    if part.facts:
        items = "".join(
            f"<dt>{escape(name)}</dt><dd>{_value(name, value)}</dd>"
            for name, value in part.facts.items()
        )
        out.append(f'<dl class="facts">{items}</dl>')
    return "\n".join([*out, "</section>"])


def _value(name: str, value: str) -> str:
    return f"<code>{escape(value)}</code>" if name == "regenerate" else escape(value)


def _figure(chart: Drawn) -> str:
    measured = chart.x.title if isinstance(chart, BarChart) else chart.y.title
    notes = "".join(f"<p>{escape(note)}</p>" for note in chart.notes)
    return (
        f'<figure id="figure-{chart.name}"><h3>{escape(chart.title)}</h3>'
        f'<p class="unit">{escape(measured)}</p>'
        f'<div class="plot" id="plot-{chart.name}" role="img" aria-label="{escape(chart.title)}">'
        f"</div><figcaption>{notes}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    sides = [' class="number"' if table.numbers(i) else "" for i in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{side}{_wide(name)}>'
        f'<button type="button">{escape(_kept(name))}</button></th>'
        for name, side in zip(table.columns, sides, strict=True)
    )
    rows = "".join(f"<tr>{''.join(_cells(table, row))}</tr>" for row in table.rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    name = f"table-{anchor(table.caption)}"
    return (
        f'<p class="caption" id="{name}">{escape(table.caption)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}">'
        f'<table aria-labelledby="{name}">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def _wide(name: str) -> str:
    return ' style="min-width:7rem"' if len(name) > 16 else ""


def _kept(name: str) -> str:
    """A name whose minus is not left alone at the end of a line."""
    return name.replace("− ", "−\u00a0")


def _cells(table: Table, row: tuple[Cell, ...]) -> Iterator[str]:
    for i, cell in enumerate(row):
        classes = [
            *(["number"] if table.numbers(i) else []),
            *([cell.mark] if cell.mark else []),
            *(["long"] if len(cell.text) > _LONG else []),
        ]
        attribute = f' class="{" ".join(classes)}"' if classes else ""
        value = f' data-value="{cell.value!r}"' if cell.value is not None else ""
        yield f"<td{attribute}{value}>{escape(cell.text)}</td>"
