"""The page of runs in progress: a part for each, made again whenever it is asked for."""

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from anytrain.report import chart_plotly
from anytrain.report.charts import DARK, Drawn
from anytrain.report.live import Reading, Watch
from anytrain.report.live_charts import charts
from anytrain.words import signed, size, span, tokens

EVERY = 5  # seconds between two looks


def state(watches: Sequence[Watch]) -> dict[str, Any]:
    """What the page shows now: {"parts": id -> HTML, "charts": name -> figure}."""
    parts: dict[str, str] = {}
    figures: dict[str, Any] = {}
    for number, watch in enumerate(watches):
        read, problem = watch.read()
        drawn = charts(f"run{number}", read) if read else ()
        parts[f"now{number}"] = _now(watch, read, problem)
        parts[f"more{number}"] = _more(read) if read else ""
        parts[f"frames{number}"] = "".join(map(_frame, drawn))
        figures |= {chart.name: chart_plotly.figure(chart) for chart in drawn}
    return {"parts": parts, "charts": figures}


def html(watches: Sequence[Watch]) -> str:
    """The whole page as of now; its script keeps it so, and without scripts it loads itself."""
    now = state(watches)
    names = ", ".join(watch.run.path.resolve().name for watch in watches)
    body = "\n".join(
        f'<section class="run"><div id="now{i}">{now["parts"][f"now{i}"]}</div>\n'
        f'<div class="panels" id="frames{i}">{now["parts"][f"frames{i}"]}</div>\n'
        f'<div id="more{i}">{now["parts"][f"more{i}"]}</div></section>'
        for i in range(len(watches))
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f'<noscript><meta http-equiv="refresh" content="{3 * EVERY}"></noscript>\n'
        f"<title>{escape(names)}: live</title>\n"
        f"<style>{text('study_page.css')}{text('live_page.css')}</style>\n</head>\n<body>\n"
        f'<main data-every="{EVERY}">\n{body}\n'
        "<noscript><p>The charts need scripts; the numbers do not.</p></noscript>\n"
        '<footer><p id="seen" role="status" aria-live="off"></p></footer>\n</main>\n'
        f'<script type="application/json" id="dark">{data(DARK)}</script>\n'
        f'<script type="application/json" id="state">{data(now)}</script>\n'
        '<script src="/plotly.js"></script>\n<script type="module" src="/live.js"></script>\n'
        "</body>\n</html>\n"
    )


