"""Checkpoints streamed into one model, in their own layout.

anytrain merge runs/a@8000..10000 --rule uniform --out models/a-tail
anytrain merge runs/a@10B..20B-tokens --rule wsm:shape=sqrt --out models/a-as-if-cooled
anytrain merge model-1 model-2 model-3 --weights 0.5,0.3,0.2 --out soup --dtype bfloat16

INPUT is a run's checkpoint (RUN@WHEN[:WEIGHTS], raw unless named), those of a span
(RUN@FROM..TO[:WEIGHTS]), a checkpoint's directory, a Hugging Face directory, a safetensors file
or, with --foreign, a checkpoint of torch.distributed. RULE is uniform, last:k=5 (LAWA),
spaced:n=10 (PMA), wsm:shape=linear|sqrt|cosine|square, or any averaging rule, such as
anytime_ema:f=25: a checkpoint then weighs what the rule gives the steps since the one before,
and the first one what it gives all steps up to it. Inputs that do not say their step are at 1, 2,
3 …, or where --at says.

One moment of a run that keeps snapshots and an averaging rule rebuild that average as it was then,
to the error of its profile that is printed first:

anytrain merge runs/a@9000 --rule anytime_ema:f=12 --out models/a-wide
anytrain merge runs/a@9000 --search val --curve width.png --out models/a-best-width
anytrain merge runs/a@9000 --combine --out models/a-combined

The output has the last input's layout, and everything beside the weights is the last input's:
config, tokenizer, integers, buffers, the optimizer's state in a checkpoint of torch.distributed.
Inputs that weigh nothing are not read.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytrain.cli.posthoc import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", metavar="INPUT", nargs="+")
    parser.add_argument("--out", type=Path, metavar="PATH",
                        help="the new directory, or a new FILE.safetensors")  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--rule", help="how much each input weighs; uniform if absent")
    how.add_argument("--weights", metavar="W1,W2,…",
                     help="the same by hand; --weights=-1,2 if the first is negative")  # fmt: skip
    parser.add_argument("--any-sum", action="store_true", help="weights need not sum to 1")
    parser.add_argument("--at", metavar="T1,T2,…", help="the steps at which the inputs are")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16", "float64"),
                        help="of the output; the inputs' own if absent")  # fmt: skip
    parser.add_argument("--foreign", action="store_true",
                        help="read the pickles in checkpoints of torch.distributed and files of "
                        "torch.save, with a reader that runs nothing")  # fmt: skip
    parser.add_argument("--max-error", type=float, default=0.05, metavar="E",
                        help="of a rebuilt profile, relative L2; 0.05 if absent")  # fmt: skip
    how.add_argument("--search", choices=("val",), help="of one moment of a run: rebuild the width "
                     "with the lowest validation loss")  # fmt: skip
    how.add_argument("--combine", action="store_true", help="of one checkpoint of a run: the best "
                     "convex combination of its weights")  # fmt: skip
    parser.add_argument("--curve", type=Path, metavar="FILE.png", help="draw what --search found")
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    parser.add_argument("--dry-run", action="store_true", help="print the weights and stop")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    from anytrain import merging
    from anytrain.errors import UserError
    from anytrain.grammar import import_user_module

    only_says = args.dry_run or (args.out is None and (args.search or args.combine))
    if args.out is None and not only_says:
        raise UserError("merge: --out is missing; a new PATH, or --dry-run, is valid")
    for module in args.imports:
        import_user_module(module)
    with _plan(args) as plan:
        if not args.json:
            print("\n".join([*table(plan.inputs, plan.weights), *plan.lines]))
        size, record = 0, {"rule": plan.rule, **plan.record}
        if not only_says:
            with _Bar() as bar:
                size = merging.write(plan.inputs, plan.weights, args.out, args.dtype, record, bar)
    if args.json:
        rows = [
            {"input": found.source.name, "step": found.t, "weight": weight}
            for found, weight in zip(plan.inputs, plan.weights, strict=True)
        ]
        out = None if only_says else str(args.out)
        print(json.dumps({"out": out, **record, "inputs": rows, "read": size}))
    elif not only_says:
        print(f"wrote {args.out}")
    return 0


def _plan(args: argparse.Namespace) -> AbstractContextManager["Plan"]:
    """What to add up: inputs by weight, or one moment of a run by what it kept."""
    from anytrain.cli import posthoc

    if args.search is not None:
        return posthoc.search(args)
    if args.combine:
        return posthoc.combine(args)
    name = posthoc.moment_of_a_run(args.inputs)
    if name is not None and _is_average(args.rule):
        return posthoc.rebuild(args, name)
    return _by_weight(args)


def _is_average(rule: str | None) -> bool:
    """Whether a rule is one of the trainer's, that looks at steps, and not of a merge alone."""
    from anytrain.averaging.mass import KINDS

    return rule is not None and (rule.startswith("uniform:") or rule.split(":")[0] not in KINDS)


@contextmanager
def _by_weight(args: argparse.Namespace) -> Iterator["Plan"]:
    from anytrain import merging
    from anytrain.averaging.mass import mass
    from anytrain.cli.posthoc import Plan

    with merging.opened(args.inputs, args.foreign) as inputs:
        if args.weights is not None:
            asked = _numbers("--weights", args.weights)
            weights, rule = merging.weights_by_hand(inputs, asked, args.any_sum), "weights"
        else:
            rule = args.rule or "uniform"
            at = None if args.at is None else _numbers("--at", args.at)
            run = inputs[-1].run
            per_step = None if run is None else merging.reference_tokens(run)
            weights = merging.weights_by_rule(inputs, mass(rule, per_step), at)
        yield Plan(inputs, weights, rule, [])


def _numbers(option: str, text: str) -> list[float]:
    from anytrain.errors import UserError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{option} {text!r}: numbers with commas between are valid") from error


def table(inputs: Sequence[Any], weights: Sequence[float]) -> list[str]:
    """What each input weighs, a line each."""
    width = max(len(found.source.name) for found in inputs)
    return [
        f"{found.source.name:<{width}}  {weight:>9.6f}"
        for found, weight in zip(inputs, weights, strict=True)
    ]


class _Bar:
    """Progress in bytes, where somebody looks on."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __enter__(self) -> "_Bar":
        return self

    def __call__(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit="B", unit_scale=True, file=sys.stderr)
        self.bar.update(done)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
