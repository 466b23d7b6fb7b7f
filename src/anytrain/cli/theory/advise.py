"""The schedule and the average for a range of budgets, and what not knowing the budget costs.

Searched are an exponent, an offset, a warmup, a multiplier and an averaging rule that are the same
for every budget. Their anytime regret is the largest ratio, over the budgets, of their risk to that
of the best schedule whose settings are all tuned for the budget. With --out, DIR gets regret.png;
families.csv, what was found; ratios.csv, by budget; baselines.csv, what knows the budget.

anytrain theory advise --capacity 1.5 --source 3 --budgets 1e3:1e6
"""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from anytrain.errors import UserError

if TYPE_CHECKING:
    from anytrain.theory.regret import Advice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--capacity", type=float, required=True, metavar="a",
                        help="eigenvalues fall as i^-a; above 1")  # fmt: skip
    parser.add_argument("--source", type=float, required=True, metavar="b",
                        help="eigenvalue times squared target falls as i^-b; above 1")  # fmt: skip
    parser.add_argument("--budgets", required=True, metavar="LO:HI",
                        help="steps, such as 1e3:1e6")  # fmt: skip
    parser.add_argument("--noise", type=float, default=0.01, metavar="σ²", help="a variance")
    parser.add_argument("--dim", type=_whole, default=500_000, metavar="d")
    parser.add_argument("--batch", type=float, default=1.0, metavar="B", help="samples a step")
    parser.add_argument("--no-warmup", action="store_true",
                        help="every schedule, tuned ones too, begins at its peak")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=Path, help="write tables and a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--workers", type=_whole, default=os.cpu_count() or 1, metavar="THREADS")


def _whole(text: str) -> int:
    """500000, 500_000 or 5e5."""
    value = float(text)
    if not value.is_integer():  # nor inf, nor nan
        raise ValueError
    return int(value)


_whole.__name__ = "whole number"  # argparse: invalid whole number value: '…'


def budgets(text: str) -> tuple[int, int]:
    """`1e3:1e6` -> (1000, 1000000)."""
    from anytrain.theory.regret import LEAST, MOST

    valid = f"LO:HI in whole steps, {LEAST} <= LO < HI <= {MOST:,}, such as 1e3:1e6, is valid"
    try:
        low, high = (_whole(part) for part in text.split(":"))
    except (ValueError, OverflowError) as error:
        raise UserError(f"--budgets {text!r}; {valid}") from error
    if not LEAST <= low < high <= MOST:
        raise UserError(f"--budgets {text!r}; {valid}")
    return low, high


def run(args: argparse.Namespace) -> int:
    """Print the advice; with --out, write the tables and the figure."""
    import anytrain.theory

    _ = anytrain.theory.simulate  # or the sentence that says how to install it
    low, high = budgets(args.budgets)
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}; 1 or more is valid")
    if args.out is not None:
        _check_out(args.out)
    from anytrain.report import theory_advice
    from anytrain.theory.problem import Problem
    from anytrain.theory.regret import advise

    try:
        problem = Problem(args.dim, args.capacity, args.source, args.noise)
        advice = advise(
            problem, low, high,
            batch=args.batch, warmup=not args.no_warmup, workers=args.workers,
        )  # fmt: skip
    except MemoryError as error:
        raise UserError(f"--dim {args.dim} does not fit in memory") from error
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(str(error)) from error
    written = write(advice, args.out) if args.out is not None else []
    if args.json:
        record = {**theory_advice.record(advice), "written": [str(path) for path in written]}
        print(json.dumps(record, ensure_ascii=False))
        return 0
    print(theory_advice.text(advice))
    if written:
        print("\nwrote " + ", ".join(map(str, written)))
    return 0


def write(advice: "Advice", out: Path) -> list[Path]:
    """Every file, made before the first is written."""
    from anytrain.files import write_atomic
    from anytrain.report import theory_advice, theory_regret

    files: dict[str, str | bytes] = {
        "families.csv": theory_advice.families(advice),
        "ratios.csv": theory_advice.ratios(advice),
        "baselines.csv": theory_advice.baselines(advice),
        "regret.png": theory_regret.by_budget(advice),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(out / name, content)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from error
    return [out / name for name in files]


def _check_out(out: Path) -> None:
    """Before a minute of work: matplotlib is there, and DIR is or can become a directory."""
    from anytrain.report import figures

    figures.require()
    there = next((path for path in (out, *out.parents) if path.exists()), Path())
    if not there.is_dir():
        raise UserError(f"--out {out}: {there} is a file; a directory, there or not, is valid")
    if not os.access(there, os.W_OK):
        raise UserError(f"--out {out}: {there} cannot be written to; one that can be is valid")
