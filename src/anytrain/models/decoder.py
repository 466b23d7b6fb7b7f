"""One decoder for both papers' models: every option is in its `DecoderShape`.

Parameters have the names of Hugging Face's Llama, so that a release and a fine-tuning rename
nothing. With shape.py and cross_entropy.py this file is the whole model: a release of a shape that
is not Llama's carries copies of the three, which is why they import nothing else of this package.
"""

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .cross_entropy import cross_entropy
from .shape import DecoderShape

Reduction = Literal["mean", "sequence"]

Rotation = tuple[Tensor, Tensor]  # cos and sin, each (T, head / 2)


def rotation(length: int, head: int, theta: float, device: torch.device) -> Rotation:
    """cos and sin of t·θ^(−2i/head), in fp32 (RoFormer, arXiv:2104.09864, equation 15).

    Computed in each forward pass, not kept in a buffer: it costs T·head/2 sines, and a buffer
    would be garbage after `to_empty` and rounded by `.bfloat16()`.
    """
    exponents = torch.arange(0, head, 2, device=device, dtype=torch.float32) / head
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = positions[:, None] * theta**-exponents  # (T, head / 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn each pair (x_i, x_{i + head/2}), the "rotate half" pairing of Hugging Face's Llama."""
    cos, sin = by
    first, second = x.float().chunk(2, dim=-1)  # (B, H, T, head / 2) each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def document_mask(documents: Tensor) -> Tensor:
    """True where a query may look: at its own and earlier tokens of its own document."""
    same = documents[:, :, None] == documents[:, None, :]  # (B, T, T)
    return same.tril()[:, None]  # (B, 1, T, T)


class RMSNorm(nn.RMSNorm):
    """x·w / √(mean x² + ε) (arXiv:1910.07467), in the type of its weight.

    Autocast does the same for LayerNorm and leaves RMSNorm alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def norm(shape: DecoderShape, width: int) -> nn.Module:
    """RMSNorm, or LayerNorm with a weight and no bias, as the shape says."""
    if shape.norm == "rmsnorm":
        return RMSNorm(width, eps=shape.norm_eps)
    return nn.LayerNorm(width, eps=shape.norm_eps, bias=False)


class Attention(nn.Module):
    """Causal attention with rotary positions and grouped key and value heads."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.head = shape.head
        self.groups = shape.heads // shape.kv
        self.q_proj = nn.Linear(shape.width, shape.q_width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.kv_width, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.kv_width, bias=False)
        self.o_proj = nn.Linear(shape.q_width, shape.width, bias=False)
        self.q_norm = norm(shape, shape.q_width) if shape.qk_norm else nn.Identity()
        self.k_norm = norm(shape, shape.kv_width) if shape.qk_norm else nn.Identity()

    def forward(self, x: Tensor, by: Rotation, mask: Tensor | None) -> Tensor:
        v = self._split(self.v_proj(x))  # (B, kv, T, head)
        # under autocast a norm answers in fp32; attention wants q, k and v of one type
        q = rotate(self._split(self.q_norm(self.q_proj(x))), by).to(v.dtype)  # (B, H, T, head)
        k = rotate(self._split(self.k_norm(self.k_proj(x))), by).to(v.dtype)  # (B, kv, T, head)
        grouped = self.groups > 1
        if grouped and mask is not None:  # flash alone knows groups, and takes no mask
            k, v = (t.repeat_interleave(self.groups, dim=1) for t in (k, v))
            grouped = False
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
        )
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))  # (B, T, d)
        return out

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head))  # (B, T, heads, head)
        return heads.transpose(1, 2)  # (B, heads, T, head)


class SwiGLU(nn.Module):
    """down(silu(gate x) ⊙ up x) (arXiv:2002.05202)."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.mlp_width, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.mlp_width, bias=False)
        self.down_proj = nn.Linear(shape.mlp_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class GELU(nn.Module):
    """down(gelu(up x)), with the exact error function."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.up_proj = nn.Linear(shape.width, shape.mlp_width, bias=False)
        self.down_proj = nn.Linear(shape.mlp_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.gelu(self.up_proj(x)))
        return out


class Layer(nn.Module):
    """x ← x + attention(norm x), then x ← x + mlp(norm x).

    With `recompute` its activations are not kept for the backward pass but computed again.
    """

    recompute: bool = False

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = SwiGLU(shape) if shape.activation == "swiglu" else GELU(shape)
        self.input_layernorm = norm(shape, shape.width)
        self.post_attention_layernorm = norm(shape, shape.width)

    def forward(self, x: Tensor, by: Rotation, mask: Tensor | None) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            found: Tensor = checkpoint(self._forward, x, by, mask, use_reentrant=False)
            return found
        return self._forward(x, by, mask)

    def _forward(self, x: Tensor, by: Rotation, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), by, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))  # (B, T, d)
        return out


