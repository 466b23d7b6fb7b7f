"""What stands beside merged weights: index, config, tokenizer, card, and how they were made."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anytrain.files import inside, read_json
from anytrain.headers import INDEX, blobs, read_header
from anytrain.merging.inputs import Input
from anytrain.models.description import made_of, write_description
from anytrain.rundir import RunDir
from anytrain.schema import TABLE

RECORD = "merge.json"

_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
# Weights in any form are not carried over, nor what belongs to a training run.
_LEFT = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack",
         ".onnx", ".distcp")  # fmt: skip


def describe(
    inputs: Sequence[Input],
    weights: Sequence[float],
    draft: Path,
    files: Mapping[Path, Sequence[str]],
    dtype: str | None,
    record: Mapping[str, Any],
) -> None:
    """Everything but the tensors, into the directory of the tensors."""
    last = inputs[-1]
    if len(files) > 1 or (last.directory is not None and (last.directory / INDEX).is_file()):
        _write_index(last, draft, files)
    table = [
        {"input": found.source.name, "weight": weight, "step": found.t}
        for found, weight in zip(inputs, weights, strict=True)
    ]
    if last.run is not None:
        _describe_run(last.run, draft, files, _card(record, table))
    elif last.directory is not None:
        _carry_over(last.directory, draft, dtype)
        (draft / "README.md").write_text(_card(record, table), encoding="utf-8")
    _write_json(draft / RECORD, {**record, "inputs": table})


def _describe_run(run: RunDir, draft: Path, files: Iterable[Path], card: str) -> None:
    tokenizer = run.path / "tokenizer.json"
    kinds = {entry.dtype for file in files for entry in read_header(file).entries.values()}
    write_description(
        draft,
        made_of(run.recipe["model"], run.path / "recipe.toml"),
        tokenizer=tokenizer if tokenizer.is_file() else None,
        eot=run.identity.get("eot"),
        dtype=_NAMES[kinds.pop()] if len(kinds) == 1 else "float32",
        card=card,
    )


def _write_index(last: Input, draft: Path, files: Mapping[Path, Sequence[str]]) -> None:
    headers = [read_header(file) for file in files]
    total = sum(entry.bytes for head in headers for entry in head.entries.values())
    before = (last.directory or draft) / INDEX
    known = read_json(before, {"metadata?": TABLE}) if before.is_file() else {}
    where = {key: file.name for file, keys in files.items() for key in keys}
    metadata = {**(known.get("metadata") or {}), "total_size": total}
    _write_json(draft / INDEX, {"metadata": metadata, "weight_map": dict(sorted(where.items()))})


def _carry_over(directory: Path, draft: Path, dtype: str | None) -> None:
    """Config, tokenizer and code of the last input, not its weights; its card is written over.

    A link that leads out of the directory is an error: it could bring a private file along.
    """
    for path in sorted(directory.iterdir()):
        if path.is_file() and not path.name.endswith(_LEFT):
            shutil.copyfile(inside(directory, path.name, blobs(directory)), draft / path.name)
    config = draft / "config.json"
    if dtype is not None and config.is_file():
        table = read_json(config)
        _write_json(config, table | {k: dtype for k in ("dtype", "torch_dtype") if k in table})


def _card(record: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        "---", "library_name: transformers", "tags: [anytrain, merge]", "---",
        "# A merge", "",
        f"Merged by anytrain, rule `{record['rule']}`.", "",
        "| input | step | weight |", "|---|---|---|",
    ]  # fmt: skip
    for row in table:
        step = "" if row["step"] is None else f"{row['step']:g}"
        rows.append(f"| `{row['input']}` | {step} | {row['weight']:.6g} |")
    return "\n".join(rows) + "\n"


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
