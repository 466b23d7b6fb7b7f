"""Models whose answers are known: a byte a token, and each next byte from the last one alone."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import write_directory
from anytrain.models.shape import DecoderShape

END = "<|endoftext|>"
CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[me]{% endif %}"  # noqa: E501


def byte_tokenizer(folder: Path) -> Path:
    """257 tokens: the end of text, then every byte; no merges."""
    vocab = {END: 0} | {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    made = Tokenizer(models.BPE(vocab, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def write(out: Path, model: Decoder, chat: bool = False) -> Path:
    """A model with the byte tokenizer, with a chat template or none."""
    tokenizer = byte_tokenizer(out.parent / "bytes")
    write_directory(out, model.shape, model.state_dict(), tokenizer=tokenizer, eot=0)
    if chat:
        config = json.loads((out / "tokenizer_config.json").read_text())
        (out / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": CHAT}))
    return out


def rigged(follows: Mapping[str, str], context: int = 256) -> Decoder:
    """A Llama that says `follows[c]` after the character c, by 10 nats above everything else.

    Attention and MLP add nothing to the residual stream, so the hidden state is the last token's
    one-hot embedding, which RMSNorm scales to √width; the head's column of that token is its row
    of the table.
    """
    width = 260
    shape = DecoderShape(1, width, 2, 257, context=context, mlp=8)
    model = Decoder.seeded(shape, 0)
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    for name in state:
        if "norm" in name:
            state[name] += 1
    state["model.embed_tokens.weight"][:257, :257] = torch.eye(257)
    tokenizer = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    spelled = {" ": "Ġ", "\n": "Ċ"}  # of byte-level BPE
    for last, following in follows.items():
        a, b = (tokenizer[spelled.get(c, c)] for c in (last, following))
        state["lm_head.weight"][b, a] = 10 / width**0.5
    model.load_state_dict(state)
    return model
