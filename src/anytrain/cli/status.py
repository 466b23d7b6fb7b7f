"""Where a run is, what it gained, what the next doubling buys, and how to release its best.

Works on a run that trains and on one that has stopped. Losses are nats/token on the validation
set. The prediction fits E + A·tokens^(−β) to the best weights' losses of the last two doublings
and of the last four; its interval is to hold the measured gain with probability 0.8.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytrain.compare.frontier import Row
    from anytrain.evaluations import Evaluation


STAGES = {"mid": "mid-training", "cooldown": "a cooldown"}  # in words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and the form of the answer."""
    parser.add_argument("run", metavar="RUN", help="the run directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the status of a run."""
    found = status(args.run)
    if args.json:
        import json

        print(json.dumps(found, indent=2))
    else:
        print("\n".join(lines(found)))
    return 0


# --- what there is to say --------------------------------------------------------------------


def status(path: str) -> dict[str, Any]:
    """Everything `anytrain status` says, as plain data; absent is None."""
    from dataclasses import asdict

    from anytrain.compare import frontier, standing, supplies
    from anytrain.rundir import RunDir

    run = RunDir.open(path)
    recipe, identity = run.recipe, run.identity
    checkpoints = standing.readable(run)
    now = standing.position(run, checkpoints)
    table = frontier.frontier(run)
    found, best = table.evaluations, table.best
    context = int(recipe["train"]["context"])
    release = standing.candidate(found, checkpoints)
    samples = supplies.samples_at(now, checkpoints, context)
    corpora = supplies.corpora(identity, samples)
    return {
        "run": path,
        "name": recipe.get("name"),
        "schedule": recipe["schedule"],
        **asdict(standing.activity(run)),
        "step": now.step,
        "tokens": now.tokens,
        "unit_tokens": table.unit,
        "units": now.tokens / table.unit,
        "seconds": now.seconds,
        "tokens_per_second": now.tokens_per_second,
        "loss": now.loss,
        "lr": now.lr,
        "best": _evaluation(best) if best else None,
        "frontier": [_row(row) for row in table.rows if row.best],
        **_gains(found, recipe),
        "data": [
            {
                **asdict(corpus),
                "left": corpus.left,
                "seconds_left": _seconds(corpus.left * context, now, corpus.share),
            }
            for corpus in corpora
        ],
        "disk": asdict(supplies.disk(run, checkpoints, now, recipe)),
        "lineage": [asdict(ancestor) for ancestor in standing.lineage(run)],
        "release": {**asdict(release), "command": release.command(run.path)} if release else None,
    }


def _evaluation(evaluation: "Evaluation") -> dict[str, Any]:
    name, loss = evaluation.best
    return {
        "step": evaluation.step,
        "tokens": evaluation.tokens,
        "weights": name,
        "loss": loss,
        "stderr": evaluation.stderr.get(name),
        "raw": evaluation.losses.get("raw"),
    }


def _row(row: "Row") -> dict[str, Any]:
    assert row.best is not None
    return {
        "units": row.units,
        "step": row.step,
        "tokens": row.tokens,
        "weights": row.best[0],
        "loss": row.best[1],
        "stderr": row.stderr.get(row.best[0]),
        "raw": row.losses.get("raw"),
    }


def _gains(found: "Sequence[Evaluation]", recipe: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from anytrain.compare import frontier, predict

    curve = predict.best_curve(found)
    answer: dict[str, Any] = {"last_doubling": predict.gained(curve), "next_doubling": None}
    kind = frontier.horizon_kind(recipe)
    if kind is not None:
        return answer | {"next_doubling_unknown": f"none: a {kind} ends at its horizon"}
    try:
        ahead = predict.forecast(curve, frontier.warmup_tokens(recipe))
    except predict.TooEarly as why:
        return answer | {"next_doubling_unknown": str(why)}
    return answer | {"next_doubling": asdict(ahead), "next_doubling_unknown": None}


def _seconds(tokens: float, now: Any, share: float = 1.0) -> float | None:
    rate = now.tokens_per_second
    return tokens / (rate * share) if rate and share else None


# --- the same in words -----------------------------------------------------------------------


def lines(found: dict[str, Any]) -> list[str]:
    """The status as a person reads it."""
    from anytrain.words import span, tokens

    out = [f"{found['run']}  {_activity(found)}", ""]
    at = f"step {found['step']:,} · {tokens(found['tokens'])} tokens · {found['units']:.3g} units"
    at += f" of {tokens(found['unit_tokens'])}"
    if found["seconds"] is not None:
        at += f" · {span(found['seconds'])} trained"
    out.append(_line("at", at))
    if found["tokens_per_second"]:
        out.append(_line("pace", f"{tokens(found['tokens_per_second'])} tokens/s"))
    out += _loss_lines(found)
    out += _data_lines(found)
    out += _disk_lines(found["disk"])
    for ancestor in found["lineage"]:
        out.append(_line("from", _ancestor(ancestor)))
    out.append("")
    release = found["release"]
    if release is None:
        out.append(_line("release", "nothing yet: no checkpoint"))
    else:
        if release["loss"] is None:
            out.append(_line("", "not evaluated yet; its raw weights are"))
        elif release["evaluated_at"] != release["step"]:
            out.append(_line("", f"best known from the evaluation at {release['evaluated_at']:,}"))
        out.append(_line("release", release["command"]))
    return out


def _line(label: str, text: str) -> str:
    return f"{label:<15} {text}".rstrip()


def _activity(found: dict[str, Any]) -> str:
    if found["running"]:
        return f"running ({found['holder']})"
    when = f", {found['time']}" if found["time"] else ""
    if found["stopped_by"]:
        return f"stopped by {found['stopped_by']}{when}"
    if found["time"]:
        return f"not running; it ended without a word (killed?) after its start{when[1:]}"
    return "not started yet"


def _loss_lines(found: dict[str, Any]) -> list[str]:
    from anytrain.words import span, tokens

    best = found["best"]
    if best is None:
        return [_line("best", "no evaluation yet")]
    noise = f" ± {best['stderr']:.4f}" if best["stderr"] is not None else ""
    averaged = best["weights"] != "raw" and best["raw"] is not None
    raw = f" (raw {best['raw']:.4f})" if averaged else ""
    out = [_line("best", f"{best['loss']:.4f}{noise} nats/token: {best['weights']}{raw}"), ""]
    out.append(_line("frontier", "   units    tokens      step     best  weights"))
    for row in found["frontier"]:
        out.append(
            _line(
                "",
                f"{row['units']:>8.3g}  {tokens(row['tokens']):>8}  {row['step']:>8,}"
                f"  {row['loss']:.4f}  {row['weights']}",
            )
        )
    out.append("")
    last, ahead = found["last_doubling"], found["next_doubling"]
    known = "unknown: the run has not doubled since its first evaluation"
    out.append(_line("last doubling", f"gained {last:.4f}" if last is not None else known))
    if ahead is None:
        out.append(_line("next doubling", found["next_doubling_unknown"]))
        return out
    text = f"gains {ahead['gain']:.4f} (80%: {ahead['low']:.4f} to {ahead['high']:.4f}), "
    text += f"to {ahead['loss']:.4f} at {tokens(ahead['tokens'])} tokens"
    if found["tokens_per_second"]:
        left = max(0, ahead["tokens"] - found["tokens"]) / found["tokens_per_second"]
        text += f", {span(left)} away"
    out.append(_line("next doubling", text))
    return out


def _data_lines(found: dict[str, Any]) -> list[str]:
    from anytrain.words import span

    out = []
    for corpus in found["data"]:
        text = f"{corpus['path']}: pass {corpus['turn']}, "
        text += f"{corpus['left']:,} of {corpus['windows']:,} windows left"
        if corpus["seconds_left"] is not None:
            text += f", ends in {span(corpus['seconds_left'])} at this pace"
        if corpus["new_segments"]:
            text += f"; grown since by {corpus['new_segments']} (taken in by --adopt-data)"
        out.append(_line("data", text))
    return out


def _disk_lines(disk: dict[str, Any]) -> list[str]:
    from anytrain.words import size, span

    text = f"{disk['checkpoints']} checkpoints, {size(disk['bytes'])}"
    if disk["cap"]:
        text += f" of at most {size(disk['cap'])}"
    if disk["snapshots"]:
        text += f" · snapshots, {size(disk['snapshots'])}"
    text += f" · {size(disk['free'])} free"
    if disk["per_day"]:
        text += f" · {size(disk['per_day'])} a day at this pace"
        text += f", full in {span(disk['free'] / disk['per_day'] * 86400)}"
    return [_line("disk", text)]


def _ancestor(ancestor: dict[str, Any]) -> str:
    text = f"{ancestor['path']} at step {ancestor['step']:,}"
    text += f", {STAGES.get(ancestor['stage'], ancestor['stage'])}" if ancestor["stage"] else ""
    changes = [f"{key}: {old} → {new}" for key, (old, new) in ancestor["changes"].items()]
    text += f" ({'; '.join(changes)})" if changes else ""
    return text if ancestor["present"] else f"{text}; no longer there"
