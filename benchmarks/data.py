"""How fast tokens get to the trainer, and how fast text becomes tokens: one thread, CPU time.

python -m benchmarks.data                                            (under a minute)

Batches come the trainer's way, `TrainingData.batch` and `torch.from_numpy`, from a corpus in
shards that lie in the page cache; beside them nanoGPT's `get_batch`, and one training step of the
shipped demo recipe. Text is this Python's own standard library as JSONL; `prepare` is timed whole:
reading, hashing, encoding, writing, syncing, journal, manifest. Beside it the `tokenizers` library
encodes the same documents out of memory and drops the result, by `encode_batch_fast`: the faster of
its two, as it keeps no offsets.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anytrain.data.corpora import STDLIB, documents
from anytrain.data.manifest import DataFile, Manifest, Segment
from anytrain.data.shards import Corpus
from anytrain.data.stream import TrainingData
from anytrain.data.tokenize import prepare
from anytrain.data.tokenizer import END_OF_TEXT, NAME, load, train_bpe
from anytrain.data.writer import SplitWriter
from anytrain.files import sha256
from anytrain.training import recipes, start
from anytrain.training.loop import train
from anytrain.training.pretrain import build
from benchmarks.harness import Row, Target, cpu_name, interleaved, report

VOCAB = 4096
BATCH = 16  # sequences
CONTEXTS = (256, 1024, 2048)  # tokens
TOKENS, SHARD = 2**26, 2**23  # tokens: 128 MiB in 8 shards and more
BATCHES = 512  # a timing
TEXT = 5_000_000  # characters that `prepare` reads
ROUNDS = (16, 64)  # documents the library is given at once


# --- batches ----------------------------------------------------------------------------------


def random_corpus(folder: Path, tokenizer: Path, tokens: int, shard: int) -> np.ndarray[Any, Any]:
    """Random tokens in shards, as `prepare` leaves them; the same as one array."""
    whole = np.random.default_rng(0).integers(VOCAB, size=tokens, dtype=np.uint16)
    segment = folder / "segment-0000"
    segment.mkdir(parents=True)
    writer = SplitWriter(segment, "train", "uint16", shard)
    writer.append([whole])
    files = tuple(
        DataFile(path.relative_to(folder).as_posix(), path.stat().st_size, sha256(path))
        for path in writer.shards()
    )
    shutil.copyfile(tokenizer, folder / NAME)
    Manifest(
        dtype="uint16", vocab=VOCAB, eot=0, eot_token=END_OF_TEXT[0], tokenizer="file",
        tokenizer_sha256=sha256(tokenizer), validation=0.0, shard_tokens=shard,
        segments=(Segment(("random",), "text", {}, {}, files, (), ()),),
    ).write(folder)  # fmt: skip
    return whole


def get_batch(path: Path, at: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """nanoGPT's: inputs and targets (B, T) that begin at each of `at`; the map is made anew."""
    data = np.memmap(path, dtype=np.uint16, mode="r")
    t = context
    x = torch.stack([torch.from_numpy(data[i : i + t].astype(np.int64)) for i in at])
    y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + t].astype(np.int64)) for i in at])
    return x, y


def samples(data: TrainingData, first: int) -> tuple[Tensor, Tensor]:
    """Ours: inputs and targets (B, T) from sample `first` on."""
    batch = torch.from_numpy(data.batch(first, BATCH))
    return batch[:, :-1], batch[:, 1:]


def batch_row(corpus: Path, flat: Path, context: int) -> Row:
    """Tokens/s of our batches, of nanoGPT's, and at the first context of a training step."""
    data = TrainingData.open({str(corpus): 1.0}, context=context, seed=0, verify="sizes")
    firsts, tokens = count(0, BATCH), data.corpora[0].segments[0].tokens
    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: [samples(data, first) for first in islice(firsts, BATCHES)],
        "get_batch": lambda: [
            get_batch(flat, torch.randint(tokens - context, (BATCH,)), context)
            for _ in range(BATCHES)
        ],
    }
    targets = [Target("get_batch", "≥", 2)]
    if context == CONTEXTS[0]:  # a longer one slows the step alone
        runs["training step"] = training(corpus, context)
        targets.append(Target("training step", "≥", 10))
    seconds = interleaved(runs, repeats=5)
    size = BATCH * context / 1e6
    batches = {name: 1 if name == "training step" else BATCHES for name in runs}
    rates = {name: size * batches[name] / value for name, value in seconds.items()}
    return Row(
        f"batches of {BATCH} × {context}, from shards",
        "M tokens/s",
        rates.pop("ours"),
        check_batches(data, flat, 4 * BATCH),
        rates,
        targets=tuple(targets),
    )


