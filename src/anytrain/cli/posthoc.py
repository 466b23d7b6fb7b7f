"""What `anytrain merge` does with one moment of a run: rebuild, search, combine."""

import argparse
import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytrain.errors import UserError
from anytrain.grammar import WeightsName, weights_name, weights_span

if TYPE_CHECKING:
    from anytrain.merging.inputs import Input
    from anytrain.selection.widths import Width


@dataclass(frozen=True)
class Plan:
    """What to add up, and what to say of it."""

    inputs: list["Input"]
    weights: list[float]
    rule: str
    lines: list[str]
    record: dict[str, Any] = field(default_factory=dict)


def moment_of_a_run(texts: list[str]) -> WeightsName | None:
    """The one moment of a run that the inputs are; None for anything else."""
    if len(texts) != 1 or Path(texts[0]).is_file() or weights_span(texts[0]) is not None:
        return None
    name = weights_name(texts[0])
    return name if (Path(name.run) / "run.json").is_file() else None


def _named(args: argparse.Namespace, option: str) -> WeightsName:
    name = moment_of_a_run(args.inputs)
    if name is None:
        raise UserError(f"{option} takes one moment of one run, RUN[@WHEN], not {args.inputs}")
    return name


@contextmanager
def rebuild(args: argparse.Namespace, name: WeightsName) -> Iterator[Plan]:
    """The average of `--rule` at a moment, from the run's snapshots."""
    from anytrain import rules
    from anytrain.merging.rebuild import history
    from anytrain.merging.weighing import reference_tokens

    with history(name) as past:
        rule = rules.rule(args.rule, reference_tokens(past.run))
        found = past.rebuild(rule)
        past.check(found, args.rule, args.max_error)
        says = (
            f"{args.rule} at step {past.t:g} from {len(found.inputs)} of {len(past.kept)} stored "
            f"averages: relative L2 error of the profile {found.fit.error:.2%}, Σ|a| "
            f"{found.fit.amplification:.2f}"
        )
        record = {"profile_error": found.fit.error, "amplification": found.fit.amplification}
        yield Plan(found.inputs, found.weights, args.rule, [says], record)


@contextmanager
def search(args: argparse.Namespace) -> Iterator[Plan]:
    """The width that minimises validation loss at a moment; `--curve` draws it."""
    from anytrain.merging.rebuild import history
    from anytrain.report import figures
    from anytrain.rules import PowerEma
    from anytrain.selection.scoring import Scorer
    from anytrain.selection.widths import best_of, curve, search

    if args.curve is not None:
        figures.require()
    with history(_named(args, "--search")) as past:
        widths = search(past, Scorer(past.run), args.max_error, _say(args))
        best = best_of(widths)
        found, rule = (
            past.rebuild(PowerEma(best.sigma_rel)),
            f"power_ema:sigma_rel={best.sigma_rel}",
        )
        lines = [
            f"best: {rule}, {best.report.mean:.4f} ± {best.report.stderr:.4f} nats/token on the "
            "half that did not choose it"
        ]
        if args.curve is not None:
            curve(widths, args.curve, f"{past.run.path} at step {past.t:g}")
            _write_csv(widths, args.curve.with_suffix(".csv"))
            lines.append(f"drew {args.curve}, and {args.curve.with_suffix('.csv').name} beside it")
        loss = {"loss": best.report.mean, "stderr": best.report.stderr}
        record = {"sigma_rel": best.sigma_rel, "profile_error": best.error, **loss}
        yield Plan(found.inputs, found.weights, rule, lines, record)


@contextmanager
def combine(args: argparse.Namespace) -> Iterator[Plan]:
    """The best convex combination of what a checkpoint holds."""
    from anytrain.merging import opened
    from anytrain.rundir import RunDir
    from anytrain.selection.combine import combine, of_checkpoint
    from anytrain.selection.scoring import Scorer

    name = _named(args, "--combine")
    run = RunDir.open(name.run)
    checkpoint = run.find(name.when)
    found = combine(Scorer(run), of_checkpoint(run, checkpoint), _say(args))
    lines = [
        "combination: " + ", ".join(f"{share:.3f} {who}" for who, share in found.shares.items()),
        f"{found.loss.mean:.4f} ± {found.loss.stderr:.4f} nats/token on the half that did not "
        f"choose it; {found.best} alone {found.best_loss.mean:.4f}; gain {found.gain.mean:+.4f} ± "
        f"{found.gain.stderr:.4f}",
    ]
    record = {"loss": found.loss.mean, "best": found.best, "gain": found.gain.mean}
    texts = [f"{run.path}@{checkpoint.step}:{who}" for who in found.shares]
    with opened(texts) as inputs:
        yield Plan(inputs, list(found.shares.values()), "combination", lines, record)


def _say(args: argparse.Namespace) -> Callable[[str], Any]:
    return (lambda _: None) if args.json else print


def _write_csv(widths: list["Width"], path: Path) -> None:
    from anytrain.files import write_atomic

    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(
        ["sigma_rel", "profile_error", "selection", "selection_stderr", "report", "report_stderr"]
    )
    for width in widths:
        halves = (width.selection, width.report)
        losses = [x for half in halves for x in (half.mean, half.stderr)]
        table.writerow([width.sigma_rel, f"{width.error:.3g}", *(f"{x:.6f}" for x in losses)])
    write_atomic(path, out.getvalue())