class Trunk(nn.Module):
    """The decoder without its head: tokens to the last normalised residual stream."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.tokens, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = norm(shape, shape.width)

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        x = self.embed_tokens(tokens)  # (B, T, d)
        by = rotation(tokens.shape[1], self.shape.head, self.shape.rope_theta, x.device)
        mask = None if documents is None else document_mask(documents)
        for layer in self.layers:
            x = layer(x, by, mask)
        hidden: Tensor = self.norm(x)  # (B, T, d)
        return hidden


class Decoder(nn.Module):
    """Tokens to logits. A tied head is the embedding itself, so the weights hold it once.

    Built with PyTorch's own random weights: call `init_weights`, or start from `seeded` or
    `loaded`. Compile in place (`model.compile()`): `loss` then uses the compiled forward pass and
    no parameter changes its name. For a second derivative, call it inside
    `sdpa_kernel(SDPBackend.MATH)`; the fused attention kernels have none.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        if not shape.tied:
            self.lm_head = nn.Linear(shape.width, shape.tokens, bias=False)

    @classmethod
    def seeded(
        cls, shape: DecoderShape, seed: int, device: torch.device | str = "cpu"
    ) -> "Decoder":
        """A fresh fp32 model, the same for a seed whatever the device; no other RNG is touched."""
        model = cls.empty(shape, device)
        model.init_weights(torch.Generator().manual_seed(seed))
        return model

    @classmethod
    def loaded(
        cls,
        shape: DecoderShape,
        tensors: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Decoder":
        """A model with these weights, copied one at a time, so a lazy mapping stays lazy."""
        model = cls.empty(shape, device).to(dtype)
        model.load(tensors)
        return model

    @classmethod
    def empty(cls, shape: DecoderShape, device: torch.device | str) -> "Decoder":
        """Memory for every weight and nothing in it yet."""
        with torch.device("meta"):
            model = cls(shape)
        return model.to_empty(device=device)

    def forward(
        self,
        tokens: Tensor,  # (B, T)
        documents: Tensor | None = None,  # (B, T): the number of each token's document
        targets: Tensor | None = None,  # (B, T)
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Logits (B, T, V); with targets, the loss that `loss` and `losses` describe.

        Attention stays inside a document. Positions are relative, so they need no restart.
        The loss is made here so that wrappers which hook the forward pass (FSDP, DDP, compile)
        see all of it, and so that the logits never exist at once.
        """
        hidden = self.model(tokens, documents)  # (B, T, d)
        if targets is None:
            return F.linear(hidden, self.head)  # (B, T, V)
        if reduction == "mean":
            return cross_entropy(hidden.flatten(0, 1), self.head, targets.flatten())
        pairs = zip(hidden, targets, strict=True)
        return torch.stack([cross_entropy(h, self.head, target) for h, target in pairs])  # (B,)

    def loss(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Mean cross-entropy, nats/token, in fp32. A target of -100 does not count."""
        loss: Tensor = self(tokens, documents, targets)
        return loss

    def losses(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of each sequence (B,), nats/token: for a mean and its error."""
        losses: Tensor = self(tokens, documents, targets, "sequence")
        return losses

    @property
    def head(self) -> Tensor:
        """The output matrix (V, d)."""
        return (self.model.embed_tokens if self.shape.tied else self.lm_head).weight

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Fill every weight from `initial_tensors`."""
        parameters = dict(self.named_parameters())
        for name, value in initial_tensors(self.shape, generator):
            fill(parameters[name], value)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take these weights, one at a time."""
        for name, parameter in self.named_parameters():
            fill(parameter, tensors[name])


def fill(parameter: Tensor, value: Tensor) -> None:
    """Copy a whole value into a parameter; of a distributed one, the part that is here."""
    if hasattr(parameter, "to_local"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        mesh, placements = parameter.device_mesh, parameter.placements
        here = value.to(parameter.device)
        value = distribute_tensor(here, mesh, placements, src_data_rank=None)
    parameter.copy_(value)


def initial_tensors(
    shape: DecoderShape, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """Every weight's starting value, one at a time, drawn on the CPU in fp32 in a fixed order.

    `normal`: standard deviation 0.02 (GPT-2, Llama). `anytime`: 1/√d, and 1/√(2·fan_in·(layer + 1))
    where a layer writes to the residual stream, truncated at three of them (arXiv:2602.03702,
    from OLMo, arXiv:2402.00838). A norm's weights are ones.
    """
    for name, dims in shape.tensors().items():
        value = torch.ones(dims)
        if len(dims) == 2:
            std = standard_deviation(shape, name, fan_in=dims[1])
            if shape.init == "anytime":
                nn.init.trunc_normal_(value, 0.0, std, -3 * std, 3 * std, generator)
            else:
                value.normal_(0.0, std, generator=generator)
        yield name, value


def standard_deviation(shape: DecoderShape, name: str, fan_in: int) -> float:
    """The spread of one matrix at the start; see `initial_tensors`."""
    if shape.init == "normal":
        return 0.02
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        layer = int(name.split(".")[2])  # model.layers.<layer>.…
        return 1 / sqrt(2 * fan_in * (layer + 1))
    return 1 / sqrt(shape.width)
