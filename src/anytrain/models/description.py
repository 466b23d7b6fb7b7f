"""What stands beside the weights in a Hugging Face directory: config, tokenizer, card. No torch."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from anytrain.data import tokenizer as tokenizers
from anytrain.errors import UserError
from anytrain.files import read_json
from anytrain.models.shape import DecoderShape
from anytrain.schema import COUNT, NUMBER, TABLE, check

Json = dict[str, Any]

# what a release of our own shape carries, for transformers to run
_CODE = ("modeling_anytrain.py", "decoder.py", "cross_entropy.py", "shape.py")

# of a tokenizer, beside tokenizer.json
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")

# Llama's config.json against DecoderShape
_LLAMA = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "vocab_size": "vocab",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "mlp",
    "head_dim": "head_dim",
    "max_position_embeddings": "context",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied",
}

# what LlamaForCausalLM can do and our decoder cannot, with the one value that is ours
_ONLY: Json = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}


# --- writing --------------------------------------------------------------------------------------


def write_description(
    draft: Path,
    shape: DecoderShape,
    *,
    tokenizer: Path | None = None,  # tokenizer.json, or a directory that holds it
    eot: int | None = None,  # the end-of-text token
    dtype: str = "float32",
    card: str | None = None,  # README.md
    generation: Mapping[str, Any] | None = None,  # more keys of generation_config.json
) -> None:
    """Everything `from_pretrained` needs but the weights, into an existing directory."""
    _write_json(draft / "config.json", config_of(shape, eot=eot, dtype=dtype))
    end = {"bos_token_id": None, "eos_token_id": eot, "pad_token_id": eot}
    cache = {} if shape.is_llama else {"use_cache": False}
    _write_json(draft / "generation_config.json", {**end, **cache, **(generation or {})})
    if not shape.is_llama:
        install_code(draft)
    if tokenizer is not None:
        _write_tokenizer(draft, tokenizer, shape, eot)
    if card is not None:
        (draft / "README.md").write_text(card, encoding="utf-8")


def install_code(draft: Path) -> None:
    """What transformers runs for a model of our own shape."""
    for name in _CODE:
        shutil.copyfile(Path(__file__).parent / name, draft / name)


def config_of(shape: DecoderShape, *, eot: int | None, dtype: str) -> Json:
    """config.json: Llama's where Llama computes the same, else the shape and where its code is."""
    common = {
        "dtype": dtype,
        "bos_token_id": None,  # Llama's defaults are 1 and 2, so absent would not be none
        "eos_token_id": eot,
        "pad_token_id": None,
    }
    shape = shape.resolved()
    if not shape.is_llama:
        code = "modeling_anytrain"
        return {
            "architectures": ["AnytrainForCausalLM"],
            "model_type": "anytrain",
            "auto_map": {
                "AutoConfig": f"{code}.AnytrainConfig",
                "AutoModelForCausalLM": f"{code}.AnytrainForCausalLM",
            },
            **common,
            "use_cache": False,
            "tie_word_embeddings": shape.tied,
            **asdict(shape),
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **common,
        **{key: getattr(shape, name) for key, name in _LLAMA.items()},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": shape.rope_theta,  # transformers 5 reads this older form too
        "initializer_range": 0.02,
    }


def install_tokenizer(draft: Path, source: Path, vocab: int, context: int) -> int | None:
    """A tokenizer's files of any model's directory; returns the end-of-text token that it names.

    What stands beside tokenizer.json comes along, such as a chat template; where there is no
    tokenizer_config.json, the file itself has to have a usual end of text, else there is none.
    """
    file = source / "tokenizer.json" if source.is_dir() else source
    tokenizer = tokenizers.read(file)
    if (size := tokenizer.get_vocab_size()) > vocab:
        raise UserError(f"{file} has {size} tokens, the model's vocab is {vocab}")
    try:
        end = tokenizers.end_of_text(tokenizer, None, file)
    except UserError:
        end = None
    for name in _BESIDE:
        if (file.parent / name).is_file():
            shutil.copyfile(file.parent / name, draft / name)
    shutil.copyfile(file, draft / "tokenizer.json")
    if not (draft / "tokenizer_config.json").exists():
        special = {} if end is None else {"eos_token": end, "pad_token": end}
        _write_json(draft / "tokenizer_config.json", _tokenizer_config(context, special))
    return None if end is None else tokenizer.token_to_id(end)


