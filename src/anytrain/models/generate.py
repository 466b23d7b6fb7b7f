"""Sampling from a decoder, one token at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from anytrain.errors import UserError
from anytrain.models.decoder import Decoder


def generate(
    model: Decoder,
    tokens: list[int],
    *,
    max_new: int,  # tokens
    temperature: float = 1.0,  # 0 is greedy
    top_k: int | None = None,  # None is the whole vocabulary
    seed: int = 0,
    eot: int | None = None,  # stops after it; it is yielded too
) -> Iterator[int]:
    """The tokens after `tokens`, each from softmax(logits / temperature) over the top k.

    The model sees the last `context` tokens. There is no key-value cache: a token costs a forward
    pass over them, which a release inside transformers or vLLM does not. The draw is made on the
    CPU, so a seed gives the same text on any device that gives the same logits.
    """
    if not tokens:
        raise ValueError("nothing to go on from; one token or more is valid (the end-of-text one)")
    if temperature < 0:
        raise ValueError(f"temperature = {temperature}; 0 (greedy) or more is valid")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k = {top_k}; 1 or more is valid")
    return _generate(model, list(tokens), max_new, temperature, top_k, seed, eot)


@torch.no_grad()
def _generate(
    model: Decoder,
    tokens: list[int],
    max_new: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    eot: int | None,
) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(max_new):
        seen = torch.tensor([tokens[-model.shape.context :]], device=model.head.device)  # (1, T)
        hidden = model.model(seen)[0, -1]  # (d,)
        logits = (model.head @ hidden).float().cpu()  # (V,)
        token = sample(logits, temperature, top_k, generator)
        tokens.append(token)
        yield token
        if token == eot:
            return


def sample(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator
) -> int:
    """One token from logits (V,)."""
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite; other weights are valid")
    if temperature == 0:
        return int(logits.argmax())
    values, ids = logits.topk(min(top_k or len(logits), len(logits)))
    chosen = torch.multinomial((values / temperature).softmax(dim=0), 1, generator=generator)
    return int(ids[chosen])
