"""The decoder as a `transformers` model, for releases whose shape is not Llama's.

A release carries this file with decoder.py, cross_entropy.py and shape.py, and transformers runs
it under `trust_remote_code=True`; in anytrain itself only fine-tuning imports it. Parameter names
are the decoder's own. There is no key-value cache: each generated token costs a full forward pass.
"""

from dataclasses import fields
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from .decoder import Trunk
from .shape import DecoderShape


class AnytrainConfig(PretrainedConfig):
    """The fields of `DecoderShape`, also under the names that transformers' tools ask for."""

    model_type = "anytrain"
    attribute_map = {  # noqa: RUF012 - transformers' own form
        "vocab_size": "vocab",
        "hidden_size": "width",
        "intermediate_size": "mlp",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "num_key_value_heads": "kv_heads",
        "max_position_embeddings": "context",
    }

    def __init__(self, **values: Any) -> None:
        # transformers also makes a config of nothing, to learn its defaults
        shape = DecoderShape(layers=1, width=2, heads=1, vocab=1)
        for field in fields(DecoderShape):
            setattr(self, field.name, values.pop(field.name, getattr(shape, field.name)))
        values.setdefault("tie_word_embeddings", self.tied)
        super().__init__(**values)

    def shape(self) -> DecoderShape:
        return DecoderShape(**{f.name: getattr(self, f.name) for f in fields(DecoderShape)})


class Backbone(Trunk):
    """The trunk under the names that transformers and TRL call it by.

    Where there is no mask, a position that does not follow the one before it begins another
    document: that is how rows which hold several are told apart (transformers' own convention).
    """

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,  # (B, T)
        attention_mask: Tensor | None = None,  # (B, T), 0 where padded
        position_ids: Tensor | None = None,  # (B, T)
        **_: Any,
    ) -> BaseModelOutput:
        # padding is a document of its own: nothing looks across its border, and positions are
        # relative, so it may stand on either side
        documents = attention_mask
        if documents is None and position_ids is not None:
            starts = F.pad(position_ids.diff(dim=1) != 1, (1, 0))
            documents = starts.cumsum(1).expand(input_ids.shape)
        return BaseModelOutput(last_hidden_state=super().forward(input_ids, documents))


class AnytrainForCausalLM(PreTrainedModel, GenerationMixin):
    """Tokens to next-token logits, and the loss where there are labels."""

    config_class = AnytrainConfig
    base_model_prefix = "model"
    _no_split_modules = ["Layer"]  # noqa: RUF012 - transformers' own form
    _supports_sdpa = True
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: AnytrainConfig) -> None:
        super().__init__(config)
        shape = config.shape()
        self.model = Backbone(shape)
        # a module where it is tied too: TRL reads the weight and the bias of a head
        self.lm_head = nn.Linear(shape.width, shape.tokens, bias=False)
        self.post_init()  # ties them where the config says so

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def prepare_inputs_for_generation(  # type: ignore[override]  # called by keywords
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        # all tokens every time: asked for a cache, transformers would give the last one alone
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(
        self,
        input_ids: Tensor,  # (B, T)
        attention_mask: Tensor | None = None,  # (B, T), 0 where padded
        labels: Tensor | None = None,  # (B, T), -100 where they do not count
        position_ids: Tensor | None = None,  # (B, T)
        **_: Any,
    ) -> CausalLMOutput:
        hidden = self.model(input_ids, attention_mask, position_ids).last_hidden_state  # (B, T, d)
        logits = self.lm_head(hidden)  # (B, T, V)
        loss = None
        if labels is not None:
            shifted = logits[:, :-1].flatten(0, 1).float()
            loss = F.cross_entropy(shifted, labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
