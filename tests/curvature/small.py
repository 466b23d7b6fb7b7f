"""A decoder small enough for its whole Hessian, and that Hessian by brute force."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from anytrain.curvature.objective import Batch, Objective
from anytrain.models.cross_entropy import plain_cross_entropy
from anytrain.models.decoder import Decoder
from anytrain.models.shape import DecoderShape

SHAPE = DecoderShape(layers=1, width=8, heads=2, vocab=11, mlp=12, tied=True)


def batches(count: int = 2, vocab: int = 11, size: int = 2, length: int = 9) -> list[Batch]:
    """Random tokens; the last batch has targets that do not count."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(count):
        rows = torch.randint(0, vocab, (size, length + 1), generator=generator)
        made.append(Batch(rows[:, :-1], rows[:, 1:].clone()))
    made[-1].targets[0, :4] = -100
    return made


def objective(shape: DecoderShape = SHAPE, count: int = 2) -> tuple[Decoder, Objective]:
    """A model with weights far from the start's symmetry, so that its curvature is not tiny."""
    model = Decoder.seeded(shape, 0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model, Objective.of_decoder(model, batches(count, shape.tokens))


def _logits(model: Decoder, batch: Batch, flat: Tensor) -> Tensor:
    parameters, start = {}, 0
    for name, parameter in model.named_parameters():
        parameters[name] = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    with sdpa_kernel(SDPBackend.MATH):
        out: Tensor = functional_call(model, parameters, (batch.tokens,))
    return out


def dense_hessian(model: Decoder, found: Objective) -> Tensor:
    """H of the mean loss over tokens, (n, n), in fp64."""
    model = _double(model)

    def loss(flat: Tensor) -> Tensor:
        parts = []
        for batch in found.batches:
            logits = _logits(model, batch, flat).flatten(0, 1)
            eye = torch.eye(logits.shape[1], dtype=logits.dtype)
            kept = batch.targets.flatten() != -100
            sums = plain_cross_entropy(logits.double(), eye, batch.targets.flatten())
            parts.append(sums * kept.sum())
        return torch.stack(parts).sum() / sum(batch.counted for batch in found.batches)

    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    hessian: Tensor = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        loss, start, vectorize=True
    )
    return hessian


def dense_gauss_newton(model: Decoder, parts: Sequence[Batch]) -> Tensor:
    """(1/N) Σ JᵀHJ with the softmax's own Hessian, (n, n), in fp64."""
    model = _double(model)
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    total, count = torch.zeros(len(start), len(start), dtype=torch.float64), 0
    for batch in parts:
        jacobian = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
            lambda flat, b=batch: _logits(model, b, flat).flatten(0, 1), start, vectorize=True
        )
        p = _logits(model, batch, start).flatten(0, 1).softmax(-1)
        kept = batch.targets.flatten() != -100
        inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        total += jacobian[kept].flatten(0, 1).T @ (inner @ jacobian)[kept].flatten(0, 1)
        count += int(kept.sum())
    return total / count


def _double(model: Decoder) -> Decoder:
    return Decoder.loaded(model.shape, dict(model.named_parameters()), dtype=torch.float64)
