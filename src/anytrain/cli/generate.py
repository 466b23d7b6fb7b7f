"""Continue a prompt with any weights of a run, or of a Hugging Face directory.

anytrain generate runs/a 'def main():'
anytrain generate runs/a@2000:raw 'import ' --temperature 0 --tokens 40
"""

import argparse
import json
import sys

from anytrain.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="RUN[@WHEN][:WEIGHTS]")
    parser.add_argument("prompt")
    parser.add_argument("--tokens", type=int, default=100, help="at most so many new ones")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token")
    parser.add_argument("--top-k", type=int, default=50, help="0: all tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    if args.tokens < 1:
        raise UserError(f"--tokens {args.tokens}; 1 or more is valid")
    if args.temperature < 0:
        raise UserError(f"--temperature {args.temperature}; 0 or more is valid")
    if args.top_k < 0:
        raise UserError(f"--top-k {args.top_k}; 0 or more is valid")
    from tokenizers import Tokenizer

    from anytrain.models.decoder import Decoder
    from anytrain.models.generate import generate
    from anytrain.weights import open_weights

    with open_weights(args.weights) as weights:
        if weights.tokenizer is None or not weights.tokenizer.is_file():
            raise UserError(f"{weights.source} has no tokenizer ({weights.tokenizer})")
        tokenizer = Tokenizer.from_file(str(weights.tokenizer))
        if tokenizer.get_vocab_size() > weights.shape.tokens:
            raise UserError(
                f"{weights.tokenizer} has {tokenizer.get_vocab_size()} tokens, "
                f"{weights.source} has {weights.shape.tokens}: it is not this model's tokenizer"
            )
        model = Decoder.loaded(weights.shape, weights.tensors)
        source, eot = weights.source, weights.eot
    prompt = tokenizer.encode(args.prompt).ids
    if not prompt:
        prompt = [eot or 0]
    made: list[int] = []
    shown = ""
    for token in generate(
        model,
        prompt,
        max_new=args.tokens,
        temperature=args.temperature,
        top_k=args.top_k or None,
        seed=args.seed,
        eot=eot,
    ):
        made.append(token)
        text = tokenizer.decode(made)
        if not args.json and not text.endswith("\ufffd"):  # half of a character waits for its rest
            sys.stdout.write((args.prompt if not shown else "") + text[len(shown) :])
            sys.stdout.flush()
            shown = text
    if args.json:
        print(
            json.dumps({"weights": source, "prompt": args.prompt, "text": tokenizer.decode(made)})
        )
    else:
        print()
    return 0
