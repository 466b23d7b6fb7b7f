"""One grammar for every verb: durations, moments, weights, and rules and schedules as text.

2000-steps   20M-tokens   10min        a duration, or a moment counted from the start of the run
12500                                  a bare number is a step where a step is meant
runs/a@20B-tokens:ema25                weights: RUN[@WHEN][:WEIGHTS]
runs/a@10B..20B-tokens:raw             weights of every checkpoint between two moments
inverse_sqrt:peak=3e-3,warmup=5000-steps,offset=51200-steps
cooldown:trunk=(constant:peak=3e-3,warmup=500-steps),start=9000-steps,horizon=10000-steps
"""

import dataclasses
import hashlib
import importlib
import inspect
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from anytrain.errors import UserError, nearest

Steps = Annotated[float, "steps"]  # in text a quantity with its unit, in Python a number of steps

Unit = Literal["steps", "tokens", "seconds"]

_SCALE = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "d": 86400}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)([kMBT]?)[-\s]?([A-Za-z]+)")
_NESTED = 64  # parentheses of a spec
_EXAMPLES = "2000-steps, 20M-tokens or 10min"


@dataclass(frozen=True)
class Quantity:
    """An amount of training: steps, tokens or seconds. `str` gives the text it parses from."""

    amount: float
    unit: Unit

    def __str__(self) -> str:
        if self.unit == "seconds":
            for suffix, size in (("d", 86400), ("h", 3600), ("min", 60)):
                if self.amount >= size and self.amount % size == 0:
                    return f"{self.amount / size:.0f}{suffix}"
            return f"{self.amount:.12g}s"
        return f"{short_count(self.amount)}-{self.unit}"

    def steps(self, tokens_per_step: float | None) -> float:
        """The quantity in optimizer steps at the reference batch; tokens need its size."""
        if self.unit == "steps":
            return self.amount
        if self.unit == "seconds":
            raise UserError(f"{self} is a time; here steps or tokens are valid ({_EXAMPLES})")
        if tokens_per_step is None:
            raise UserError(f"{self} needs a batch size to become steps; say it in steps")
        return self.amount / tokens_per_step


def short_count(amount: float) -> str:
    """The shortest exact decimal with k, M, B or T: 20000000 -> 20M."""
    for suffix in ("T", "B", "M", "k"):
        scaled = amount / _SCALE[suffix]
        if scaled >= 1 and float(f"{scaled:.6g}") * _SCALE[suffix] == amount:
            return f"{scaled:.6g}{suffix}"
    return str(int(amount)) if amount == int(amount) else repr(amount)


def duration(text: str, *, what: str = "duration") -> Quantity:
    """`2000-steps`, `20M-tokens`, `10min`; a bare number has no unit and is refused."""
    match = _QUANTITY.fullmatch(text.strip())
    bare = re.fullmatch(r"[\d.]+(e[+-]?\d+)?[kMBT]?", text.strip())
    if match is None or bare:
        why = "has no unit" if bare else "is not a duration"
        raise UserError(f"{what} {text!r} {why}; valid are for example {_EXAMPLES}")
    number, scale, word = match.groups()
    if len(number) > 30 or not float(number) < 1e100:
        raise UserError(f"{what} {text[:40]!r} is beyond any training")
    exact = Decimal(number) * _SCALE[scale]  # 3.2768B is a whole number, its float product is not
    amount = float(exact)
    unit = word.lower().removesuffix("s") if len(word) > 1 else word
    if unit in ("step", "token"):
        if unit == "token" and exact % 1:
            raise UserError(f"{what} {text!r} is not a whole number of tokens")
        return Quantity(amount, "steps" if unit == "step" else "tokens")
    if unit in _SECONDS and not scale:
        return Quantity(amount * _SECONDS[unit], "seconds")
    raise UserError(f"{what} {text!r} has an unknown unit {word!r}; valid are {_EXAMPLES}")


def moment(text: str | int, *, what: str = "moment") -> Quantity:
    """A point of a run: a duration from its start; a bare number is a step."""
    text = str(text).strip()
    if re.fullmatch(r"\d{1,30}", text):
        return Quantity(float(text), "steps")
    return duration(text, what=what)


@dataclass(frozen=True)
class WeightsName:
    """`RUN[@WHEN][:WEIGHTS]`: which run, which of its checkpoints, which weights in it."""

    run: str
    when: Quantity | Literal["latest"] = "latest"
    weights: str = "best"

    def __str__(self) -> str:
        when = self.when if isinstance(self.when, str) else _moment_text(self.when)
        return f"{self.run}@{when}:{self.weights}"


def _moment_text(when: Quantity) -> str:
    return f"{when.amount:.0f}" if when.unit == "steps" else str(when)


def weights_name(text: str) -> WeightsName:
    """Parse `RUN[@WHEN][:WEIGHTS]`; a path that exists as written is taken whole."""
    if text and Path(text).exists():
        return WeightsName(text)
    match = re.fullmatch(r"(.+?)(?:@([^@:/]*))?(?::([^@:/]*))?", text)
    if match is None or "" in match.groups():
        raise UserError(f"{text!r} does not name weights; valid is RUN[@WHEN][:WEIGHTS]")
    run, when, weights = match.groups()
    if when in (None, "latest"):
        return WeightsName(run, weights=weights or "best")
    return WeightsName(run, moment(when, what=f"the moment in {text!r}"), weights or "best")


@dataclass(frozen=True)
class WeightsSpan:
    """`RUN@FROM..TO[:WEIGHTS]`: the checkpoints of a run between two moments, both included."""

    run: str
    start: Quantity
    end: Quantity
    weights: str | None = None