def check_batches(data: TrainingData, flat: Path, batches: int) -> str:
    """Ours are what `get_batch` makes of the places that the order of the data names."""
    for first in range(0, batches * BATCH, BATCH):
        window = data.orders[0](np.arange(first, first + BATCH))
        theirs = get_batch(flat, torch.from_numpy(window * data.context), data.context)
        ours = samples(data, first)
        assert torch.equal(ours[0], theirs[0]), f"inputs from sample {first} on differ"
        assert torch.equal(ours[1], theirs[1]), f"targets from sample {first} on differ"
    return f"{batches} batches with get_batch's at the same places, exactly"


def training(corpus: Path, context: int) -> Callable[[], object]:
    """One step of the demo recipe (0.7M parameters, five averages) for each call."""
    settings = [f"data.path={corpus}", f"train.batch={BATCH}", f"train.micro_batch={BATCH}"]
    settings += [f"train.context={context}", "train.compile=false"]
    recipe = recipes.load("demo", settings)
    data = start.open_data(recipe)
    run = build(start.resolved(recipe, data), data)
    assert run.device.type == "cpu", "rates are compared on one core"

    def batches() -> Iterator[Tensor]:
        while True:
            yield torch.from_numpy(data.batch(run.clock.samples, BATCH))

    steps = train(run, batches(), recipe.built_schedule())
    return lambda: next(steps)


# --- text to tokens ---------------------------------------------------------------------------


def texts(characters: int) -> list[str]:
    """Different documents of the standard library, so many characters in all."""
    kept: dict[str, None] = {}
    size = 0
    for document in documents(STDLIB):
        if size >= characters:
            break
        if document.text and document.text not in kept:
            kept[document.text] = None
            size += len(document.text)
    return list(kept)


def prepare_row(folder: Path, tokenizer: Path, found: Sequence[str]) -> Row:
    """MB/s of `prepare`, whole, and of the library on documents in memory."""
    source, out, library = folder / "documents.jsonl", folder / "prepared", load(tokenizer)
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in found))

    def ours() -> None:
        shutil.rmtree(out, ignore_errors=True)
        prepare([source], out, tokenizer=str(tokenizer), validation=0.0)

    def theirs(size: int) -> None:
        for at in range(0, len(found), size):
            library.encode_batch_fast(found[at : at + size], add_special_tokens=False)

    peers = {f"tokenizers, {size} at once": partial(theirs, size) for size in ROUNDS}
    seconds = interleaved({"ours": ours, **peers}, repeats=5)
    size = sum(len(text.encode()) for text in found) / 1e6
    rates = {name: size / value for name, value in seconds.items()}
    return Row(
        f"prepare {size:.1f} MB of JSONL",
        "MB/s",
        rates.pop("ours"),
        check_prepared(out, tokenizer, found),
        rates,
        targets=tuple(Target(name, "≥", 0.9) for name in rates),
    )


def check_prepared(out: Path, tokenizer: Path, found: Sequence[str]) -> str:
    """The shards hold the library's tokens of each document, the end of text after each."""
    library = load(tokenizer)
    eot = library.token_to_id(END_OF_TEXT[0])
    encodings = library.encode_batch(found, add_special_tokens=False)
    wanted = np.concatenate([[*encoding.ids, eot] for encoding in encodings])
    shards = Corpus.open(out, "hashes").train
    tokens = np.concatenate([file.map() for file in shards.files])
    assert np.array_equal(tokens, wanted), f"{len(tokens)} tokens are not the {len(wanted)} wanted"
    return f"all {len(tokens)} tokens of {len(found)} documents with the library's"


# --- table ------------------------------------------------------------------------------------


def rows() -> list[Row]:
    """Rows 7 and 8: batches from shards at each context, and `prepare`."""
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory(prefix="anytrain-data-") as name:
        folder = Path(name)
        tokenizer, flat, corpus = folder / NAME, folder / "flat.bin", folder / "corpus"
        found = texts(TEXT)
        train_bpe(VOCAB, found[:100]).save(str(tokenizer))
        random_corpus(corpus, tokenizer, TOKENS, SHARD).tofile(flat)
        batches = [batch_row(corpus, flat, context) for context in CONTEXTS]
        return [*batches, prepare_row(folder, tokenizer, found)]


def main() -> None:
    report(rows(), cpu_name())
