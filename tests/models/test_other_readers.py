"""What readers of a release that cannot be run here look for: llama.cpp's converter and vLLM.

The names are gguf's own tables, which the converter of llama.cpp uses; the keys are those that it
and vLLM's Llama read from config.json.
"""

import json
from pathlib import Path

import pytest
from model_shapes import LLAMAS, OTHERS, SHAPES

from anytrain.data.tokenizer import train_bpe
from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import write_directory
from tiny import cli, write_recipe

gguf = pytest.importorskip("gguf")

# Read by llama.cpp's convert_hf_to_gguf.py for LlamaForCausalLM, and by vLLM's LlamaConfig.
KEYS = {
    "architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "intermediate_size", "rms_norm_eps", "rope_theta",
    "max_position_embeddings", "vocab_size", "tie_word_embeddings", "hidden_act", "dtype",
    "attention_bias", "mlp_bias", "eos_token_id", "bos_token_id",
}  # fmt: skip


def gguf_names(shape: str) -> dict[str, str | None]:
    """Tensor of a release -> its name in a GGUF file of architecture `llama`."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, SHAPES[shape].layers)
    return {
        name: table.get_name(name, try_suffixes=(".weight",)) for name in SHAPES[shape].tensors()
    }


@pytest.mark.parametrize("shape", LLAMAS)
def test_every_tensor_of_a_llama_has_a_name_in_gguf(shape: str) -> None:
    found = gguf_names(shape)
    assert None not in found.values()
    assert len(set(found.values())) == len(found)
    optional = ("ROPE", "ROT", "EXP", "GATE_INP")
    per_layer, whole = set(), set()
    for kind in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.LLAMA]:
        if not any(word in kind.name for word in optional):
            name = gguf.TENSOR_NAMES[kind] + ".weight"
            (per_layer if "{bid}" in name else whole).add(name)
    if SHAPES[shape].tied:  # llama.cpp takes the embedding then
        whole.remove("output.weight")
    layers = range(SHAPES[shape].layers)
    assert set(found.values()) == whole | {n.format(bid=i) for n in per_layer for i in layers}


@pytest.mark.parametrize("shape", OTHERS)
def test_a_shape_of_our_own_has_tensors_that_llama_has_not(shape: str) -> None:
    assert None in gguf_names(shape).values()


@pytest.mark.parametrize("shape", LLAMAS)
def test_the_directory_has_what_they_read(shape: str, tmp_path: Path) -> None:
    own = SHAPES[shape].with_vocab(300)
    train_bpe(300, ["some text to begin with"]).save(str(tmp_path / "tokenizer.json"))
    out = tmp_path / "model"
    write_directory(out, own, Decoder.seeded(own, 0).state_dict(), tokenizer=tmp_path, eot=0)
    config = json.loads((out / "config.json").read_text())
    assert config.keys() >= KEYS
    assert (config["architectures"], config["model_type"]) == (["LlamaForCausalLM"], "llama")
    assert config["head_dim"] * config["num_attention_heads"] == own.q_width
    names = {path.name for path in out.iterdir()}
    assert names >= {"model.safetensors", "generation_config.json", "tokenizer.json",
                     "tokenizer_config.json", "special_tokens_map.json"}  # fmt: skip
    assert not [name for name in names if name.endswith(".py")]
    from transformers import AutoConfig, AutoTokenizer

    read = AutoConfig.from_pretrained(out)
    assert read.rope_parameters["rope_theta"] == own.rope_theta
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|endoftext|>", 0)


def test_as_llama_or_a_sentence(tmp_path: Path, corpus: Path) -> None:
    for name, model in (("llama", {}), ("own", {"qk_norm": True, "norm": "layernorm"})):
        table = {"layers": 1, "width": 16, "heads": 2, **model}
        recipe = write_recipe(tmp_path / f"{name}.toml", corpus, model=table)
        assert cli("train", recipe, "--run", tmp_path / name, "--until", "1").code == 0
    said = cli("release", tmp_path / "llama", "--out", tmp_path / "a", "--as", "llama")
    assert said.code == 0, said.err
    refused = cli("release", tmp_path / "own", "--out", tmp_path / "b", "--as", "llama")
    assert refused.code == 2
    assert "has norm = 'layernorm' ('rmsnorm' is Llama's), qk_norm = True (False is" in refused.err
    assert not (tmp_path / "b").exists()
    assert cli("release", tmp_path / "own", "--out", tmp_path / "b").code == 0