def weights_span(text: str) -> WeightsSpan | None:
    """Parse `RUN@10B..20B-tokens[:WEIGHTS]`; None where the text has no such form.

    A unit at the end is that of both: 1000..2000 are steps, 10B..20B-tokens tokens.
    """
    match = re.fullmatch(r"(.+?)@([^@:/]+?)\.\.([^@:/]+)(?::([^@:/]+))?", text)
    if match is None or Path(text).exists():
        return None
    run, first, last, weights = match.groups()
    what = f"the moment in {text!r}"
    end = moment(last, what=what)
    bare = re.fullmatch(r"[\d.]+(e[+-]?\d+)?[kMBT]?", first)
    start = moment(f"{first}-{end.unit}" if bare else first, what=what)
    if start.unit != end.unit or start.amount >= end.amount:
        raise UserError(f"{text!r}: from {start} to {end}; an earlier and a later moment are valid")
    return WeightsSpan(run, start, end, weights)


# --- rules and schedules as text -------------------------------------------------------------

T = TypeVar("T")
Spec = str | Mapping[str, Any]

_USER_MODULES: dict[str, ModuleType] = {}  # filled by `--import` alone, never from a recipe


def import_user_module(name: str) -> str:
    """Import a module so that specs may say `module.Class:…`; returns the sha256 of its source."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"--import {name}: {error}") from error
    finally:
        sys.path.pop(0)
    _USER_MODULES[name] = module
    source = Path(inspect.getsourcefile(module) or "")
    return hashlib.sha256(source.read_bytes()).hexdigest()


def parse_spec(text: str) -> dict[str, Any]:
    """`kind:key=value,key=(kind:…)` -> {"kind": kind, key: text, key: {…}}."""
    if text.count("(") > _NESTED:
        raise UserError(f"{text[:40]!r}… has more than {_NESTED} parentheses")
    kind, _, rest = text.strip().partition(":")
    table: dict[str, Any] = {"kind": kind}
    for part in _split(rest, text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UserError(f"{text!r}: {part!r} is not key=value")
        value = value.strip()
        nested = value.startswith("(") and value.endswith(")")
        table[key.strip()] = parse_spec(value[1:-1]) if nested else value
    return table


def _split(rest: str, text: str) -> list[str]:
    """Split at commas outside parentheses."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append(rest[start:i])
            start = i + 1
    if depth != 0:
        raise UserError(f"{text!r}: the parentheses do not match")
    parts.append(rest[start:])
    return [part for part in parts if part.strip()]


def build(spec: Spec, kinds: Mapping[str, type[T]], tokens_per_step: float | None = None) -> T:
    """The object a spec describes. Durations in tokens resolve through `tokens_per_step`."""
    table = parse_spec(spec) if isinstance(spec, str) else dict(spec)
    kind = str(table.pop("kind", ""))
    cls = _find(kind, kinds)
    hints = get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise UserError(f"{kind} has no parameter {key!r}{nearest(key, fields)}")
        values[key] = _value(f"{kind}:{key}", value, hints[key], kinds, tokens_per_step)
    missing = [
        f.name
        for f in fields.values()
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{kind} needs {', '.join(missing)}")
    try:
        return cls(**values)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def _find(kind: str, kinds: Mapping[str, type[T]]) -> type[T]:
    if kind in kinds:
        return kinds[kind]
    module, _, name = kind.rpartition(".")
    if module in _USER_MODULES:
        cls = getattr(_USER_MODULES[module], name, None)
        if isinstance(cls, type) and dataclasses.is_dataclass(cls):
            return cast("type[T]", cls)
        raise UserError(f"{kind!r}: {module} has no dataclass {name!r}")
    if module:
        raise UserError(f"{kind!r} is not ours; for a class of your own add --import {module}")
    raise UserError(f"unknown kind {kind!r}{nearest(kind, kinds)}")


def _value(
    name: str, value: Any, hint: Any, kinds: Mapping[str, Any], tokens_per_step: float | None
) -> Any:
    """One parameter, from text or TOML, to the type its dataclass asks for."""
    if isinstance(value, Mapping):
        return build(value, kinds, tokens_per_step)
    if type(None) in get_args(hint):  # float | None: what a text gives is the float
        hint = next(arm for arm in get_args(hint) if arm is not type(None))
    if hint == Steps:
        return duration(str(value), what=name).steps(tokens_per_step)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UserError(f"{name} = {value!r}; valid are {', '.join(get_args(hint))}")
        return value
    if hint in (int, float):
        try:
            number = hint(value)
        except ValueError as error:
            raise UserError(f"{name} = {value!r} is not a number ({hint.__name__})") from error
        if not math.isfinite(number):
            raise UserError(f"{name} = {value!r} is not finite")
        return number
    if isinstance(value, str) and hint is not str:
        return build(value, kinds, tokens_per_step)
    return value


def describe(value: Any, kinds: Mapping[str, Any]) -> str:
    """The text that `build` turns back into an equal object; parameters at default are left out."""
    cls = type(value)
    if not dataclasses.is_dataclass(cls):
        raise UserError(f"{value!r} is not a dataclass, so it has no text to be saved as")
    names = {c: kind for kind, c in kinds.items()}
    kind = names.get(cls, f"{cls.__module__}.{cls.__name__}")
    hints = get_type_hints(cls, include_extras=True)
    parts = []
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if not field.init or item == field.default:
            continue
        if dataclasses.is_dataclass(item):
            text = f"({describe(item, kinds)})"
        elif Steps in (hints[field.name], *get_args(hints[field.name])):
            text = f"{_number(item)}-steps"
        else:
            text = _number(item) if isinstance(item, float) else str(item)
        parts.append(f"{field.name}={text}")
    return kind + (":" + ",".join(parts) if parts else "")


def _number(value: float) -> str:
    """The shortest text that parses to the same float."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
