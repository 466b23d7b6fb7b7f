"""Small shapes that between them use every option."""

from anytrain.models.shape import DecoderShape

LLAMA = DecoderShape(2, 32, 4, 64, kv_heads=2, context=32, rope_theta=5e5, norm_eps=1e-3)
TIED = DecoderShape(2, 32, 4, 64, context=32, tied=True)
WIDE_HEADS = DecoderShape(1, 32, 4, 64, kv_heads=1, head_dim=16, mlp=48, context=32)
ANYTIME = DecoderShape(
    2, 32, 4, 64, context=32, norm="layernorm", activation="gelu", qk_norm=True, init="anytime"
)
MIXED = DecoderShape(2, 32, 4, 64, kv_heads=2, context=32, qk_norm=True, tied=True, init="anytime")

LLAMAS = {"llama": LLAMA, "tied": TIED, "wide_heads": WIDE_HEADS}
OTHERS = {"anytime": ANYTIME, "mixed": MIXED}
SHAPES = {**LLAMAS, **OTHERS}
