"""Mean cross-entropy of a linear head, without ever holding all logits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # a target that does not count, PyTorch's own

# Logits held at a time. On a CPU they should stay in its cache (and small enough for malloc to
# hand the same pages out again); a GPU wants matrices that fill it.
_CHUNK = {"cpu": 2**20, "cuda": 2**28}  # elements


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of −log softmax(W h)[target] over the targets that count, nats/token, in fp32.

    hidden (N, d), weight (V, d), targets (N,). The gradients are made chunk by chunk in the
    forward pass, where the logits are (Liger, arXiv:2410.10989, section 3.2): memory is
    one chunk instead of 3·N·V. `plain_cross_entropy` is the slow twin; second derivatives use it.
    """
    loss: Tensor = _CrossEntropy.apply(hidden, weight, targets, torch.is_grad_enabled())
    return loss


def plain_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same number, from all logits at once."""
    logits = F.linear(hidden, weight)  # (N, V)
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED)


def _rows(
    h: Tensor, w: Tensor, targets: Tensor, scale: Tensor, buffer: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ scale·loss over some rows, and its slope in the logits, (softmax − onehot)·scale.

    In place from the logits on: in fp32 the buffer is the only memory that is touched.
    """
    at = targets[:, None]  # (rows, 1)
    logits = torch.mm(h, w.T, out=buffer[: len(h)]).float()  # (rows, V)
    logits.sub_(logits.amax(dim=1, keepdim=True))
    score = logits.gather(1, at)  # (rows, 1)
    p = logits.exp_()  # softmax, but for its denominator
    z = p.sum(dim=1, keepdim=True)  # (rows, 1)
    loss = ((z.log() - score)[:, 0] * scale).sum()
    p.scatter_(1, at, p.gather(1, at) - z)
    return loss, p.mul_(scale[:, None] / z).to(h.dtype)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, differentiate: bool
    ) -> Tensor:
        kind = hidden.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else weight.dtype
        h, w = hidden.to(dtype), weight.to(dtype)
        counts = targets != IGNORED  # (N,)
        targets = targets.where(counts, 0)
        scale = counts.float() / counts.sum()  # (N,)
        total = torch.zeros((), device=hidden.device)  # fp32
        grad_h = torch.empty_like(hidden) if differentiate else None
        grad_w = torch.zeros_like(weight, dtype=torch.float32) if differentiate else None
        rows = max(64, _CHUNK.get(kind, 2**24) // weight.shape[0])
        buffer = torch.empty((min(rows, len(h)), len(w)), dtype=dtype, device=h.device)
        for start in range(0, len(h), rows):
            part = slice(start, start + rows)
            loss, slope = _rows(h[part], w, targets[part], scale[part], buffer)
            total += loss
            if grad_h is not None and grad_w is not None:
                grad_h[part] = slope @ w
                grad_w += slope.T @ h[part]
        ctx.save_for_backward(hidden, weight, targets, counts, grad_h, grad_w)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        hidden, weight, targets, counts, grad_h, grad_w = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            # a tied weight also makes `hidden`: the derivatives here are partial, of two views
            h, w = hidden.view_as(hidden), weight.view_as(weight)
            loss = plain_cross_entropy(h, w, targets.where(counts, IGNORED))
            grad_h, grad_w = torch.autograd.grad(loss, (h, w), gradient, create_graph=True)
            return grad_h, grad_w, None, None
        return grad_h * gradient, (grad_w * gradient).to(weight.dtype), None, None
