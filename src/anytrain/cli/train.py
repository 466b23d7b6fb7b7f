"""Train a recipe until told to stop, or go on with a run.

anytrain train demo                            endless: Ctrl-C ends after the present step
anytrain train demo --run runs/a --for 20M-tokens
anytrain train --run runs/a                    goes on where it was
anytrain train demo --run runs/a --until 20B-tokens        safe in a job that is requeued
anytrain train demo --run runs/b schedule.peak=1e-3 train.batch=32
"""

import argparse
import os
import sys
from pathlib import Path

from anytrain.errors import UserError
from anytrain.grammar import duration, import_user_module, moment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a shipped recipe or a TOML file")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--run", type=Path, help="the run directory; runs/RECIPE if absent")
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--for", dest="length", metavar="DURATION", help="counted from here")
    how_long.add_argument("--until", metavar="MOMENT", help="counted from the run's start")
    parser.add_argument("--new", action="store_true", help="fail if there is a run already")
    parser.add_argument(
        "--from", dest="start_from", metavar="WEIGHTS", help="weights to begin with"
    )
    parser.add_argument(
        "--adopt-data", action="store_true", help="read newly appended segments too"
    )
    parser.add_argument("--devices", type=int, metavar="N",
                        help="processes to train with; as many as there are GPUs")  # fmt: skip
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE",
                        help="a module of yours with rules or schedules")  # fmt: skip
    parser.add_argument("--preempted-exit-code", type=int, default=0, metavar="N",
                        help="exit code after SIGTERM, SIGINT or SIGUSR1")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    recipe, settings = args.recipe, list(args.settings)
    if recipe is not None and "=" in recipe:  # `train --run DIR key=value`
        settings.insert(0, recipe)
        recipe = None
    if args.run is None and recipe is None:
        raise UserError("train needs a recipe to begin with or --run DIR to go on with")
    length = duration(args.length, what="--for") if args.length else None
    until = moment(args.until, what="--until") if args.until else None
    if until is not None and until.unit == "seconds":
        raise UserError(f"--until {until} is a time; a step or tokens are valid, or --for {until}")
    imports = {name: import_user_module(name) for name in args.imports}

    from anytrain.training import launch

    if not launch.inside() and (devices := launch.wanted(args.devices)) > 1:
        return launch.launch(devices, args.words)

    from anytrain.training.distributed import Elsewhere
    from anytrain.training.pretrain import Request, pretrain
    from anytrain.training.stopping import Interrupted, Stop

    path = args.run or Path("runs") / Path(recipe).stem
    request = Request(
        path,
        recipe,
        tuple(settings),
        new=args.new,
        adopt_data=args.adopt_data,
        start_from=args.start_from,
        imports=imports,
    )
    say = _say if int(os.environ.get("RANK", "0")) == 0 else lambda line: None
    try:
        outcome = pretrain(request, Stop(length, until), _say)
    except Interrupted as signal:
        say(f"stopped by {signal} before the first step; nothing was lost")
        return int(args.preempted_exit_code)
    except Elsewhere as error:
        return error.code
    clock = outcome.clock
    say(f"stopped by {outcome.reason} at step {clock.step}, {clock.tokens:,} tokens")
    onward = "" if outcome.reason == "horizon" else f"go on: anytrain train --run {path}    "
    say(f"{onward}where it is: anytrain status {path}")
    return args.preempted_exit_code if outcome.signalled else 0


def _say(line: str) -> None:
    print(f"anytrain: {line}", file=sys.stderr, flush=True)
