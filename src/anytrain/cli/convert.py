"""Another trainer's checkpoint as a Hugging Face directory, logits the same.

anytrain convert out/ckpt.pt --out models/nano --tokenizer gpt2/        nanoGPT, as GPT-2
anytrain convert checkpoints/org/name --out models/lit                  litgpt, as Llama
anytrain convert dcp/step-1000 --like models/a --out models/b           torch.distributed's

Pickles are read by a reader that runs nothing in them. Of torch.distributed's checkpoints the
tensors have the names of --like, a Hugging Face directory of the same shape.
"""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CKPT",
                        help="nanoGPT's ckpt.pt, or a directory of litgpt or of "
                        "torch.distributed")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new directory")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizers JSON file, or "
                        "a directory that holds tokenizer.json; the checkpoint's own if "
                        "absent")  # fmt: skip
    parser.add_argument("--like", type=Path, metavar="DIR",
                        help="a model whose config.json and names a checkpoint of "
                        "torch.distributed has")  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"),
                        help="of the weights; as they are stored if absent")  # fmt: skip
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    from anytrain.converting import opened, tokenizer_of
    from anytrain.converting.target import write

    model = opened(args.checkpoint, args.like)
    tokenizer = tokenizer_of(args.tokenizer, args.checkpoint, args.like)
    eot = write(model, args.out, args.dtype, tokenizer)
    if args.json:
        found = {
            "source": str(model.source),
            "out": str(args.out),
            "model_type": model.config["model_type"],
            "tokenizer": str(tokenizer) if tokenizer else None,
            "eot": eot,
        }
        print(json.dumps(found))
    else:
        print(f"{args.out}: {model.what}, as {model.config['architectures'][0]}")
        if tokenizer is None:
            print("without a tokenizer; --tokenizer adds one")
    return 0