def data(value: Any) -> str:
    """JSON that cannot end the script it stands in."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def text(name: str) -> str:
    """A file beside this one."""
    return files("anytrain.report").joinpath(name).read_text(encoding="utf-8")


# --- one run ---------------------------------------------------------------------------------


def _now(watch: Watch, read: Reading | None, problem: str | None) -> str:
    """Name, state, numbers and the command."""
    name = watch.run.path.resolve().name
    trouble = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    if read is None:
        return f'<header><h2 class="name">{escape(name)}</h2></header>{trouble}'
    running = read.activity.running and not problem
    lamp = "running" if running else "stopped"
    boxes = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for label, value, note in (_best(read), _next(read), _data(read), _disk(read))
    )
    return (
        f'<header><h2 class="name">{escape(name)} <span class="state {lamp}">{lamp}</span></h2>'
        f'<p class="unit">{escape(_position(read))}</p></header>{trouble}\n'
        f'<dl class="now">{boxes}</dl>\n{_release(read)}'
    )


def _position(read: Reading) -> str:
    now = read.now
    parts = [read.recipe] if read.recipe not in ("", read.path.resolve().name) else []
    parts += [f"step {now.step:,}", f"{tokens(now.tokens)} tokens"]
    if now.seconds is not None:
        parts.append(f"{span(now.seconds)} trained")
    if now.tokens_per_second:
        parts.append(f"{tokens(now.tokens_per_second)} tokens/s")
    if now.lr is not None:
        parts.append(f"learning rate {now.lr:.3g}")
    if not read.activity.running and read.activity.stopped_by:
        parts.append(f"stopped by {read.activity.stopped_by}")
    return " · ".join(parts)


def _best(read: Reading) -> tuple[str, str, str]:
    best = read.best
    if best is None:
        loss = read.now.loss
        note = f"loss while training {loss:.4f}" if loss is not None else "nothing measured"
        return "Best model now", "—", f"no evaluation yet; {note}"
    name, value = best.best
    noise = f"± {best.stderr[name]:.4f} " if name in best.stderr else ""
    return (
        "Best model now",
        f"{value:.4f}",
        f"{noise}nats/token: {name}, {tokens(best.tokens)} tokens",
    )


def _next(read: Reading) -> tuple[str, str, str]:
    label, ahead = "Next doubling gains", read.ahead
    if ahead is None:
        return label, "—", read.unknown or ""
    note = f"80%: {signed(ahead.low)} to {signed(ahead.high)}; to {ahead.loss:.4f}"
    if read.now.tokens_per_second:
        left = max(0, ahead.tokens - read.now.tokens) / read.now.tokens_per_second
        note += f", {span(left)} away"
    if read.last is not None:
        note += f". The last gained {read.last:.4f}"
    return label, f"{ahead.gain:.4f}", note


def _data(read: Reading) -> tuple[str, str, str]:
    left = read.data_left()
    if left is None:
        return "Data left", "—", "no corpus is pinned"
    seconds, corpus = left
    note = f"pass {corpus.turn}, {corpus.left:,} of {corpus.windows:,} windows left"
    if len(read.corpora) > 1:
        note += f" of {corpus.path}"
    if corpus.new_segments:
        note += f"; grown since by {corpus.new_segments} (--adopt-data)"
    return "Data left", span(seconds) if read.now.tokens_per_second else "—", note


def _disk(read: Reading) -> tuple[str, str, str]:
    disk, left = read.disk, read.disk_left()
    note = f"{size(disk.free)} free"
    if disk.checkpoints:
        note += f", {disk.checkpoints} checkpoints take {size(disk.bytes)}"
    if disk.checkpoints and disk.cap:
        note += f" of at most {size(disk.cap)}"
    if disk.per_day:
        note += f", {size(disk.per_day)} a day"
    return "Disk left", span(left) if left is not None else "—", note


def _release(read: Reading) -> str:
    if read.release is None:
        return '<p class="unit">No checkpoint yet to release anything from.</p>'
    known = ""
    if read.release.loss is not None:
        known = f", {read.release.loss:.4f} nats/token"
    return (
        f'<p class="unit">Release the best a checkpoint holds, {escape(read.release.weights)} of '
        f"step {read.release.step:,}{known}:</p>"
        f'<pre class="command"><code>{escape(read.release.command(read.path))}</code></pre>'
    )


def _frame(chart: Drawn) -> str:
    """Where a chart goes; it is drawn by the script."""
    title = escape(chart.title)
    return (
        f'<figure id="{chart.name}"><h3>{title}</h3>'
        f'<div class="plot" id="plot-{chart.name}" role="img" aria-label="{title}"></div></figure>'
    )


def _more(read: Reading) -> str:
    """The last evaluation: every average beside the raw weights."""
    if not read.found:
        return ""
    last = read.found[-1]
    best = last.best[0]
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="number{" best" if name == best else ""}">{escape(last.shown(name))}</td>'
        f'<td class="number">{signed(loss - last.losses["raw"]) if "raw" in last.losses else "—"}'
        "</td></tr>"
        for name, loss in sorted(last.losses.items(), key=lambda item: item[1])
    )
    return (
        '<div class="scroll" tabindex="0"><table class="fit"><caption>Evaluated at step '
        f"{last.step:,}, {tokens(last.tokens)} tokens</caption><thead><tr><th>weights</th>"
        '<th class="number">nats/token</th><th class="number">− raw</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
