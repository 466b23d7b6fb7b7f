"""Checkpoints of nanoGPT, litgpt and torch.distributed become directories with the same logits."""

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anytrain.converting import opened
from anytrain.data.tokenizer import train_bpe
from anytrain.errors import UserError
from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import read_directory, write_directory
from anytrain.models.shape import DecoderShape
from checkpoints import (
    ARGS,
    LLAMA,
    WIDE,
    lit_config,
    lit_weights,
    nano_weights,
    save_lit,
    save_nano,
)
from tiny import Said, cli, files


def tokens(*dims: int) -> Tensor:
    return torch.randint(0, 64, dims, generator=torch.Generator().manual_seed(0))


def logits(folder: Path, batch: Tensor) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder)(batch).logits


def converted(source: Path, out: Path, *more: str | Path) -> Said:
    said = cli("convert", source, "--out", out, *more)
    assert said.code == 0, said.err
    return said


# --- nanoGPT ---------------------------------------------------------------------------------


def nano(weights: dict[str, Tensor], batch: Tensor) -> Tensor:
    """GPT-2 as a plain function (Radford et al. 2019), matrices (out, in) as nanoGPT has them."""
    w = {name.removeprefix("transformer."): value for name, value in weights.items()}
    d, heads, length = ARGS["n_embd"], ARGS["n_head"], batch.shape[1]

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (d,), w[f"{name}.weight"], w.get(f"{name}.bias"), 1e-5)

    x = w["wte.weight"][batch] + w["wpe.weight"][:length]  # (B, T, d)
    for layer in range(ARGS["n_layer"]):
        at = f"h.{layer}"
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in linear(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn").chunk(3, -1)
        )  # (B, H, T, d / H)
        scores = q @ k.transpose(-1, -2) / (d / heads) ** 0.5
        future = torch.ones(length, length).triu(1).bool()
        y = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        x = x + linear(y.transpose(1, 2).flatten(2), f"{at}.attn.c_proj")
        hidden = F.gelu(linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc"))
        x = x + linear(hidden, f"{at}.mlp.c_proj")
    return F.linear(norm(x, "ln_f"), weights["lm_head.weight"])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("before", ["_orig_mod.", "", "module._orig_mod."])
def test_nanogpt_is_gpt2(bias: bool, before: str, tmp_path: Path) -> None:
    weights = nano_weights(bias)
    said = converted(save_nano(tmp_path / "ckpt.pt", weights, before), tmp_path / "out")
    assert "nanoGPT, 2 layers of 16, context 24, as GPT2LMHeadModel" in said.out
    batch = tokens(3, 24)
    torch.testing.assert_close(
        logits(tmp_path / "out", batch), nano(weights, batch), atol=2e-5, rtol=0
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["dtype"]) == (True, "float32")


def test_nanogpt_with_a_head_of_its_own_and_the_old_mask(tmp_path: Path) -> None:
    weights = nano_weights(True)
    weights["lm_head.weight"] = torch.randn(64, 16)
    with_mask = weights | {
        f"transformer.h.{n}.attn.bias": torch.ones(1, 1, 24, 24).tril() for n in range(2)
    }
    converted(save_nano(tmp_path / "ckpt.pt", with_mask), tmp_path / "out", "--json")
    batch = tokens(2, 8)
    torch.testing.assert_close(
        logits(tmp_path / "out", batch), nano(weights, batch), atol=2e-5, rtol=0
    )


def test_types_and_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    weights = {name: value.bfloat16() for name, value in nano_weights(False).items()}
    train_bpe(257, ["some text"]).save(str(tokenizer / "tokenizer.json"))
    source = save_nano(tmp_path / "ckpt.pt", weights)
    too_large = cli("convert", source, "--out", tmp_path / "a", "--tokenizer", tokenizer)
    assert (too_large.code, "has 257 tokens, the model's vocab is 64" in too_large.err) == (2, True)
    missing = cli("convert", source, "--out", tmp_path / "a", "--tokenizer", tmp_path / "no")
    assert (missing.code, "no such file" in missing.err) == (2, True)
    assert not (tmp_path / "a").exists()
    converted(source, tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


# --- litgpt ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [LLAMA, WIDE, DecoderShape(**{**vars(LLAMA), "tied": True})])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("more", [{}, {"iter_num": 3}])
def test_litgpt_is_llama(
    shape: DecoderShape, old: bool, more: dict[str, Any], tmp_path: Path
) -> None:
    model, weights = lit_weights(shape, old)
    folder = save_lit(tmp_path / "lit", lit_config(shape), weights, **more)
    said = converted(folder, tmp_path / "out")
    assert "litgpt tiny-llama" in said.out
    assert "as LlamaForCausalLM" in said.out
    batch = tokens(2, 16)
    torch.testing.assert_close(logits(tmp_path / "out", batch), model(batch), atol=2e-5, rtol=0)
    assert read_directory(tmp_path / "out")[0].tied == shape.tied


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"mlp_class_name": "GptNeoxMLP"}, r"mlp_class_name = 'GptNeoxMLP'; 'LLaMAMLP' is what"),
        ({"rotary_percentage": 0.25}, r"rotary_percentage = 0.25; 1.0 is what Llama computes"),
        ({"norm_qk": True}, r"norm_qk = True; False is"),
        ({"sliding_window_size": 128}, r"sliding_window_size = 128; None is"),
        ({"n_layer": 0}, r"n_layer = 0; a whole number of 1 or more"),
        ({"n_embd": None}, r"n_embd = None; a whole number"),
        ({"n_layer": 3}, r"tensor 'transformer.h.2.attn.qkv.weight' is missing"),
        ({"n_layer": 1}, r"tensor 'transformer.h.1.attn.proj.weight' is not part of Llama"),
        ({"intermediate_size": 25}, r"mlp.fc_1.weight' is \(24, 16\); \(25, 16\) is valid"),
    ],
)
def test_what_llama_does_not_compute_is_a_sentence(
    changed: dict[str, Any], match: str, tmp_path: Path
) -> None:
    folder = save_lit(tmp_path / "l", lit_config(LLAMA, **changed), lit_weights(LLAMA, False)[1])
    with pytest.raises(UserError, match=match):
        opened(folder)


