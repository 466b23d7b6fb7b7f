import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_shapes import LLAMA, LLAMAS, OTHERS, SHAPES
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from anytrain.errors import UserError
from anytrain.models.decoder import Decoder
from anytrain.models.description import end_of_text
from anytrain.models.huggingface import read_directory, write_directory
from anytrain.models.shape import DecoderShape


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-pair tokenizer of fewer than 64 tokens; 0 is end of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=60, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(["def forward(self, tokens): return tokens"], trainer)
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def tokens(*dims: int) -> torch.Tensor:
    return torch.randint(0, 64, dims, generator=torch.Generator().manual_seed(0))


def release(out: Path, shape: DecoderShape, **options: Any) -> Decoder:
    model = Decoder.seeded(shape, 0)
    write_directory(out, shape, model.state_dict(), **options)
    return model


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("max_shard_bytes", [20_000, 10**9])
def test_transformers_gives_the_same_logits(
    name: str, max_shard_bytes: int, tmp_path: Path, tokenizer: Path
) -> None:
    import transformers

    out = tmp_path / f"release_{name}"
    ours = release(out, SHAPES[name], max_shard_bytes=max_shard_bytes, tokenizer=tokenizer, eot=0)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        out, trust_remote_code=name in OTHERS
    )
    assert (type(theirs) is transformers.LlamaForCausalLM) == (name in LLAMAS)
    torch.testing.assert_close(theirs(tokens(3, 32)).logits, ours(tokens(3, 32)), atol=1e-5, rtol=0)
    assert (out / "model.safetensors.index.json").exists() == (max_shard_bytes < 10**9)


@pytest.mark.parametrize("name", OTHERS)
def test_own_model_in_transformers(name: str, tmp_path: Path) -> None:
    """Left padding, labels, and a directory that transformers saves again."""
    import transformers

    ours = release(tmp_path / f"own_{name}", SHAPES[name], eot=0)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / f"own_{name}", trust_remote_code=True
    )
    batch = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    padded = theirs(batch, attention_mask=mask).logits
    torch.testing.assert_close(padded[0, 2:], ours(batch[:1, 2:])[0], atol=2e-5, rtol=0)
    x = tokens(2, 16)
    torch.testing.assert_close(theirs(x, labels=x).loss, ours.loss(x[:, :-1], x[:, 1:]))
    theirs.save_pretrained(tmp_path / "again")
    shape, tensors = read_directory(tmp_path / "again")
    assert shape == SHAPES[name].resolved()
    assert all(torch.equal(tensors[n], t) for n, t in ours.state_dict().items())


def test_the_tokenizer_loads_and_ends_texts(tmp_path: Path, tokenizer: Path) -> None:
    import transformers

    release(tmp_path / "out", LLAMA, tokenizer=tokenizer / "tokenizer.json", eot=0, card="# Ours")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    plain = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    assert loaded("return tokens").input_ids == plain.encode("return tokens").ids
    assert loaded.eos_token_id == 0
    assert loaded.model_max_length == LLAMA.context
    config = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert config.eos_token_id == 0
    assert end_of_text(tmp_path / "out") == 0
    assert (tmp_path / "out" / "README.md").read_text() == "# Ours"


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_read_and_write_again_gives_the_same_bytes(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    release(tmp_path / "a", SHAPES[name], dtype=dtype)
    shape, tensors = read_directory(tmp_path / "a")
    assert shape == (
        SHAPES[name].resolved()
        if name in OTHERS
        else DecoderShape(**{**vars(SHAPES[name].resolved()), "init": "normal"})
    )
    assert {t.dtype for t in tensors.values()} == {dtype}
    write_directory(tmp_path / "b", shape, iter(tensors.items()), dtype=dtype)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_reads_what_transformers_5_writes(tmp_path: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=32,
        rope_parameters={"rope_type": "default", "rope_theta": 1234.0}, tie_word_embeddings=True,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config)
    theirs.save_pretrained(tmp_path)
    assert "rope_parameters" in json.loads((tmp_path / "config.json").read_text())
    shape, tensors = read_directory(tmp_path)
    assert (shape.rope_theta, shape.tied, shape.norm_eps) == (1234.0, True, 1e-6)
    ours = Decoder.loaded(shape, tensors)
    torch.testing.assert_close(ours(tokens(2, 9)), theirs(tokens(2, 9)).logits, atol=1e-5, rtol=0)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "mistral"}, "model_type = 'mistral'; valid are 'llama' and 'anytrain'"),
        ({"attention_bias": True}, "attention_bias = True; False is valid"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'; 'silu' is valid"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling = {'type': 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters = {'rope_type': 'llama3'}"),
        ({"vocab_size": None}, "vocab is not known"),
        ({"num_key_value_heads": 3}, "kv_heads = 3; a divisor of heads = 4 is valid"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4}"),
        ({"hidden_size": 64}, r"tensor 'model.embed_tokens.weight' is \(64, 32\), the model's is"),
        ({"num_hidden_layers": 3}, "'model.layers.2.self_attn.q_proj.weight' is missing"),
        ({"num_hidden_layers": 1}, "'model.layers.1.* is not part of this model"),
    ],
)
def test_models_we_cannot_compute(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    release(tmp_path / "m", LLAMA)
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    if "hidden_size" in change:
        config["intermediate_size"] = None
    file.write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=sentence):
        read_directory(tmp_path / "m")


def test_directories_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a model directory: it has no config\.json"):
        read_directory(tmp_path)
    release(tmp_path / "m", LLAMA)
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="is truncated or damaged"):
        read_directory(tmp_path / "m")
    weights.rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds pickled weights .* convert them to safetensors"):
        read_directory(tmp_path / "m")
    (tmp_path / "m" / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        read_directory(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        read_directory(tmp_path / "m")


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, tokenizer: Path) -> None:
    weights = Decoder.seeded(LLAMA, 0).state_dict()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    with pytest.raises(UserError, match="full is there already; a new name or an empty directory"):
        write_directory(tmp_path / "full", LLAMA, weights)

    some = {n: t for n, t in weights.items() if "norm" not in n}
    with pytest.raises(UserError, match=r"'model.layers.0.input_layernorm.weight' is missing"):
        write_directory(tmp_path / "out", LLAMA, some)
    more = {**weights, "extra.weight": torch.ones(2)}
    with pytest.raises(UserError, match=r"'extra\.weight' is \(2,\); the model has no such weight"):
        write_directory(tmp_path / "out", LLAMA, more.items())
    with pytest.raises(UserError, match="has no token 63"):
        write_directory(tmp_path / "out", LLAMA, weights, tokenizer=tokenizer, eot=63)
    with pytest.raises(UserError, match="tokens, the model's vocab is 8"):
        write_directory(tmp_path / "out", LLAMA.with_vocab(8), weights, tokenizer=tokenizer)
    with pytest.raises(UserError, match="is no tokenizers JSON file"):
        write_directory(tmp_path / "out", LLAMA, weights, tokenizer=tmp_path / "full" / "notes")
    assert [p.name for p in tmp_path.iterdir()] == ["full"]

    (tmp_path / "empty").mkdir()
    write_directory(tmp_path / "empty", LLAMA, weights)
    assert (tmp_path / "empty" / "model.safetensors").exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("anytrain.models.tensors.save_file", full)
    with pytest.raises(UserError, match="out cannot be written: No space left on device"):
        release(tmp_path / "out", LLAMA)
    assert list(tmp_path.iterdir()) == []
