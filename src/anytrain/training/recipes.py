"""Reading recipes: TOML and `key.path=value` settings to a checked `Recipe`."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from anytrain import schedules
from anytrain.errors import UserError, nearest
from anytrain.files import toml
from anytrain.grammar import parse_spec
from anytrain.training.checked import checked
from anytrain.training.config import Recipe


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("anytrain.recipes")
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name[-5:] == ".toml")


def read_table(source: str) -> dict[str, Any]:
    """The TOML of a shipped recipe or of a file."""
    path = Path(source)
    if source in shipped():
        found = (resources.files("anytrain.recipes") / f"{source}.toml").read_bytes()
    elif path.is_file():
        found = path.read_bytes()
    else:
        raise UserError(
            f"{source!r} is neither a file nor a shipped recipe{nearest(source, shipped())}"
        )
    try:
        return toml(found)
    except ValueError as error:
        raise UserError(f"{source} is not TOML: {error}") from error


def override(table: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The table with `key.path=value` applied in order; values are TOML, or bare text.

    `schedule.peak=1e-3` reaches into a schedule or rule that is written as text.
    """
    changed = _copy(table)
    for setting in settings:
        path, value = _setting(setting)
        here = changed
        for part in path[:-1]:
            inner = here.get(part)
            if isinstance(inner, str) and path[0] in ("schedule", "averages"):
                inner = parse_spec(inner)
            here[part] = inner if isinstance(inner, dict) else {}
            here = here[part]
        here[path[-1]] = value
    _choose_data(changed, [tuple(_setting(setting)[0]) for setting in settings])
    for key, value in changed.items():
        if key == "schedule" and isinstance(value, dict):
            changed[key] = _spec_text(value)
        if key == "averages" and isinstance(value, dict):
            changed[key] = {
                n: _spec_text(v) if isinstance(v, dict) else v for n, v in value.items()
            }
    return changed


def settings_of(values: Mapping[str, Any]) -> list[str]:
    """`{"train.compile": True}` -> `train.compile=true`: what `override` reads back the same."""
    return [f"{key}={_toml(value)}" for key, value in values.items()]


def _toml(value: Any) -> str:
    """A value on one line, as TOML writes it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_toml(key)} = {_toml(v)}' for key, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _choose_data(table: dict[str, Any], paths: Sequence[tuple[str, ...]]) -> None:
    """Other data than the recipe's replace them whole: how to prepare its own does not apply."""
    data = table.get("data")
    if not isinstance(data, dict):
        return
    named = {path[1] for path in paths if path[0] == "data" and len(path) > 1}
    if named & {"path", "mixture"} and "prepare" not in named:
        data.pop("prepare", None)
    if "mixture" in named and "path" not in named:
        data.pop("path", None)
    if "path" in named and "mixture" not in named:
        data.pop("mixture", None)


def _setting(text: str) -> tuple[list[str], Any]:
    """`a.b=value` -> (["a", "b"], value); TOML's own reader decides both sides."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{text!r} is not a setting; key.path=value is valid")
    for candidate in (value, f'"""{value}"""'):
        try:
            parsed = tomllib.loads(f"{key} = {candidate}")
        except tomllib.TOMLDecodeError:
            continue
        path = []
        while isinstance(parsed, dict) and len(parsed) == 1:
            (part, parsed), *_ = parsed.items()
            path.append(part)
            if len(path) == len(_key_parts(key)):
                return path, parsed
    raise UserError(f"{text!r} is not a setting; key.path=value is valid")


def _key_parts(key: str) -> list[str]:
    """The parts of a dotted TOML key, quotes respected."""
    probe: Any = tomllib.loads(f"{key} = 0")
    parts = []
    while isinstance(probe, dict):
        (part, probe), *_ = probe.items()
        parts.append(part)
    return parts


def _spec_text(table: Mapping[str, Any]) -> str:
    """{"kind": k, "a": 1} -> "k:a=1", nested tables in parentheses."""
    pairs = (
        f"{key}=({_spec_text(value)})" if isinstance(value, Mapping) else f"{key}={value}"
        for key, value in table.items()
        if key != "kind"
    )
    return f"{table.get('kind', '')}:{','.join(pairs)}".removesuffix(":")


def _copy(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in table.items()}


def recipe(table: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """A checked recipe; the first thing that is wrong is a UserError naming its key."""
    table = _copy(table)
    train, model = table.get("train"), table.get("model")
    if isinstance(train, dict) and isinstance(model, dict) and "context" in train:
        model.setdefault("context", train["context"])
    made = checked(Recipe, table, source)
    try:
        made.built_schedule()
        made.built_rules()
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    if made.train.context > made.model.context:
        raise UserError(
            f"{source}: train.context = {made.train.context} exceeds "
            f"model.context = {made.model.context}"
        )
    if made.optimizer.kind == "muon" and schedules.peak(made.built_schedule()) is None:
        raise UserError(
            f"{source}: {made.schedule} has no `peak`, which optimizer.adamw_peak is relative to"
        )
    return made


def load(source: str, settings: Sequence[str] = ()) -> Recipe:
    """A shipped recipe or a file, with settings changed."""
    return recipe(override(read_table(source), settings), source)
