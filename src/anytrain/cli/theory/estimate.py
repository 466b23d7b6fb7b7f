"""Capacity and source of a model on its data, and the schedule exponent that follows.

From four traces of the Gauss–Newton matrix on held-out text (arXiv:2602.03702): the exponents of
the power laws that have the same traces, with 95% intervals over probes. γ* = max(1 − a/b, 0) is
the exponent of t^−γ. A few thousand steps of a pilot run are enough to ask.

anytrain theory estimate runs/pilot --data data/mine
"""

import argparse
import json
from typing import TYPE_CHECKING, Any

from anytrain.errors import UserError

if TYPE_CHECKING:
    from anytrain.theory.exponents import Exponents

_SIZE = 2  # sequences a batch: independent batches are what there has to be many of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", nargs="+", metavar="RUN[@WHEN][:WEIGHTS]")
    parser.add_argument("--data", required=True, metavar="DIR", help="a prepared corpus")
    parser.add_argument("--probes", type=int, default=64, help="estimates of each trace")
    parser.add_argument("--context", type=int, metavar="TOKENS", help="of a sequence; the model's")
    parser.add_argument("--seed", type=int, default=0, help="of the probes")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print the exponents of each of the weights."""
    if args.probes < 8:
        raise UserError(f"--probes {args.probes}; 8 or more are valid for an interval")
    if args.context is not None and args.context < 1:
        raise UserError(f"--context {args.context}; 1 token or more is valid")
    for text in args.weights:
        source, found, traces = estimated(text, args)
        if args.json:
            print(json.dumps({"weights": source, **_plain(found), "traces": traces}), flush=True)
        else:
            print("\n".join(lines(source, found)), flush=True)
    return 0


def estimated(text: str, args: argparse.Namespace) -> "tuple[str, Exponents, list[float]]":
    """The name of the weights, their exponents, and the mean traces they are from."""
    from anytrain.curvature.gauss_newton import rows
    from anytrain.curvature.held_out import held_out
    from anytrain.curvature.objective import Objective
    from anytrain.models.decoder import Decoder
    from anytrain.references import open_weights
    from anytrain.theory.exponents import estimate

    with open_weights(text) as weights:
        context = args.context or weights.shape.context
        wanted = 2 * args.probes * _SIZE * context
        batches = held_out(weights, args.data, wanted, context, _SIZE)
        model = Decoder.loaded(weights.shape, weights.tensors)
        objective = Objective.of_decoder(model, batches[:1])
        values = rows(model, objective, batches, args.probes, args.seed)
        try:
            found = estimate(objective.dim, values)
        except ValueError as error:
            raise UserError(f"{weights.source}: {error}") from error
        return weights.source, found, [float(value) for value in values.mean(0)]


def _plain(found: "Exponents") -> dict[str, Any]:
    return {
        "parameters": found.dim,
        "capacity": found.capacity,
        "capacity_range": found.capacity_range,
        "source": found.source,
        "source_range": found.source_range,
        "gamma": found.gamma,
        "gamma_range": found.gamma_range,
    }


def lines(name: str, found: "Exponents") -> list[str]:
    """What a person reads."""

    def shown(label: str, value: float, ends: tuple[float, float]) -> str:
        return f"  {label:<12} {value:.3f}   ({ends[0]:.3f} to {ends[1]:.3f})"

    out = [
        f"{name}, {found.dim:,} parameters",
        shown("capacity a", found.capacity, found.capacity_range),
        shown("source b", found.source, found.source_range),
        shown("γ*", found.gamma, found.gamma_range),
    ]
    a, b = found.capacity, found.source
    if a > 1 and b > 1:
        command = f"anytrain theory advise --capacity {a:.3f} --source {b:.3f} --budgets LO:HI"
        return [*out, f"  {command}"]
    least = "capacity" if a <= 1 else "source"
    return [*out, f"  a {least} of 1 or below is outside the theory, which gives no rates there"]
