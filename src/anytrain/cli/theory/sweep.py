"""The synthetic experiment of arXiv:2602.03702: schedules and averages on power-law problems.

A panel is one (a, b): eigenvalues i^-a, target such that eigenvalue times its square is i^-b. Every
schedule without a horizon gets one setting for all checkpoints, WSD and cosine one for each. With
--out, DIR gets risk.png and slopes.png; results.csv, every choice at every checkpoint; slopes.csv,
their last decades; local.csv, local slopes for several dimensions; grid.csv, all that was searched.

anytrain theory sweep --out figure3
anytrain theory sweep --panel 1.5:4 --dim 10000 --steps 5000
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from anytrain.errors import UserError

if TYPE_CHECKING:
    from anytrain.theory.slopes import Local, Slope
    from anytrain.theory.sweep import Panel, Setup

T = TypeVar("T")
FAR = 20  # local slopes go on to so many times the steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--capacity", type=_list(float), default=[1.1, 1.5, 1.9], metavar="a,…",
                        help="capacities; 1.1,1.5,1.9 if absent")  # fmt: skip
    parser.add_argument("--source-ratio", type=_list(float), default=[1, 2], metavar="b/a,…",
                        help="sources, as multiples of the capacity; 1,2 if absent")  # fmt: skip
    parser.add_argument("--panel", type=_panel, action="append", metavar="a:b",
                        help="a panel of its own, in place of both; may be repeated")  # fmt: skip
    parser.add_argument("--dim", type=_whole, default=500_000, metavar="d",
                        help="dimension; 500000 if absent")  # fmt: skip
    parser.add_argument("--steps", type=_whole, default=50_000, metavar="N",
                        help="samples, one a step; 50000 if absent")  # fmt: skip
    parser.add_argument("--noise", type=float, default=0.01, metavar="σ²",
                        help="variance of the noise; 0.01 if absent")  # fmt: skip
    parser.add_argument("--dims", type=_list(_whole), metavar="d,…",
                        help="of the local slopes; d/50, d/5, d and 10·d if absent")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=Path, help="write tables and figures")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--workers", type=_whole, default=os.cpu_count() or 1, metavar="THREADS",
                        help="one a processor if absent")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print a table a panel as it is found; with --out, write the files at the end."""
    import anytrain.theory

    _ = anytrain.theory.simulate  # or the sentence that says how to install it
    if args.out is not None:
        _check_out(args.out)
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}; 1 or more is valid")
    try:
        return _run(args)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
    except MemoryError as error:
        raise UserError(
            f"--dim {args.dim} and --steps {args.steps} do not fit in memory"
        ) from error


def _run(args: argparse.Namespace) -> int:
    from anytrain.report import theory_table
    from anytrain.theory.problem import Problem
    from anytrain.theory.slopes import last_decade, local_slopes
    from anytrain.theory.sweep import Setup, run_panel

    panels = args.panel or [(a, ratio * a) for ratio in args.source_ratio for a in args.capacity]
    setup = Setup(tuple(dict.fromkeys(panels)), args.dim, args.steps, args.noise)
    dims = args.dims or [max(args.dim // 50, 1), max(args.dim // 5, 1), args.dim, 10 * args.dim]
    for dim in (dims := sorted(set(dims))):
        Problem(dim, *setup.panels[0])  # says what is wrong with it
    found: list[tuple[Panel, list[Slope]]] = []
    lines: list[tuple[Local, ...]] = []
    for capacity, source in setup.panels:
        panel = run_panel(setup, capacity, source, args.workers)
        slopes = list(last_decade(panel))
        found.append((panel, slopes))
        if not args.json:
            print(theory_table.text(panel, slopes), end="\n\n", flush=True)
        if args.out is not None:
            lines.append(local_slopes(panel, dims, FAR * args.steps, args.workers))
    written = write(setup, found, lines, args.out) if args.out is not None else []
    if args.json:
        rows = [row for panel, slopes in found for row in theory_table.records(panel, slopes)]
        print(json.dumps({"choices": rows, "written": [str(path) for path in written]}))
        return 0
    print("\n".join(legend(setup)))
    if written:
        print("\nwrote " + ", ".join(map(str, written)))
    return 0


def legend(setup: "Setup") -> list[str]:
    """How to read the columns."""
    first = next(n for n in setup.checkpoints if 10 * n >= setup.steps)
    return [
        "R: half the excess risk. m: the rate, or the peak of it, is m/tr H.",
        "*: at the end of its grid, beyond which the best may lie.",
        f"slope: least squares of log R on log N, from {first:,} to {setup.steps:,} samples.",
        "theory: its limit for many samples and dimensions; a finite size need not be there yet.",
    ]


def write(
    setup: "Setup",
    found: "list[tuple[Panel, list[Slope]]]",
    lines: "list[tuple[Local, ...]]",
    out: Path,
) -> list[Path]:
    """Every file, made before the first is written."""
    from anytrain.files import write_atomic
    from anytrain.report import theory_sweep, theory_table

    panels = [panel for panel, _ in found]
    files: dict[str, str | bytes] = {
        "results.csv": theory_table.results(panels),
        "slopes.csv": theory_table.slopes(found),
        "local.csv": theory_table.local(list(zip(panels, lines, strict=True))),
        "grid.csv": theory_table.grid(panels),
        "risk.png": theory_sweep.risk_figure(setup, panels),
        "slopes.png": theory_sweep.slope_figure(setup, panels, lines),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(out / name, content)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from error
    return [out / name for name in files]


def _check_out(out: Path) -> None:
    """Before minutes of work: matplotlib is there, and DIR is or can become a directory."""
    from anytrain.report import figures

    figures.require()
    there = next((path for path in (out, *out.parents) if path.exists()), Path())
    if not there.is_dir():
        raise UserError(f"--out {out}: {there} is a file; a directory, there or not, is valid")
    if not os.access(there, os.W_OK):
        raise UserError(f"--out {out}: {there} cannot be written to; one that can be is valid")


# --- what is typed ---------------------------------------------------------------------------


def _whole(text: str) -> int:
    """500000, 500_000 or 5e5."""
    value = float(text)
    if not value.is_integer():  # nor inf, nor nan
        raise ValueError
    return int(value)


_whole.__name__ = "whole number"  # argparse: invalid whole number value: '…'


def _list(of: Callable[[str], T]) -> Callable[[str], list[T]]:
    def parse(text: str) -> list[T]:
        return [of(part) for part in text.split(",")]

    parse.__name__ = f"list of {of.__name__}s"
    return parse


def _panel(text: str) -> tuple[float, float]:
    capacity, source = text.split(":")
    return float(capacity), float(source)


_panel.__name__ = "a:b"
