"""Write any weights of a run as a Hugging Face directory that plain `transformers` loads.

anytrain release runs/a --out models/a                 the best weights of the last checkpoint
anytrain release runs/a@20B-tokens:ema25 --out models/a-20B --dtype bfloat16
anytrain release runs/a --out models/a --as llama      or a sentence that says why it is not Llama
anytrain release runs/a --for finetuning --probe chat.jsonl --out models/a-base

The weights with the lowest loss are not always those that fine-tune best (arXiv:2603.16127). With
--for finetuning every candidate of the checkpoint is fine-tuned for a moment on --probe and its
curvature is measured; the card says what was found.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from anytrain.errors import UserError, missing_extra

if TYPE_CHECKING:
    from anytrain.advice import Advice
    from anytrain.models.shape import DecoderShape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="RUN[@WHEN][:WEIGHTS]")
    parser.add_argument("--out", type=Path, required=True, help="the new directory")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--as", dest="architecture", choices=("llama",),
                        help="refuse a shape that is not plain Llama, which vLLM and llama.cpp "
                        "need; one that is, is released so anyway")  # fmt: skip
    parser.add_argument("--for", dest="purpose", choices=("finetuning", "use"),
                        help="choose the weights by it, and say why on the card")  # fmt: skip
    parser.add_argument("--probe", type=Path, metavar="CHAT.jsonl", help="rows to fine-tune on")
    parser.add_argument("--probe-lr", default="1e-4,3e-4,1e-3", metavar="RATE,RATE,…")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    from anytrain.references import open_weights
    from anytrain.release import release

    if args.architecture == "llama":
        with open_weights(args.weights) as weights:
            _check_llama(args.weights, weights.shape)
    advice = _advice(args)
    text = args.weights if advice is None else _named(args.weights, advice.chosen)
    with open_weights(text) as weights:
        release(weights, args.out, args.dtype, advice=advice)
        origin = weights.origin
        if args.json:
            found = {
                "source": weights.source,
                "out": str(args.out),
                "weights": origin.chosen if origin else None,
                "loss": origin.loss if origin else None,
                "reason": advice.reason if advice else None,
            }
            print(json.dumps(found))
        else:
            loss = ""
            if origin and origin.evaluation:
                loss = f", validation loss {origin.evaluation.shown(origin.chosen)}"
            print(f"{args.out}: {weights.source}{loss}")
            if advice is not None:
                print(advice.reason)
    return 0


def _check_llama(text: str, shape: "DecoderShape") -> None:
    if unlike := shape.unlike_llama:
        raise UserError(
            f"--as llama: {text} has {', '.join(unlike)}; without --as its release carries the "
            "model's code and loads in transformers"
        )


def _named(text: str, weights: str) -> str:
    """The same moment of the same run, other weights."""
    from dataclasses import replace

    from anytrain.grammar import weights_name

    return str(replace(weights_name(text), weights=weights))


def _advice(args: argparse.Namespace) -> "Advice | None":
    """What was asked to be chosen; UserError where there is nothing to choose from or by."""
    if args.purpose != "finetuning" and args.probe is not None:
        raise UserError(f"--probe {args.probe} goes with --for finetuning")
    if args.purpose is None:
        return None
    if args.out.exists() and any(args.out.iterdir()):
        raise UserError(f"{args.out} exists and is not empty; choose another --out")
    from anytrain.advice import Candidate, for_use
    from anytrain.grammar import weights_name
    from anytrain.references import open_weights

    if weights_name(args.weights).weights != "best":
        raise UserError(f"{args.weights} names its weights; --for chooses them: name the run alone")
    with open_weights(args.weights) as weights:
        if (origin := weights.origin) is None:
            raise UserError(f"--for: {args.weights} is one model; a run has weights to choose from")
        losses = origin.evaluation.losses if origin.evaluation else {}
        names = {name: losses.get(name) for name in origin.checkpoint.weights}
        data = origin.run.recipe["data"].get("path")
    if args.purpose == "use":
        return for_use([Candidate(name, loss) for name, loss in names.items()])
    return _probed(args, names, data)


def _probed(args: argparse.Namespace, names: dict[str, float | None], data: str | None) -> "Advice":
    if args.probe is None:
        raise UserError("--for finetuning needs --probe CHAT.jsonl, rows like those it is for")
    if not args.probe.is_file():
        raise UserError(f"--probe {args.probe} is no file; JSONL of messages is valid")
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise missing_extra("trl", "posttrain", "--for finetuning") from error
    import sys

    from anytrain.posttrain.probe import probe
    from anytrain.posttrain.settings import rates

    aside = args.out.with_name(f".{args.out.name}.probe")
    return probe(
        names, lambda name: _named(args.weights, name), data, args.probe, rates(args.probe_lr),
        aside, lambda line: print(f"anytrain: {line}", file=sys.stderr, flush=True),
    )  # fmt: skip
