"""The report as one HTML file: no script, no request, readable on a phone and in the dark."""

from collections.abc import Sequence
from html import escape
from typing import Any

from anytrain.compare import predict, standing
from anytrain.compare.frontier import Frontier, warmup_tokens
from anytrain.report import figures, table
from anytrain.words import signed, tokens

_CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--muted:#626a73;--line:#dfe2e6;--back:#fff;
--box:#f4f5f7;--best:#0072b2;--decayed:#b84f00}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--muted:#9aa3ad;--line:#31373e;
--back:#14171a;--box:#1d2126;--best:#4db2ee;--decayed:#ff8a3d}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:66rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.5rem;line-height:1.2;margin:0}
h2{font-size:1.05rem;margin:2.5rem 0 .6rem}
p{margin:.4rem 0}.muted,figcaption,footer{color:var(--muted);font-size:.875rem}
.now{display:flex;flex-wrap:wrap;gap:1rem 2.5rem;margin:1.5rem 0 1rem}
.now div{min-width:9rem}.now dt{color:var(--muted);font-size:.875rem}
.now dd{margin:0;font-size:1.5rem;font-weight:650;line-height:1.25;
font-variant-numeric:tabular-nums}
.now dd small{display:block;font-size:.875rem;font-weight:400;color:var(--muted)}
pre{background:var(--box);padding:.7rem .9rem;border-radius:.4rem;margin:.5rem 0;
white-space:pre-wrap;overflow-wrap:anywhere;
font:.875rem/1.5 ui-monospace,SFMono-Regular,Menlo,monospace}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));
gap:1.25rem}
figure{margin:1rem 0 0}svg{width:100%;height:auto;display:block}
svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif !important}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.35rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
thead th{color:var(--muted);font-weight:500;vertical-align:bottom}
.names th,.names td{text-align:left}.names td.number,.names th.number{text-align:right}
td.best{font-weight:700;color:var(--best)}td.ahead{color:var(--best)}td.behind{color:var(--decayed)}
dl.facts{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.25rem 1.25rem;
font-size:.875rem;margin:0}dl.facts dt{color:var(--muted)}
dl.facts dd{margin:0;overflow-wrap:anywhere}
ul{padding-left:1.1rem;margin:.5rem 0}footer{margin-top:3rem}
"""


def page(found: Frontier, command: str) -> str:
    """The whole file. `command` is what regenerates it; needs matplotlib for its figures."""
    body = "\n".join(
        [
            _top(found),
            _figures(found),
            _table(found),
            _branches(found),
            _facts(found),
            f"<footer><p>Made by <code>{escape(command)}</code> from the run directory alone."
            "</p></footer>",
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(found.name)}: validation loss at every horizon</title>\n"
        f"<style>{_CSS}@media (prefers-color-scheme: dark) {{{figures.dark_css()}}}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _top(found: Frontier) -> str:
    """The best model now, the gains, and the command."""
    best = found.best
    assert best is not None
    name, loss = best.best
    noise = f"± {best.stderr[name]:.4f} " if name in best.stderr else ""
    items = [
        (
            "Best model now",
            f"{loss:.4f}",
            f"{noise}nats/token: {name}, {tokens(best.tokens)} tokens",
        ),
    ]
    curve = predict.best_curve(found.evaluations)
    last = predict.gained(curve)
    if last is not None:
        items.append(("Last doubling gained", f"{last:.4f}", "nats/token"))
    try:
        ahead = predict.forecast(curve, warmup_tokens(found.run.recipe))
        items.append(
            (
                "Next doubling is predicted to gain",
                f"{ahead.gain:.4f}",
                f"80%: {signed(ahead.low)} to {signed(ahead.high)}",
            )
        )
    except predict.TooEarly as why:
        items.append(("Next doubling", "—", str(why)))
    boxes = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for label, value, note in items
    )
    candidate = standing.candidate(found.evaluations, standing.readable(found.run))
    release = (
        f"<p>Release it:</p><pre>{escape(candidate.command(found.run.path))}</pre>"
        if candidate
        else '<p class="muted">No checkpoint is left to release it from.</p>'
    )
    return (
        f"<header><h1>{escape(found.name)}</h1>"
        f'<p class="muted">One run, read at every horizon. Validation loss in nats/token.</p>'
        f'</header>\n<dl class="now">{boxes}</dl>\n{release}'
    )


def _figures(found: Frontier) -> str:
    captions = {
        "loss": "Validation loss against tokens, logarithmic axis",
        "difference": "Difference of every weights to the reference at each unit",
    }
    drawn = "".join(
        f"<figure>{figures.inline(found, panel, captions[panel])}</figure>"
        for panel in figures.PANELS
    )
    return f'<h2>At every horizon</h2>\n<div class="panels">{drawn}</div>'


def _table(found: Frontier) -> str:
    names = table.header(found)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for row in found.rows:
        best = names.index(row.best[0]) if row.best else -1
        cells = table.cells(found, row)
        out = [f'<th scope="row">{escape(cells[0])}</th>']
        for i, cell in enumerate(cells[1:], 1):
            out.append(f"<td{_mark(names[i], cell, i == best)}>{escape(cell)}</td>")
        rows.append(f"<tr>{''.join(out)}</tr>")
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.caption(found))
    return (
        f'<h2>In numbers</h2>\n<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr>'
        f'</thead><tbody>{"".join(rows)}</tbody></table></div>\n<ul class="muted">{notes}</ul>'
    )


def _mark(name: str, cell: str, best: bool) -> str:
    if best:
        return ' class="best"'
    if not name.startswith("best −") or cell[0] not in "+−":
        return ""
    return ' class="ahead"' if cell.startswith("−") else ' class="behind"'


def _branches(found: Frontier) -> str:
    if not found.branches:
        return ""
    rows = "".join(
        f'<tr><td>{escape(b.name)}</td><td class="number">{b.end.step:,}</td>'
        f'<td class="number">{tokens(b.end.tokens)}</td><td class="number">{b.loss:.4f}</td>'
        f"<td>{escape(b.schedule)}</td></tr>"
        for b in found.branches
    )
    return (
        '<h2>Runs with a horizon</h2>\n<div class="scroll" tabindex="0"><table class="names">'
        '<thead><tr><th>run</th><th class="number">step</th><th class="number">total tokens</th>'
        '<th class="number">loss</th><th>schedule</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _facts(found: Frontier) -> str:
    """What the run is, from recipe.toml and run.json."""
    recipe, identity = found.run.recipe, found.run.identity
    averages = identity.get("averages") or {}
    train = recipe["train"]
    facts: list[tuple[str, Any]] = [
        ("recipe", recipe.get("name")),
        ("schedule", recipe["schedule"]),
        ("averages", _pairs({name: a["rule"] for name, a in averages.items()})),
        ("batch", f"{train['batch']} × {train['context']} tokens"),
        ("unit", f"{recipe['unit']}, {tokens(found.unit)} tokens"),
        *(("data", _pin(pin)) for pin in identity.get("data") or []),
        ("run", f"{identity.get('id')}, begun {identity.get('created')}"),
        ("decided once", _pairs(identity.get("decisions"))),
        ("versions", _pairs(identity.get("versions"))),
    ]
    for ancestor in standing.lineage(found.run):
        changed = ", ".join(f"{k}: {a} → {b}" for k, (a, b) in ancestor.changes.items())
        facts.append(("forked from", f"{ancestor.path} at step {ancestor.step:,}; {changed}"))
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts if value
    )
    return f'<h2>The run</h2>\n<dl class="facts">{items}</dl>'


def _pairs(values: dict[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items())


def _pin(pin: dict[str, Any]) -> str:
    eras: Sequence[dict[str, Any]] = pin.get("eras") or []
    sums = ", ".join(
        f"sha256 {str(era.get('sha256'))[:12]} from sample {era.get('start')}" for era in eras
    )
    return f"{pin.get('path')} ({sums})" if sums else str(pin.get("path"))
