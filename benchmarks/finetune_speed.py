"""TRL's trainer against a bare loop: steps/s of the same fine-tuning, one model of 145,000 weights.

python benchmarks/finetune_speed.py [BATCH …]       a minute on one thread; CPU seconds too

Both read the same packed batches and take the same AdamW steps; the trainer also schedules the
rate, counts tokens and measures entropy and accuracy at every step.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter, process_time

import torch
from torch.nn.functional import cross_entropy

from anytrain.data.tokenizer import train_bpe
from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import write_directory
from anytrain.models.shape import DecoderShape
from anytrain.posttrain import bases, tuner
from anytrain.posttrain.rows import Row
from anytrain.posttrain.settings import Settings
from anytrain.posttrain.tokens import EncodedRow, Packer, encode

WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by")
SHAPE = DecoderShape(layers=2, width=64, heads=4, vocab=300, context=128)
ROWS = 3600


def made(folder: Path) -> bases.Base:
    """A base with random weights and a tokenizer of a few hundred tokens."""
    train_bpe(300, [" ".join(WORDS) + f" {n}" for n in range(500)]).save(
        str(folder / "tokenizer.json")
    )
    weights = Decoder.seeded(SHAPE, 0).state_dict()
    write_directory(folder / "base", SHAPE, weights, tokenizer=folder / "tokenizer.json", eot=0)
    return bases.opened(str(folder / "base"), "base", folder, None)


def conversation(number: int) -> Row:
    word = WORDS[number % len(WORDS)]
    asked = {"role": "user", "content": f"say {word} {number % 600}"}
    return Row(
        "", f"{number:016x}", (asked,), ({"role": "assistant", "content": f"{word} {word}"},)
    )


def bare(base: bases.Base, rows: Sequence[EncodedRow], batch: int, epochs: int) -> int:
    """The loop that the trainer stands for; its steps."""
    model, pack, steps = base.model().train(), Packer(SHAPE.context), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    examples = [{"input_ids": row.answer.ids, "labels": row.answer.labels} for row in rows]
    for part in _batches(len(rows), batch, epochs):
        x = pack([examples[n] for n in part])
        logits = model(x["input_ids"], position_ids=x["position_ids"], use_cache=False).logits
        cross_entropy(logits[:, :-1].flatten(0, 1), x["labels"][:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return steps


def _batches(count: int, batch: int, epochs: int) -> Iterator[list[int]]:
    for _ in range(epochs):
        order = torch.randperm(count).tolist()
        yield from (order[n : n + batch] for n in range(0, count, batch))


def main(batches: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = made(Path(name))
        tokenizer = base.tokenizer()
        rows = [encode(conversation(n), tokenizer) for n in range(ROWS)]
        data = tuner.dataset(rows)
        for batch in batches:
            settings = Settings("sft", "loss", batch=batch)
            cpu = process_time()
            done = tuner.tune(base.model(), tokenizer, rows, data, settings, lr=1e-3, seed=0,
                              context=SHAPE.context, out=Path(name))  # fmt: skip
            cpu = process_time() - cpu
            print(f"batch {batch}: trainer {done.steps / done.seconds:.1f} steps/s, "
                  f"{1e3 * cpu / done.steps:.1f} CPU ms/step")  # fmt: skip
            wall, cpu = perf_counter(), process_time()
            steps = bare(base, rows, batch, 1)
            wall, cpu = perf_counter() - wall, process_time() - cpu
            print(f"batch {batch}: bare    {steps / wall:.1f} steps/s, "
                  f"{1e3 * cpu / steps:.1f} CPU ms/step")  # fmt: skip


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [32, 128])
