"""What plain data read from a file have to be: keys, types and ranges, said beside each reader.

    check(path, record, {"step": COUNT, "lr": NUMBER, "by?": TEXT, "files": Each({"bytes": COUNT})})

A key that ends in `?` may be absent or null; keys that are not named may hold anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, NamedTuple

from anytrain.errors import UserError

_EXACT = 2**53  # whole numbers below it are exact as floats too, and nothing here counts further


class Kind(NamedTuple):
    """One value: whether it is right, and what would be."""

    right: Callable[[Any], bool]
    valid: str


@dataclass(frozen=True)
class Each:
    """A table of any keys, or keys of one kind, whose values all have one form."""

    form: Any
    key: Kind | None = None


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e100  # not NaN either


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _EXACT


def _name(value: Any) -> bool:
    plain = isinstance(value, str) and value not in ("", ".", "..")
    return plain and not set(value) & set("/\\\0")


COUNT = Kind(_count, "a whole number of 0 or more")
SIZE = Kind(lambda value: _count(value) and value > 0, "a whole number of 1 or more")
NUMBER = Kind(_number, "a finite number")
LOSS = Kind(lambda v: type(v) is float or _count(v), "a number")  # a diverged run's is not finite
TEXT = Kind(lambda value: isinstance(value, str), "text")
NAME = Kind(_name, "the name of a file beside it")
LIST = Kind(lambda value: isinstance(value, list), "a list")
TABLE = Kind(lambda value: isinstance(value, dict), "a table")
PAIR = Kind(lambda value: isinstance(value, list) and len(value) == 2, "[old, new]")


def one_of(*values: str) -> Kind:
    """One of a few texts."""
    return Kind(lambda value: isinstance(value, str) and value in values, ", ".join(values))


def check(where: Path | str, value: Any, form: Any, at: str = "") -> None:
    """Raise a UserError naming the first place at which `value` has not the form."""
    if isinstance(form, Kind):
        if not form.right(value):
            raise _wrong(where, at, value, form.valid)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise _wrong(where, at, value, "a list")
        for number, item in enumerate(value):
            check(where, item, form[0], f"{at}.{number}")
    elif not isinstance(value, dict):
        raise _wrong(where, at, value, "a table")
    elif isinstance(form, Each):
        for key, item in value.items():
            if form.key is not None and not form.key.right(key):
                raise UserError(f"{where} names {key!r} in {at}; {form.key.valid} is valid")
            check(where, item, form.form, f"{at}.{key}")
    else:
        _check_keys(where, value, form, at)


def _check_keys(where: Path | str, value: Mapping[str, Any], form: Any, at: str) -> None:
    for key, inner in form.items():
        name = key.removesuffix("?")
        path = f"{at}.{name}" if at else name
        if value.get(name) is not None:
            check(where, value[name], inner, path)
        elif name == key:
            raise UserError(f"{where} is damaged: {path} is missing")


def _wrong(where: Path | str, at: str, value: Any, valid: str) -> UserError:
    what = f"{at} is {shortened(value)}" if at else f"it holds {shortened(value)}"
    return UserError(f"{where} is damaged: {what}; {valid} is valid")
