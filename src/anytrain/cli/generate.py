"""Continue a prompt with any weights of a run, or of a Hugging Face directory.

anytrain generate runs/a 'def main():'
anytrain generate runs/a@2000:raw 'import ' --temperature 0 --tokens 40
"""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from anytrain.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="RUN[@WHEN][:WEIGHTS]")
    parser.add_argument("prompt")
    parser.add_argument("--tokens", type=int, default=100, help="at most so many new ones")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token")
    parser.add_argument("--top-k", type=int, default=50, help="0: all tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    _check(args)
    from anytrain.data import tokenizer as tokenizers
    from anytrain.models.decoder import Decoder
    from anytrain.models.generate import generate
    from anytrain.references import open_weights

    with open_weights(args.weights) as weights:
        if weights.tokenizer is None or not weights.tokenizer.is_file():
            raise UserError(f"{weights.source} has no tokenizer ({weights.tokenizer})")
        tokenizer = tokenizers.read(weights.tokenizer)
        if tokenizer.get_vocab_size() > weights.shape.tokens:
            raise UserError(
                f"{weights.tokenizer} has {tokenizer.get_vocab_size()} tokens, "
                f"{weights.source} has {weights.shape.tokens}: it is not this model's tokenizer"
            )
        model = Decoder.loaded(weights.shape, weights.tensors)
        source, eot = weights.source, weights.eot
    with tokenizers.refusing(f"{source}: its tokenizer cannot encode the prompt"):
        prompt = tokenizer.encode(args.prompt).ids or [eot or 0]
    if max(prompt) >= model.shape.tokens:
        raise UserError(f"{source}: token {max(prompt)}; the model has {model.shape.tokens}")
    made = generate(
        model,
        prompt,
        max_new=args.tokens,
        temperature=args.temperature,
        top_k=args.top_k or None,
        seed=args.seed,
        eot=eot,
    )
    if args.json:
        text = tokenizer.decode(list(made))
        print(json.dumps({"weights": source, "prompt": args.prompt, "text": text}))
    else:
        _write(args.prompt, made, tokenizer)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.tokens < 1:
        raise UserError(f"--tokens {args.tokens}; 1 or more is valid")
    if args.temperature < 0:
        raise UserError(f"--temperature {args.temperature}; 0 or more is valid")
    if args.top_k < 0:
        raise UserError(f"--top-k {args.top_k}; 0 or more is valid")


def _write(prompt: str, made: Iterable[int], tokenizer: "Tokenizer") -> None:
    """Text as it comes; half of a character waits for its other half."""
    sys.stdout.write(prompt)
    tokens: list[int] = []
    shown = ""
    for token in made:
        tokens.append(token)
        text = tokenizer.decode(tokens)
        if not text.endswith("\ufffd"):
            sys.stdout.write(text[len(shown) :])
            sys.stdout.flush()
            shown = text
    print()
