"""A new run from an old one's complete state; nothing of the old one changes.

  anytrain fork runs/a@9000 --out runs/b schedule.peak=1e-3
  anytrain fork runs/a --cooldown 10% --end 20M-tokens --out runs/a-20M

A cooldown is the last 10% of the branch's total, forked at 90% of it, so that everything is
compared at equal total tokens. A moment without a checkpoint is reached by replaying.
"""

import argparse
import json
import re
from pathlib import Path

from anytrain.errors import UserError
from anytrain.grammar import import_user_module, moment, weights_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN[@WHEN]", help="where to fork; the latest checkpoint")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--out", type=Path, required=True, help="the new run directory")
    parser.add_argument("--cooldown", metavar="PERCENT", help="decay over the last part, as 10%%")
    parser.add_argument("--end", metavar="MOMENT", help="where the cooldown ends")
    parser.add_argument("--shape", default="sqrt", choices=("linear", "sqrt", "cosine", "square"))
    parser.add_argument("--final", type=float, default=0.0, help="fraction of the rate at the end")
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    imports = {module: import_user_module(module) for module in args.imports}
    fraction = _percent(args.cooldown) if args.cooldown else None
    if fraction is None and args.end:
        raise UserError("--end goes with --cooldown")
    end = moment(args.end, what="--end") if args.end else None

    from anytrain.training.fork import Branch, fork

    branch = None if fraction is None else Branch(fraction, end, args.shape, args.final)
    recipe = fork(weights_name(args.run), args.out, args.settings, branch, _say, imports)
    if args.json:
        print(json.dumps({"run": str(args.out), "schedule": recipe.schedule}))
    else:
        _say(f"{args.out} begins where {args.run} was; train it: anytrain train --run {args.out}")
    return 0


def _percent(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if match is None:
        raise UserError(f"--cooldown {text!r} is not a percentage; 10% is valid")
    return float(match[1]) / 100


def _say(line: str) -> None:
    import sys

    print(f"anytrain: {line}", file=sys.stderr, flush=True)
