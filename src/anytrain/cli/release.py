"""Write any weights of a run as a Hugging Face directory that plain `transformers` loads.

anytrain release runs/a --out models/a                 the best weights of the last checkpoint
anytrain release runs/a@20B-tokens:ema25 --out models/a-20B --dtype bfloat16
"""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="RUN[@WHEN][:WEIGHTS]")
    parser.add_argument("--out", type=Path, required=True, help="the new directory")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    from anytrain.release import release
    from anytrain.weights import open_weights

    with open_weights(args.weights) as weights:
        release(weights, args.out, args.dtype)
        origin = weights.origin
        if args.json:
            found = {
                "source": weights.source,
                "out": str(args.out),
                "weights": origin.chosen if origin else None,
                "loss": origin.loss if origin else None,
            }
            print(json.dumps(found))
        else:
            loss = ""
            if origin and origin.evaluation:
                loss = f", validation loss {origin.evaluation.shown(origin.chosen)}"
            print(f"{args.out}: {weights.source}{loss}")
    return 0
