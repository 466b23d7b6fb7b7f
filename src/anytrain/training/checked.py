"""Plain data to a checked dataclass; the first thing that is wrong as one sentence."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from anytrain.errors import UserError, nearest

T = TypeVar("T")


def checked(cls: type[T], table: Mapping[str, Any], source: str) -> T:
    """An object of `cls`; a UserError names the source and the key where the table has no form.

    Strict about types: TOML's own are JSON's, so an int is an int and a text is a text.
    """
    try:
        return TypeAdapter(cls).validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error, cls)}") from error


def _sentence(error: ValidationError, cls: Any) -> str:
    """The first of pydantic's complaints as one sentence."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key {path}{nearest(str(first['loc'][-1]), _known(cls, first['loc'][:-1]))}"
    if first["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path} is missing"
    if first["type"] == "value_error":
        text = str(first["ctx"]["error"])
        return text if not path or text.startswith(path.split(".")[0]) else f"{path}: {text}"
    return f"{path} = {first['input']!r}: {first['msg'].replace('Input', 'it')}"


def _known(cls: Any, path: tuple[int | str, ...]) -> list[str]:
    """Keys that are valid in a table."""
    for part in path:
        here = {f.name: f.type for f in dataclasses.fields(cls)}.get(str(part))  # None: a free key
        inner = getattr(here, "__args__", (here,))
        cls = next((t for t in inner if dataclasses.is_dataclass(t)), cls)
    return [f.name for f in dataclasses.fields(cls)]
