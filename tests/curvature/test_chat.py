"""Conversations as batches: how rows are laid together changes no loss."""

import numpy as np
import pytest
from small import objective

from anytrain.curvature.chat import Marked, padded
from anytrain.curvature.objective import Batch


def rows(count: int = 30) -> list[Marked]:
    """Of 3 to 12 tokens, the later half of each learnt."""
    generator = np.random.default_rng(0)
    made = []
    for _ in range(count):
        length = int(generator.integers(3, 13))
        ids = generator.integers(0, 11, length).tolist()
        made.append(Marked(ids, [int(2 * place >= length) for place in range(length)]))
    return made


def counted(batches: list[Batch]) -> int:
    return sum(batch.counted for batch in batches)


def test_the_loss_and_its_slope_are_those_of_a_row_at_a_time() -> None:
    alone, together = padded(rows(), 1), padded(rows(), 40)
    assert len(alone) == 30
    assert len(together) < 10
    assert all(batch.tokens.numel() <= 40 for batch in together)
    assert counted(alone) == counted(together) == sum(sum(row.learnt[1:]) for row in rows())
    _, found = objective()
    assert found.on(together).value() == pytest.approx(found.on(alone).value(), rel=1e-6)
    apart = found.on(together).gradient() - found.on(alone).gradient()
    assert float(apart.abs().max()) < 1e-6


def test_rows_of_like_length_are_together() -> None:
    """What is filled up is little: of rows in any order it would be a fifth."""
    batches = padded(rows(), 40)
    room = sum(batch.tokens.numel() for batch in batches)
    used = sum(len(row.ids) - 1 for row in rows())
    assert used > 0.9 * room
