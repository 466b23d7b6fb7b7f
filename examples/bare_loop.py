"""A training loop of one's own: a schedule without a horizon, averages, stop, go on, release.

    python examples/bare_loop.py --out loop

A decoder of 0.2M parameters learns the bytes of Python's own sources, for twice as long as was
first thought, in half a minute on one CPU thread.
"""

import argparse
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anytrain import AnytimeEma, Averages, InverseSqrt
from anytrain.integrations.torch import Scheduler, attach
from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import write_directory
from anytrain.models.shape import DecoderShape

CONTEXT = 64  # bytes
SHAPE = DecoderShape(layers=3, width=64, heads=4, vocab=256, context=CONTEXT)


def bytes_of(*modules: str) -> Tensor:
    """(N, CONTEXT + 1): windows of a few modules' sources."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    data = b"".join((folder / f"{name}.py").read_bytes() for name in modules)
    return torch.tensor(list(data)).unfold(0, CONTEXT + 1, CONTEXT)


def begin() -> dict[str, Any]:
    """Everything that has a state."""
    model = Decoder.seeded(SHAPE, 0)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    averages = Averages(model, {"ema6": AnytimeEma(6), "ema12": AnytimeEma(12)})
    attach(averages, optimizer)
    scheduler = Scheduler(optimizer, InverseSqrt(peak=5e-3, warmup=20, offset=100))
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "averages": averages}


def train(parts: dict[str, Any], until: int) -> None:
    rows = bytes_of("argparse", "inspect", "typing")
    for step in range(parts["scheduler"].last_epoch, until):
        drawn = torch.randint(len(rows), (16,), generator=torch.Generator().manual_seed(step))
        batch = rows[drawn]
        parts["model"].loss(batch[:, :-1], batch[:, 1:]).backward()
        parts["optimizer"].step()
        parts["scheduler"].step()
        parts["optimizer"].zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("loop"))
    parser.add_argument("--steps", type=int, default=160, help="of the first sitting")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    parts = begin()
    train(parts, options.steps)
    torch.save({name: part.state_dict() for name, part in parts.items()}, options.out / "run.pt")

    parts = begin()  # another day; more, after all
    saved = torch.load(options.out / "run.pt", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    train(parts, 2 * options.steps)

    held_out, losses = bytes_of("csv"), {}
    averages = parts["averages"]
    for name in ("raw", *averages.rules):
        with averages.applied(name) as model, torch.no_grad():
            losses[name] = float(model.loss(held_out[:, :-1], held_out[:, 1:]))
    best = min(losses, key=lambda name: losses[name])
    with averages.applied(best) as model:
        write_directory(options.out / "released", SHAPE, model.state_dict())
    print("nats/byte:", ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    print(f"released {best} of step {averages.t:g}")


if __name__ == "__main__":
    main()
