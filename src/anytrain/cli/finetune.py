"""Fine-tune any weights by TRL: every rate on one seed, then seeds at the best rate of each.

anytrain finetune runs/a runs/a@2000:raw --data chat.jsonl --out tuned
anytrain finetune runs/wso runs/cosine --data chat.jsonl --lr 1e-5,3e-5,1e-4 --seeds 5 \\
    --out tuned --retention data/tokens sft.adam_beta2=0.95
anytrain finetune runs/wso-2 --data chat.jsonl --lr-of tuned-1 --out tuned-2
anytrain finetune tuned/models/a-lr3e-05-seed1 --method dpo --data pairs.jsonl --out preferred

Rows are {"messages": [{"role", "content"}, …]} or {"prompt", "completion"}; for DPO
{"prompt", "chosen", "rejected"}. Nine tenths train; the rate is chosen on one half of the rest
(--metric) and the seeds are measured on the other. The same command goes on after a kill, and with
more weights, rates or seeds adds what is missing. sft.KEY=VALUE and dpo.KEY=VALUE are settings of
TRL. Several processes: torchrun --standalone --nproc-per-node N -m
anytrain finetune …
"""

import argparse
import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from anytrain.errors import UserError, missing_extra

if TYPE_CHECKING:
    from anytrain.posttrain.points import Points
    from anytrain.posttrain.settings import Settings
    from anytrain.posttrain.sweep import Plan

_SETTING = re.compile(r"(sft|dpo)\.\w*=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", nargs="+",
                        help="a run's or a directory's; settings of TRL")  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, metavar="CHAT.jsonl")
    parser.add_argument("--validation", type=Path, metavar="FILE",
                        help="held-out rows; a tenth of --data if absent")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--method", default="sft", choices=("sft", "dpo"))
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--lr", default="1e-5,3e-5,1e-4,3e-4", metavar="RATE,RATE,…")
    rate.add_argument("--lr-of", type=Path, metavar="DIR",
                      help="the rate that another sweep chose; nothing is tuned")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="at the chosen rate; 3 if absent")
    parser.add_argument("--metric", choices=("exact_match", "choice", "accuracy", "loss"),
                        help="chooses the rate; exact_match, for dpo accuracy")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128, help="rows a step; 128 if absent")
    parser.add_argument("--micro-batch", type=int, help="rows of a device at a time")
    parser.add_argument("--warmup", type=int, default=100,
                        help="steps, at most a tenth of the run; 100 if absent")  # fmt: skip
    parser.add_argument("--no-packing", action="store_true", help="a row of a batch for each text")
    parser.add_argument("--template", type=Path, metavar="FILE", help="a chat template, Jinja")
    parser.add_argument("--drop-long", action="store_true", help="leave out rows past the context")
    parser.add_argument("--retention", type=Path, metavar="DATA_DIR",
                        help="a prepared corpus: its held-out loss before and after")  # fmt: skip
    parser.add_argument("--keep", default="chosen", choices=("chosen", "all", "none"),
                        help="weights to keep")  # fmt: skip
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    try:
        import trl  # noqa: F401
        from accelerate import PartialState
    except ImportError as error:
        raise missing_extra("trl", "posttrain", "anytrain finetune") from error
    import torch

    from anytrain.posttrain.points import Points
    from anytrain.posttrain.sweep import Sweep

    process = PartialState(cpu=not torch.cuda.is_available())
    points = Points(args.out)

    def say(line: str) -> None:
        if process.is_main_process and not args.json:
            print(line, flush=True)

    def begun() -> Sweep:
        with process.main_process_first():
            return Sweep(_plan(args), points, say)

    if not process.is_main_process:
        begun().run()
        return 0
    with ExitStack() as held:
        with points.beginning():
            held.enter_context(points.locked())
            sweep = begun()
            points.begin(_common(args, sweep.plan.settings))
        sweep.run()
        _end(args, points, sweep.plan)
    return 0


def _plan(args: argparse.Namespace) -> "Plan":
    """Everything checked; the bases released where they are not yet."""
    from anytrain.posttrain import bases, rows
    from anytrain.posttrain.points import chosen_in
    from anytrain.posttrain.settings import file_named, rates
    from anytrain.posttrain.sweep import Plan

    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}; 1 or more is valid")
    for name in ("data", "validation", "template"):
        file_named(f"--{name}", getattr(args, name))
    texts = [word for word in args.weights if not _SETTING.match(word)]
    if not texts:
        raise UserError("finetune: no WEIGHTS; RUN[@WHEN][:WEIGHTS] or a directory is valid")
    settings = _settings(args)
    given = None if args.lr_of is None else chosen_in(args.lr_of, settings.metric)
    grid = rates(args.lr) if given is None else []
    found = rows.split(args.data, args.validation, args.method)
    named = list(zip(texts, bases.names(texts), strict=True))
    opened = [bases.opened(text, name, args.out, args.template) for text, name in named]
    return Plan(
        opened, found, settings, grid, args.seeds, args.keep, args.retention, args.drop_long, given
    )


def _common(args: argparse.Namespace, settings: "Settings") -> dict[str, Any]:
    """What has to be the same for a sweep to go on."""
    from anytrain.files import sha256

    named = {name: getattr(args, name) for name in ("data", "validation", "template")}
    return {
        **settings.as_json(),
        **{name: None if path is None else sha256(path) for name, path in named.items()},
        "retention": None if args.retention is None else str(args.retention),
        "drop_long": args.drop_long,
    }


def _settings(args: argparse.Namespace) -> "Settings":
    from anytrain.posttrain.rows import Method
    from anytrain.posttrain.settings import SCORES, Settings, passed_on

    method = next(name for name in get_args(Method) if name == args.method)
    return Settings(
        method,
        args.metric or SCORES[method][0],
        args.epochs,
        args.batch,
        args.warmup,
        not args.no_packing,
        passed_on([word for word in args.weights if _SETTING.match(word)], method),
        args.micro_batch,
    )


def _end(args: argparse.Namespace, points: "Points", plan: "Plan") -> None:
    """The table, on the disk and on the screen."""
    from anytrain.compare import finetuned
    from anytrain.files import write_atomic

    known, settings = points.read(), plan.settings
    best = {base: plan.rate(known, base) for base in {key.base: None for key in known}}
    rows = finetuned.table(list(known.values()), best)
    write_atomic(args.out / "table.csv", finetuned.as_csv(rows))
    if args.json:
        made: dict[str, Any] = {"out": str(args.out), "chosen": best, "rows": rows}
        print(json.dumps(made))
        return
    lines = finetuned.shown(rows, settings.score)
    print("\n".join(["", *lines, "", *finetuned.at_the_edge(rows, best), f"wrote {args.out}"]))
