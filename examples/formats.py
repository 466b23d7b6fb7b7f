"""From another trainer's files to a model that any tool reads: token files in, Llama out.

    python examples/formats.py --out formats

Writes files as Megatron-LM and nanoGPT leave them (in place of yours), trains on the one, converts
the other, and compares the logits of what came out with transformers' own. Half a minute on a CPU.
"""

import argparse
import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from anytrain.cli.main import main
from anytrain.data.tokenizer import train_bpe
from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import read_directory

VOCAB = 300
RECIPE = """
name = "formats"
schedule = "inverse_sqrt:peak=1e-2,warmup=4-steps,offset=16-steps"
[model]
layers = 1
width = 32
heads = 2
[data]
path = "{data}"
[train]
batch = 4
context = 32
micro_batch = 4
[evaluate]
tokens = "1024-tokens"
"""


def run(*words: str | Path) -> None:
    """One verb, as on the command line."""
    line = [str(word) for word in words]
    print("$ anytrain", *line)
    if main(line):
        raise SystemExit(1)


def tokenizer(folder: Path) -> Tokenizer:
    """A tokenizer that stands for the one your token files were made with."""
    made = train_bpe(VOCAB, [Path(__file__).read_text(encoding="utf-8")])
    made.save(str(folder / "tokenizer.json"))
    return made


def megatron(path: Path, documents: list[list[int]]) -> None:
    """X.idx and X.bin as Megatron-LM writes them: one sequence a document, ids of two bytes."""
    lengths = [len(document) for document in documents]
    places = [2 * sum(lengths[:i]) for i in range(len(lengths))]
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, len(lengths), len(lengths) + 1)
    index = np.array(lengths, "<i4").tobytes() + np.array(places, "<i8").tobytes()
    ends = np.arange(len(lengths) + 1, dtype="<i8").tobytes()
    path.with_suffix(".idx").write_bytes(head + index + ends)
    path.with_suffix(".bin").write_bytes(np.concatenate(documents).astype("<u2").tobytes())


def nanogpt(path: Path) -> None:
    """A ckpt.pt as nanoGPT's train.py saves a compiled model; random weights, no biases."""
    width, layers, context = 32, 2, 64
    sizes: dict[str, tuple[int, ...]] = {"wte": (VOCAB, width), "wpe": (context, width)}
    for layer in range(layers):
        for name, size in {"ln_1": (width,), "attn.c_attn": (3 * width, width),
                           "attn.c_proj": (width, width), "ln_2": (width,),
                           "mlp.c_fc": (4 * width, width),
                           "mlp.c_proj": (width, 4 * width)}.items():  # fmt: skip
            sizes[f"h.{layer}.{name}"] = size
    sizes["ln_f"] = (width,)
    weights = {f"_orig_mod.transformer.{k}.weight": torch.randn(v) for k, v in sizes.items()}
    weights["_orig_mod.lm_head.weight"] = weights["_orig_mod.transformer.wte.weight"]
    args = {"n_layer": layers, "n_head": 2, "n_embd": width, "block_size": context,
            "bias": False, "vocab_size": VOCAB, "dropout": 0.0}  # fmt: skip
    torch.save({"model": weights, "model_args": args, "iter_num": 100}, path)


def difference(folder: Path) -> float:
    """The largest difference of logits, our decoder's and transformers'."""
    batch = torch.randint(0, VOCAB, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = Decoder.loaded(*read_directory(folder))(batch)
        theirs = AutoModelForCausalLM.from_pretrained(folder)(batch).logits
    return float((ours - theirs).abs().max())


def example(out: Path) -> None:
    out.mkdir(parents=True)
    encode = tokenizer(out).encode
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    megatron(out / "theirs", [encode(line).ids for line in lines if line.strip()])
    run("prepare", out / "theirs.idx", "--ids", "auto", "--tokenizer", out,
        "--validation", "0.1", "--out", out / "data")  # fmt: skip
    (out / "recipe.toml").write_text(RECIPE.format(data=out / "data"))
    run("train", out / "recipe.toml", "--run", out / "run", "--until", "20-steps")
    run("release", out / "run", "--out", out / "llama", "--as", "llama")
    print(f"largest difference of logits to LlamaForCausalLM: {difference(out / 'llama'):.1e}")

    nanogpt(out / "ckpt.pt")
    run("convert", out / "ckpt.pt", "--tokenizer", out, "--out", out / "gpt2")
    model = AutoModelForCausalLM.from_pretrained(out / "gpt2")
    print(f"{type(model).__name__} with {model.num_parameters():,} parameters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("formats"))
    example(parser.parse_args().out)
