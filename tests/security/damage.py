"""Ways to damage a file, and what has to come of reading it: success or one clear sentence."""

import contextlib
import json
import re
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from anytrain.errors import UserError
from tiny import Said

SECONDS = 20  # for one case; most take milliseconds
ROOM = 2**29  # bytes that a case may allocate beyond what the process had

ODD: list[Any] = [
    None, True, False, -1, 0, 1, 3, 2**31, 2**40, 2**53, 2**60, 2**63, 10**400, -(2**70), 0.5, -0.5,
    1e-300, 1e99, 1e308, float("nan"), float("inf"), float("-inf"), "", "x", "1", "a/b", "..",
    "../../x", "/etc/hostname", "a\\b", "\0", "\ud800", "é" * 300, "9" * 5000, "deep", "wide",
    [], {}, [1, 2], ["x"], [None], [[]], {"x": 1}, {"": None}, {"x": {"y": []}},
]  # fmt: skip

_TEXT = {'"deep"': "[" * 3000 + "]" * 3000, '"wide"': "[" + "0," * 9999 + "0]"}
_TOML = ["-1", "0", "1e308", "nan", "inf", "true", '""', '"x"', "[]", "{}", "9" * 5000,
         "9223372036854775807", '"1e99-steps"', '"1e999999999999-tokens"', "1979-05-27", "[" * 3000,
         '"constant:peak=1e-2,warmup=1e90-steps"', '"\\u0000"', '"' + "(" * 3000 + '"', "2", "3",
         '"' + "a:b=(" * 500 + '"', "100000000", "4294967296", '"2-steps"', '"../x"']  # fmt: skip


def cases(count: int) -> settings:
    """So many cases, the same ones every time."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# --- what is changed -------------------------------------------------------------------------


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Flipped bits, a cut, a piece put elsewhere, or other bytes in its place."""
    kind = draw(st.sampled_from(["flip", "cut", "splice", "put", "empty", "zeros", "double"]))
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    other = draw(st.integers(0, max(len(content) - 1, 0)))
    low, high = sorted((place, other))
    if kind == "flip" and content:
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            changed[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
        return bytes(changed)
    if kind == "cut":
        return content[:place]
    if kind == "splice":
        return content[:low] + content[high:] + content[low:high]
    if kind == "put":
        new = draw(st.binary(min_size=1, max_size=16))
        return content[:place] + new + content[place + len(new) :]
    if kind == "zeros":
        return content[:low] + bytes(high - low) + content[high:]
    return content + content if kind == "double" else b""


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inner:
        yield (*at, key)
        if isinstance(item, dict | list):
            yield from _places(item, (*at, key))


def exchanged(value: Any, place: tuple[Any, ...], how: str, new: Any) -> Any:
    """`value` with what lies at a place exchanged, removed, renamed or repeated."""
    value = json.loads(json.dumps(value))
    here = value
    for key in place[:-1]:
        here = here[key]
    last = place[-1]
    if how == "remove":
        del here[last]
    elif how == "rename" and isinstance(here, dict):
        here[str(new)] = here.pop(last)
    elif how == "repeat" and isinstance(here, list):
        here.append(here[last])
    else:
        here[last] = new
    return value


@st.composite
def damaged_json(draw: st.DrawFn, content: bytes) -> bytes:
    """A value of another type, a huge one, none; sometimes damaged as text."""
    if draw(st.integers(0, 5)) == 0:
        return draw(damaged_bytes(content))
    value = json.loads(content)
    places = list(_places(value))
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(places))
        how = draw(st.sampled_from(["exchange"] * 5 + ["remove", "rename", "repeat"]))
        with contextlib.suppress(KeyError, IndexError, TypeError):
            value = exchanged(value, place, how, draw(st.sampled_from(ODD)))
    text = json.dumps(value)
    for word, long in _TEXT.items():
        text = text.replace(word, long)
    return text.encode()


@st.composite
def damaged_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """One record of JSONL damaged, the last lines among them."""
    lines = content.splitlines(keepends=True)
    number = draw(st.sampled_from([0, len(lines) // 2, len(lines) - 2, len(lines) - 1]))
    lines[number] = draw(damaged_json(lines[number])) + b"\n"
    return b"".join(lines)


@st.composite
def damaged_toml(draw: st.DrawFn, content: bytes) -> bytes:
    """Another value or none behind a key, a line moved or doubled; sometimes damaged as text."""
    kind = draw(st.sampled_from(["value"] * 5 + ["text", "drop", "double", "key"]))
    if kind == "text":
        return draw(damaged_bytes(content))
    lines = content.decode().split("\n")
    number = draw(st.sampled_from([i for i, line in enumerate(lines) if line.strip()]))
    if kind == "value":
        new = draw(st.sampled_from(_TOML))
        lines[number] = re.sub(r"(?<==).*", lambda _: " " + new, lines[number])
    elif kind == "key":
        lines[number] = "x" + lines[number]
    else:
        lines[number : number + 1] = [] if kind == "drop" else [lines[number]] * 2
    return "\n".join(lines).encode()


@st.composite
def damaged_header(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file whose head claims something else."""
    kind = draw(st.sampled_from(["length", "table", "table", "table", "bytes"]))
    if kind == "bytes":
        return draw(damaged_bytes(content))
    size = int.from_bytes(content[:8], "little")
    if kind == "length":
        claims = [0, 1, size - 1, size + 1, 2**31, 2**60, 2**64 - 1]
        return draw(st.sampled_from(claims)).to_bytes(8, "little") + content[8:]
    head = draw(damaged_json(content[8 : 8 + size]))
    return len(head).to_bytes(8, "little") + head + content[8 + size :]


# --- what has to come of it ------------------------------------------------------------------


@contextlib.contextmanager
def put(file: Path, content: bytes) -> Iterator[None]:
    """Inside, the file has other bytes."""
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


@contextlib.contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Inside, time and memory are limited: what goes beyond is an error that fails the test."""

    def late(*_: Any) -> None:
        raise AssertionError(f"not done in {seconds} seconds")

    status = Path("/proc/self/statm")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def clean(said: Said) -> Said:
    """The answer of a verb, which is success, or exit code 2 and one sentence."""
    assert said.code in (0, 2), said
    if said.code == 2:
        last = said.err.rstrip("\n").split("\n")[-1]
        assert last.startswith("anytrain: "), said.err
        assert "Traceback" not in said.err, said.err
        assert len(last) < 2100, last
    return said


def survives(read: Callable[[], Any], seconds: float = SECONDS) -> None:
    """Reading ends, in bounded time and memory, in success or a UserError."""
    with bounded(seconds):
        try:
            found = read()
        except UserError:
            return
    if isinstance(found, Said):
        clean(found)
