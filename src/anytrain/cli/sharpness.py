"""Curvature of the held-out loss at weights: how flat a model is, beyond how good.

The trace of the Hessian by random probes, the same ones for all weights, so that differences to
the first WEIGHTS are far surer than either trace. --data is a prepared directory, whose held-out
part is read, or a chat file (FILE.jsonl of messages), of which what the assistant says counts.
RUN@A..B is every checkpoint between two moments. With --out, records go to a file as soon as they
are there and the same command goes on with the missing ones.

anytrain sharpness runs/a:raw runs/a:ema25 --data data/mine --out sharpness.jsonl
anytrain sharpness runs/a@0..20B-tokens:raw --data data/mine chat.jsonl --figure trace.png
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anytrain.errors import UserError
from anytrain.grammar import duration, weights_span

_PICTURES = (".png", ".pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", nargs="+", metavar="RUN[@WHEN][:WEIGHTS]")
    parser.add_argument("--data", nargs="+", required=True, metavar="DIR", action="extend",
                        help="prepared directories or chat files")  # fmt: skip
    parser.add_argument("--probes", type=int, default=50, help="random vectors of the trace")
    parser.add_argument("--method", default="auto", choices=("auto", "exact", "difference"))
    parser.add_argument("--tokens", default="64k-tokens", metavar="N", help="held out, at most")
    parser.add_argument("--context", type=int, metavar="TOKENS", help="of a sequence; the model's")
    parser.add_argument("--drop-long", action="store_true",
                        help="leave out rows of a chat file past the context")  # fmt: skip
    parser.add_argument("--batch", type=int, default=8, help="sequences at once; changes nothing")
    parser.add_argument("--top", type=int, default=0, metavar="K", help="largest eigenvalues")
    parser.add_argument("--density", action="store_true", help="of all eigenvalues")
    parser.add_argument("--noise", default="", metavar="S,S", help="relative noise of the weights")
    parser.add_argument("--slice", type=int, nargs="?", const=1, default=0, metavar="1|2",
                        help="the loss along a random direction, or on a plane of two")  # fmt: skip
    parser.add_argument("--barrier", action="store_true", help="on the way to the first WEIGHTS")
    parser.add_argument("--seed", type=int, default=0, help="of the probes")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.jsonl", help="records, added as they come"
    )
    parser.add_argument("--figure", type=Path, metavar="FILE.png",
                        help="traces along tokens; of --slice 2 the planes")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Measure what is missing; print every record with its difference to the first weights'."""
    tokens = _checked(args)
    from anytrain.curvature.job import Request, known, opened, record
    from anytrain.curvature.measure import Measure
    from anytrain.curvature.pages import keep_pages
    from anytrain.files import append_line
    from anytrain.report.sharpness_table import change, lines

    measure = Measure(
        args.probes, args.method, args.top, args.density, _sigmas(args.noise), args.slice, args.seed
    )
    request = Request(
        measure, tokens, args.context, args.batch, args.barrier, drop_long=args.drop_long
    )
    keep_pages()
    there = known(args.out)
    first: dict[str, Any] = {}  # by data
    found = []
    with opened(
        [each for text in args.weights for each in _each(text)], args.data, request
    ) as jobs:
        if args.out is not None:
            args.out.parent.mkdir(parents=True, exist_ok=True)
        for job in jobs:
            made = there.get(job.key)
            if made is None:
                made = record(job)
                if args.out is not None:
                    append_line(args.out, made)
            found.append(made)
            to = first.get(job.data)
            first.setdefault(job.data, made)
            if args.json:
                apart = None if to is None else change(to, made).to_json()
                print(json.dumps(made | {"to_first": apart}), flush=True)
            else:
                print("\n".join(lines(made, to)), flush=True)
    if args.figure is not None:
        _draw(args.figure, found, quiet=args.json)
    return 0


def _checked(args: argparse.Namespace) -> int:
    """Targets to read; UserError for what can be refused before anything is opened."""
    text = str(args.tokens)
    amount = duration(text if not text.isdigit() else f"{text}-tokens", what="--tokens")
    if amount.unit != "tokens" or amount.amount < 1:
        raise UserError(f"--tokens {text}; 1 token or more is valid, for example 64k-tokens")
    if args.context is not None and args.context < 1:
        raise UserError(f"--context {args.context}; 1 token or more is valid")
    if args.batch < 1:
        raise UserError(f"--batch {args.batch}; 1 sequence or more is valid")
    if args.figure is not None:
        if args.figure.suffix not in _PICTURES:
            raise UserError(f"--figure {args.figure}; a name in {' or '.join(_PICTURES)} is valid")
        from anytrain.report.figures import require

        require()
    return int(amount.amount)


def _sigmas(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise UserError(f"--noise {text}; numbers with commas, as 0.01,0.03, are valid") from error


def _each(text: str) -> Iterator[str]:
    """The weights that a text names: of RUN@A..B[:WEIGHTS] at every checkpoint, raw if unnamed."""
    from anytrain.merging.inputs import within
    from anytrain.rundir import RunDir

    span = weights_span(text)
    if span is None:
        yield text
        return
    run = RunDir.open(span.run)
    for checkpoint in within(run, span):
        yield f"{span.run}@{checkpoint.step}:{span.weights or 'raw'}"


def _draw(out: Path, found: list[dict[str, Any]], quiet: bool) -> None:
    """One picture; of several data sets one each, by the name of the data, and one a plane."""
    from anytrain.files import write_atomic
    from anytrain.report.chart_matplotlib import drawn
    from anytrain.report.plane_picture import picture
    from anytrain.report.sharpness_chart import sharpness_charts

    kind: Any = "pdf" if out.suffix == ".pdf" else "png"
    charts = sharpness_charts(found)
    pictures = {
        f"-{number}-{Path(data).stem}" if len(charts) > 1 else "": drawn(chart, kind)
        for number, (data, chart) in enumerate(charts.items(), 1)
    }
    planes = [record for record in found if "plane" in record]
    pictures |= {
        f"-plane-{number}": picture(record, kind) for number, record in enumerate(planes, 1)
    }
    for name, data in pictures.items():
        path = out.with_name(f"{out.stem}{name}{out.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        if not quiet:
            print(f"wrote {path}")
