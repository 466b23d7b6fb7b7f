"""The shape of a decoder, and everything that follows from it without allocating a weight."""

from dataclasses import dataclass, replace
from math import prod
from typing import Literal, get_args

Norm = Literal["rmsnorm", "layernorm"]
Activation = Literal["swiglu", "gelu"]
Init = Literal["normal", "anytime"]

_MOST_LAYERS = 10_000  # each has a dozen names, and so a file cannot ask for memory without end
_LARGEST = 2**31  # of every other size


@dataclass(frozen=True)
class DecoderShape:
    """A pre-norm decoder with rotary positions and no biases.

    The defaults are Llama's (arXiv:2407.21783). LayerNorm, `gelu`, `qk_norm` and `anytime` make
    the model of arXiv:2602.03702. Raises `ValueError` for a shape that cannot be built.
    """

    layers: int
    width: int  # d, the residual stream
    heads: int
    vocab: int | None = None  # None until the corpus says it: `with_vocab`
    kv_heads: int | None = None  # grouped key and value heads (arXiv:2305.13245); None = heads
    mlp: int | None = None  # hidden units; None = 8/3·d (swiglu) or 4·d (gelu), see `mlp_width`
    head_dim: int | None = None  # None = width / heads
    context: int = 1024  # tokens; the positions a release declares, no weight depends on it
    norm: Norm = "rmsnorm"  # LayerNorm has a weight and no bias
    norm_eps: float = 1e-5
    activation: Activation = "swiglu"
    qk_norm: bool = False  # normalise q and k over their full width, before the head split
    rope_theta: float = 10000.0
    tied: bool = False  # the head is the token embedding
    init: Init = "normal"  # the standard deviations of `Decoder.initial_tensors`

    def __post_init__(self) -> None:
        self._check_sizes()
        for name, kinds in (("norm", Norm), ("activation", Activation), ("init", Init)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in get_args(kinds):
                raise ValueError(f"{name} = {value!r}; valid are {', '.join(get_args(kinds))}")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            real = isinstance(value, int | float) and 0 < value < 1e100
            if not real:
                raise ValueError(f"{name} = {value!r}; a number above 0 is valid")
        for name in ("qk_norm", "tied"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} = {value!r}; true and false are valid")

    def _check_sizes(self) -> None:
        optional = ("vocab", "kv_heads", "mlp", "head_dim")
        for name in ("layers", "width", "heads", "context", *optional):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} = {value!r}; a whole number of 1 or more is valid")
            most = _MOST_LAYERS if name == "layers" else _LARGEST
            if value > most:
                raise ValueError(f"{name} = {value}; at most {most} is valid")
        if self.width % self.heads:
            raise ValueError(f"width = {self.width}; a multiple of heads = {self.heads} is valid")
        if self.heads % self.kv:
            raise ValueError(f"kv_heads = {self.kv}; a divisor of heads = {self.heads} is valid")
        if self.head % 2:
            raise ValueError(
                f"head_dim = {self.head} is odd; rotary positions turn pairs, an even one is valid"
            )

    def with_vocab(self, vocab: int) -> "DecoderShape":
        """The same shape for a corpus of `vocab` tokens."""
        return replace(self, vocab=vocab)

    def resolved(self) -> "DecoderShape":
        """The same shape with every default written out."""
        return replace(self, kv_heads=self.kv, mlp=self.mlp_width, head_dim=self.head)

    # --- sizes with the defaults filled in ----------------------------------------------------

    @property
    def tokens(self) -> int:
        """The vocabulary; raises `ValueError` while no corpus has said it."""
        if self.vocab is None:
            raise ValueError("vocab is not known before the corpus; give model.vocab")
        return self.vocab

    @property
    def kv(self) -> int:
        """Key and value heads."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.width // self.heads if self.head_dim is None else self.head_dim

    @property
    def q_width(self) -> int:
        """All query heads side by side."""
        return self.heads * self.head

    @property
    def kv_width(self) -> int:
        """All key heads side by side; the values are as wide."""
        return self.kv * self.head

    @property
    def mlp_width(self) -> int:
        """Hidden units. SwiGLU's three matrices at 8/3·d hold what GELU's two do at 4·d
        (arXiv:2002.05202); rounded up to a multiple of 64 for the matrix units."""
        if self.mlp is not None:
            return self.mlp
        return 4 * self.width if self.activation == "gelu" else -(-8 * self.width // 192) * 64

    @property
    def is_llama(self) -> bool:
        """Whether `LlamaForCausalLM` computes this function."""
        return not self.unlike_llama

    @property
    def unlike_llama(self) -> tuple[str, ...]:
        """The options that keep it from being Llama, each with the value that Llama has."""
        needed = {"norm": "rmsnorm", "activation": "swiglu", "qk_norm": False}
        own = ((name, getattr(self, name), value) for name, value in needed.items())
        return tuple(f"{n} = {v!r} ({valid!r} is Llama's)" for n, v, valid in own if v != valid)

    # --- weights ------------------------------------------------------------------------------

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> dimensions of every weight, under the names of Hugging Face's Llama."""
        embedding = {"model.embed_tokens.weight": (self.tokens, self.width)}
        head = {} if self.tied else {"lm_head.weight": (self.tokens, self.width)}
        return {**embedding, **self._body(), **head}

    def _body(self) -> dict[str, tuple[int, ...]]:
        body: dict[str, tuple[int, ...]] = {}
        for layer in range(self.layers):
            for name, dims in self._layer().items():
                body[f"model.layers.{layer}.{name}.weight"] = dims
        return {**body, "model.norm.weight": (self.width,)}

    def _layer(self) -> dict[str, tuple[int, ...]]:
        d, q, kv, m = self.width, self.q_width, self.kv_width, self.mlp_width
        norms = {"self_attn.q_norm": (q,), "self_attn.k_norm": (kv,)} if self.qk_norm else {}
        gate = {"mlp.gate_proj": (m, d)} if self.activation == "swiglu" else {}
        return {
            "self_attn.q_proj": (q, d),
            "self_attn.k_proj": (kv, d),
            "self_attn.v_proj": (kv, d),
            "self_attn.o_proj": (d, q),
            **norms,
            **gate,
            "mlp.up_proj": (m, d),
            "mlp.down_proj": (d, m),
            "input_layernorm": (d,),
            "post_attention_layernorm": (d,),
        }

    @property
    def parameters(self) -> int:
        """All weights, a tied embedding once."""
        return sum(prod(dims) for dims in self.tensors().values())

    @property
    def non_embedding(self) -> int:
        """All weights but the token embedding and the head."""
        return sum(prod(dims) for dims in self._body().values())

    # --- costs --------------------------------------------------------------------------------

    def flops_per_token(self, context: int) -> float:
        """Training FLOPs per token: 6·N + 12·L·(H·Q)·T/2 (PaLM, arXiv:2204.02311, appendix B).

        N counts matrices that multiply (the head, tied or not; neither the embedding lookup nor
        the norms), H·Q is the width of all query heads, T the context. PaLM counts 12·L·H·Q·T; half
        of that is causal, the other half is masked and our kernels do not compute it.
        """
        matrices = sum(prod(dims) for dims in self._body().values() if len(dims) == 2)
        attention = 12 * self.layers * self.q_width * context / 2
        return 6.0 * (matrices + self.tokens * self.width) + attention

    def activation_bytes_per_token(self, item: int = 2) -> float:
        """Bytes a training step keeps per token for its backward pass, at most at one moment.

        The count of Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1) for our layer: a fp32
        residual stream, so 4 bytes a unit where it enters a norm and `item` bytes elsewhere (2
        under bf16 autocast); no dropout; and no T² term, because SDPA's fused kernels keep q, k, v
        and the output instead of the scores. With GELU, m = 4d and heads = kv_heads that is 36·d
        bytes a layer against Korthikanti's 34·d, which has a 2-byte stream and dropout masks.
        At the head: its input and that one's gradient; `head_bytes` is the rest. Weights cast by
        autocast are not in it: they cost 2 bytes a parameter, whatever the number of tokens.
        """
        d, q, kv = self.width, self.q_width, self.kv_width
        kept_by_mlp = 4 if self.activation == "swiglu" else 2  # hidden-wide tensors
        attention = item * (d + 2 * q + 2 * kv)  # input; q, k, v, output
        norms = 2 * 4 * d + (2 * 4 * (q + kv) if self.qk_norm else 0)
        mlp = item * (d + kept_by_mlp * self.mlp_width)
        return self.layers * (attention + norms + mlp) + 8.0 * d

    def head_bytes(self, item: int, logits: int) -> int:
        """Bytes that the loss takes whatever the number of tokens: the gradient of the head in
        fp32, its weights as they are cast, and so many logits at a time (see cross_entropy.py)."""
        cast = item if item < 4 else 0
        return (4 + cast) * self.tokens * self.width + (4 + 2 * cast) * logits