def _tokenizer_config(context: int, special: Json) -> Json:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **special,
    }


def _write_tokenizer(draft: Path, source: Path, shape: DecoderShape, eot: int | None) -> None:
    file = source / "tokenizer.json" if source.is_dir() else source
    tokenizer = tokenizers.read(file)
    size = tokenizer.get_vocab_size()
    if size > shape.tokens:
        raise UserError(f"{file} has {size} tokens, the model's vocab is {shape.tokens}")
    end = None if eot is None else tokenizer.id_to_token(eot)
    if eot is not None and end is None:
        raise UserError(f"{file} has no token {eot}, the end-of-text token of the corpus")
    shutil.copyfile(file, draft / "tokenizer.json")
    special = {} if end is None else {"eos_token": end, "pad_token": end}
    _write_json(draft / "special_tokens_map.json", special)
    _write_json(draft / "tokenizer_config.json", _tokenizer_config(shape.context, special))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# --- reading --------------------------------------------------------------------------------------


def end_of_text(path: Path) -> int | None:
    """The token after which the directory's model stops, the first where it names several."""
    eot: Any = read_config(path).get("eos_token_id")
    first: Any = eot[0] if isinstance(eot, list) and eot else eot
    if first is not None:
        check(path / "config.json", first, COUNT, "eos_token_id")
    return None if first is None else int(first)


def read_config(path: Path) -> Json:
    """config.json of a model directory."""
    file = path / "config.json"
    if not file.exists():
        raise UserError(f"{path} is not a model directory: it has no config.json")
    return read_json(file)


def shape_of(config: Json, file: Path) -> DecoderShape:
    """The shape that a config.json describes; `file` names it in errors."""
    kind = config.get("model_type")
    if kind == "anytrain":
        names = {f.name for f in fields(DecoderShape)}
        return made_of({k: v for k, v in config.items() if k in names}, file)
    if kind == "llama":
        return made_of(_llama_values(config, file), file)
    raise UserError(f"{file}: model_type = {kind!r}; valid are 'llama' and 'anytrain'")


def made_of(values: Mapping[str, Any], where: Path) -> DecoderShape:
    """The shape of a model that exists, which has a vocabulary; UserError where there is none."""
    try:
        shape = DecoderShape(**values)
        _ = shape.tokens
    except (TypeError, ValueError) as error:
        why = str(error).removeprefix("DecoderShape.__init__() ")
        raise UserError(f"{where}: {why}") from error
    return shape


def _llama_values(config: Json, file: Path) -> Json:
    for key, valid in _ONLY.items():
        if config.get(key, valid) != valid:
            raise UserError(f"{file}: {key} = {config[key]!r}; {valid!r} is valid")
    for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"):
        if key not in config:
            raise UserError(f"{file} has no {key}")
    # absent keys have Llama's defaults, which are not all ours
    defaults = {"intermediate_size": 11008, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
    values: Json = {name: {**defaults, **config}.get(key) for key, name in _LLAMA.items()}
    return values | {"tied": bool(values["tied"]), "rope_theta": _theta(config, file)}


def _theta(config: Json, file: Path) -> float:
    """rope_theta in either form: a key of its own, or inside transformers 5's rope_parameters."""
    theta = config.get("rope_theta", 10000.0)
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key) or {}
        check(file, rope, TABLE, key)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise UserError(f"{file}: {key} = {rope!r}; rope_type 'default' is valid")
        theta = rope.get("rope_theta", theta)
    check(file, theta, NUMBER, "rope_theta")
    return float(theta)
