"""A new run from an old one's complete state; nothing of the old one changes.

  anytrain fork runs/a@9000 --out runs/b schedule.peak=1e-3
  anytrain fork runs/a --cooldown 10% --end 20M-tokens --out runs/a-20M
  anytrain fork runs/a@20M-tokens --stage mid --out runs/a-mid data.path=data/other

Mid-training goes on with other data at the last rate, with no new warmup: for ever, or with
--final 0.1 --end 25M-tokens decayed linearly to a tenth of it.

A cooldown is the last 10% of the branch's total, forked at 90% of it, so that everything is
compared at equal total tokens. A moment without a checkpoint is reached by replaying.
"""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from anytrain.errors import UserError
from anytrain.grammar import import_user_module, moment, weights_name

if TYPE_CHECKING:
    from anytrain.training.stage import Stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN[@WHEN]", help="where to fork; the latest checkpoint")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--out", type=Path, required=True, help="the new run directory")
    parser.add_argument("--cooldown", metavar="PERCENT", help="decay over the last part, as 10%%")
    parser.add_argument("--stage", choices=("mid",), help="mid-training on other data")
    parser.add_argument("--end", metavar="MOMENT", help="where the decay ends, of the whole run")
    shapes = ("linear", "sqrt", "cosine", "square")
    parser.add_argument("--shape", choices=shapes, help="of a cooldown; sqrt")
    parser.add_argument(
        "--final", type=float, help="fraction of the rate at the end; 0, and 1 of mid-training"
    )
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    imports = {module: import_user_module(module) for module in args.imports}
    stage = _stage(args)

    from anytrain.training.fork import fork

    recipe = fork(weights_name(args.run), args.out, args.settings, stage, _say, imports)
    if args.json:
        print(json.dumps({"run": str(args.out), "schedule": recipe.schedule}))
    else:
        _say(f"{args.out} begins where {args.run} was; train it: anytrain train --run {args.out}")
    return 0


def _stage(args: argparse.Namespace) -> "Stage | None":
    from anytrain.training.stage import Cooldown, Mid

    end = moment(args.end, what="--end") if args.end else None
    if args.stage:
        if lost := [o for o in ("cooldown", "shape") if getattr(args, o) is not None]:
            raise UserError(f"--{lost[0]} goes without --stage {args.stage}, which decays linearly")
        return Mid(end, 1.0 if args.final is None else args.final)
    if args.cooldown:
        return Cooldown(_percent(args.cooldown), end, args.shape or "sqrt", args.final or 0.0)
    for option in ("end", "shape", "final"):
        if getattr(args, option) is not None:
            raise UserError(f"--{option} goes with --cooldown or --stage mid")
    return None


def _percent(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if match is None:
        raise UserError(f"--cooldown {text!r} is not a percentage; 10% is valid")
    return float(match[1]) / 100


def _say(line: str) -> None:
    import sys

    print(f"anytrain: {line}", file=sys.stderr, flush=True)