def test_a_damaged_table_is_a_sentence(tmp_path: Path) -> None:
    folder = save_lit(tmp_path / "lit", lit_config(LLAMA), lit_weights(LLAMA, False)[1])
    for text, match in (("a: [", "cannot be read"), ("- 1", "it holds no table")):
        (folder / "model_config.yaml").write_text(text)
        with pytest.raises(UserError, match=match):
            opened(folder)
    deep = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    (folder / "model_config.yaml").write_text(f"a0: &a0 [1]\n{deep}norm_class_name: *a29\n")
    with pytest.raises(UserError, match=r"norm_class_name = \[\["):
        opened(folder)
    (folder / "model_config.yaml").write_text("!!python/object/apply:os.system ['touch x']")
    with pytest.raises(UserError, match="cannot be read: could not determine a constructor"):
        opened(folder)


# --- torch.distributed -----------------------------------------------------------------------


def test_a_distributed_checkpoint_of_known_names(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    model = Decoder.seeded(LLAMA, 7)
    write_directory(tmp_path / "like", LLAMA, Decoder.seeded(LLAMA, 8).state_dict())
    state = {"model": model.state_dict(), "optimizer": {"step": torch.ones(1)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        dcp.save(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    alone = cli("convert", tmp_path / "dcp", "--out", tmp_path / "out")
    assert (alone.code, "--like DIR names a Hugging Face directory" in alone.err) == (2, True)
    converted(tmp_path / "dcp", tmp_path / "out", "--like", tmp_path / "like")
    batch = tokens(2, 16)
    torch.testing.assert_close(logits(tmp_path / "out", batch), model(batch), atol=1e-5, rtol=0)
    other = tmp_path / "other"
    write_directory(other, WIDE, Decoder.seeded(WIDE, 8).state_dict())
    with pytest.raises(UserError, match=r"the model's is|is not part of this model"):
        opened(tmp_path / "dcp", other)


# --- used by the verbs -----------------------------------------------------------------------


def test_merge_and_go_on(tmp_path: Path, corpus: Path) -> None:
    """Converted weights are generated from, merged, and begun with."""
    shape = DecoderShape(**{**vars(LLAMA), "vocab": 280})
    for name in ("a", "b"):
        model, weights = lit_weights(shape, name == "a")
        folder = save_lit(tmp_path / f"lit-{name}", lit_config(shape), weights)
        converted(folder, tmp_path / name, "--tokenizer", corpus)
    said = cli("generate", tmp_path / "a", "the", "--tokens", "2")
    assert said.code == 0, said.err
    said = cli("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "soup")
    assert said.code == 0, said.err
    batch = tokens(2, 16)
    torch.testing.assert_close(logits(tmp_path / "soup", batch), model(batch), atol=2e-5, rtol=0)
    from tiny import write_recipe

    recipe = write_recipe(tmp_path / "r.toml", corpus)
    begun = cli("train", recipe, "--run", tmp_path / "run", "--from", tmp_path / "a",
                "--until", "2")  # fmt: skip
    assert begun.code == 0, begun.err


def test_archives_are_merged_as_they_are(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    first, second = nano_weights(True), nano_weights(True)
    second = {name: value * 3 for name, value in second.items()}
    sources = [save_nano(tmp_path / "a.pt", first), save_nano(tmp_path / "b.pt", second, "")]
    refused = cli("merge", *sources, "--out", tmp_path / "m.safetensors")
    assert (refused.code, "--foreign reads it" in refused.err) == (2, True)
    folder = cli("merge", *sources, "--foreign", "--out", tmp_path / "m")
    assert (folder.code, "a FILE.safetensors is made" in folder.err) == (2, True)
    said = cli("merge", *sources, "--foreign", "--out", tmp_path / "m.safetensors")
    assert said.code == 0, said.err
    merged = load_file(tmp_path / "m.safetensors")
    assert merged.keys() == first.keys()
    for name, value in merged.items():
        torch.testing.assert_close(value, first[name] * 2)


# --- files of torch.save ---------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/evil"),)


def _archive(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


EIGHTHS = torch.ones(2).to(torch.float8_e5m2)
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (lambda p: _archive(p, {"model": Evil()}), "its pickle asks for .*it was not opened"),
    "no zip": (lambda p: p.write_bytes(b"nothing"), "no file of torch.save"),
    "empty": (lambda p: p.write_bytes(b""), "no file of torch.save"),
    "old": (lambda p: torch.save({}, p, _use_new_zipfile_serialization=False), "no file of torch"),
    "bare pickle": (lambda p: p.write_bytes(pickle.dumps({})), "no file of torch.save"),
    "a list": (lambda p: _archive(p, [1]), "holds a list; a dict of weights is valid"),
    "no tensor": (lambda p: _archive(p, {"a": 1}), "holds no tensor of a model"),
    "transposed": (lambda p: _archive(p, {"a": torch.ones(2, 3).T}), "'a' is not stored row by"),
    "eighths": (lambda p: _archive(p, {"a": EIGHTHS}), "'a' is F8_E5M2"),
    "no model": (lambda p: _archive(p, {"a": torch.ones(2)}), "says nothing about its model"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_a_sentence(name: str, tmp_path: Path) -> None:
    make, match = BAD[name]
    make(tmp_path / "x.pt")
    with pytest.raises(UserError, match=match):
        opened(tmp_path / "x.pt")


def test_a_truncated_file_is_a_sentence(tmp_path: Path) -> None:
    content = save_nano(tmp_path / "ckpt.pt", nano_weights(True)).read_bytes()
    for length in range(0, len(content), len(content) // 17):
        (tmp_path / "x.pt").write_bytes(content[:length])
        with pytest.raises(UserError, match="truncated, damaged, or no file"):
            opened(tmp_path / "x.pt")


def test_a_storage_that_is_shorter_than_its_tensor(tmp_path: Path) -> None:
    whole = zipfile.ZipFile(save_nano(tmp_path / "ckpt.pt", nano_weights(True)))
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as cut:
        for info in whole.infolist():
            data = whole.read(info)
            cut.writestr(info.filename, data[:-4] if "/data/" in info.filename else data)
    with pytest.raises(UserError, match="ends after its bytes"):
        opened(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"n_head": 3}, "n_embd = 16 is no multiple of n_head = 3"),
        ({"n_layer": "2"}, "n_layer = '2'; a whole number"),
        ({"n_layer": 3}, "tensor 'transformer.h.2.attn.c_attn.weight' is missing"),
        ({"n_layer": 1}, "'transformer.h.1.* nanoGPT has none"),
        ({"block_size": 25}, r"'transformer.wpe.weight' is \(24, 16\); \(25, 16\) is valid"),
    ],
)
def test_settings_that_are_not_the_tensors(
    args: dict[str, Any], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = nano_weights(True)
    for key, value in args.items():
        monkeypatch.setitem(ARGS, key, value)
    with pytest.raises(UserError, match=match):
        opened(save_nano(tmp_path / "ckpt.pt", weights))


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    said = cli("convert", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert (said.code, "is no checkpoint of nanoGPT (ckpt.pt), litgpt" in said.err) == (2, True)
    source = save_nano(tmp_path / "ckpt.pt", nano_weights(True))
    said = cli("convert", source, "--out", tmp_path / "out", "--like", tmp_path)
    assert (said.code, "goes with a checkpoint of torch.distributed" in said.err) == (2, True)
    converted(source, tmp_path / "out")
    before = files(tmp_path / "out")
    again = cli("convert", source, "--out", tmp_path / "out")
    assert (again.code, "is there already" in again.err) == (2, True)
    assert files(tmp_path / "out") == before
