"""Held-out sequences of a prepared corpus, as batches for a model of the same tokenizer."""

from pathlib import Path

import numpy as np
import torch

from anytrain.curvature.chat import chat
from anytrain.curvature.objective import Batch
from anytrain.data.stream import TrainingData
from anytrain.errors import UserError
from anytrain.files import read_json
from anytrain.references import Weights


def read(
    weights: Weights,
    data: str | Path,
    tokens: int,
    context: int | None = None,
    size: int = 8,
    drop_long: bool = False,
) -> list[Batch]:
    """Batches of a prepared directory's held-out part, or of a chat file's rows.

    Where `drop_long`, rows of a chat file that are longer than the context are left out.
    """
    path = Path(data)
    if path.suffix == ".jsonl" and not path.is_dir():
        return chat(weights, path, tokens, context, size, drop_long)
    return held_out(weights, data, tokens, context, size)


def held_out(
    weights: Weights, data: str | Path, tokens: int, context: int | None = None, size: int = 8
) -> list[Batch]:
    """`tokens` held-out tokens in batches of `size` sequences: the same ones for every model.

    Sequences are shuffled by a fixed seed, so that each batch is a sample of the whole text.
    UserError where the corpus has none, or is of another tokenizer than the model.
    """
    length = context or weights.shape.context
    source = TrainingData.open({str(data): 1.0}, context=length, seed=0)
    corpus = source.corpora[0]
    if corpus.vocab is not None and corpus.vocab > weights.shape.tokens:
        raise UserError(
            f"{data} has {corpus.vocab} tokens in its vocabulary and {weights.source} "
            f"{weights.shape.tokens}; text prepared with the model's tokenizer is valid"
        )
    theirs, ours = corpus.tokenizer, weights.tokenizer
    if theirs is not None and ours is not None and read_json(theirs) != read_json(ours):
        raise UserError(
            f"{data} was prepared with another tokenizer than {weights.source}'s ({ours}); prepare "
            f"it again with --tokenizer {ours}"
        )
    rows = source.validation(tokens)  # (N, T + 1)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    found = torch.from_numpy(rows.astype(np.int64))
    return [Batch(part[:, :-1], part[:, 1:]) for part in found.split(size)]
