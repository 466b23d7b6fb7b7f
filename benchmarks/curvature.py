"""Hessian-vector products in gradients: by a second backward pass, and as a difference of two.

python -m benchmarks.curvature                                        (about a minute)

A difference is two gradients, so 2 is its floor; what is above is moving the weights there and
back, which more tokens make smaller. An exact product is a gradient and the backward pass through
it, two more by the count of multiplications. Memory is kept as `anytrain sharpness` keeps it.
"""

import torch

from anytrain.curvature.hvp import Difference, Exact
from anytrain.curvature.objective import Batch, Objective
from anytrain.curvature.pages import keep_pages
from anytrain.models.decoder import Decoder
from anytrain.models.shape import DecoderShape
from benchmarks.harness import Row, Target, cpu_name, interleaved, report

SHAPE = DecoderShape(layers=4, width=256, heads=4, vocab=4096)
STEP = 1e-3  # ‖εv‖/‖θ‖, as the search for one has been over since the first product
AGREE = 0.005  # relative, of zᵀHz by the two


def objective() -> Objective:
    """The loss of a fresh model on 2048 random tokens."""
    there = torch.Generator().manual_seed(0)
    rows = torch.randint(SHAPE.tokens, (16, 129), generator=there)
    return Objective.of_decoder(Decoder.seeded(SHAPE, 0), [Batch(rows[:, :-1], rows[:, 1:])])


def rows() -> list[Row]:
    """Both products beside the gradient; raises where they are not of the same matrix."""
    keep_pages()
    found = objective()
    z = found.probe(0)
    exact, difference = Exact(found), Difference(found, STEP)
    curved = found.dot(z, exact @ z)
    d, product = difference.along(z)
    off = abs(found.dot(d, product) / curved - 1)
    if not off < AGREE:
        raise AssertionError(f"zᵀHz by differences is {off:.2%} from the exact {curved:.6g}")
    seconds = interleaved(
        {
            "gradient": found.gradient,
            "exact": lambda: exact @ z,
            "difference": lambda: difference.along(z),
        }
    )
    check = f"zᵀHz of both, {off:.0e} apart"
    peers = {"gradient": seconds["gradient"] * 1e3}
    size = f"{found.dim / 1e6:.1f}M"
    return [
        Row(
            f"{number}  Hessian-vector product, {way}, {size}",
            "ms",
            seconds[way] * 1e3,
            check,
            peers,
            least * peers["gradient"],
            (Target("gradient", "≤", most),),
        )
        for number, (way, most, least) in enumerate(
            (("exact", 3.5, 3.0), ("difference", 2.0, 2.0)), 1
        )
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    report(rows(), cpu_name())
