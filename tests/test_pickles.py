"""Pickles that run nothing: torch's are read, and whoever smuggles code in is refused by name."""

import collections
import contextlib
import io
import os
import pickle
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytrain.errors import UserError
from anytrain.pickles import Inert, sizes, unpickled

FILE = Path(".metadata")


class Calls:
    """A pickle of it calls something when it is opened."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_what_torch_needs() -> None:
    held = {
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "layout": torch.strided,
        "path": Path("/tmp/x"),
        "ordered": collections.OrderedDict(a=1),
    }
    found = unpickled(FILE, pickle.dumps(held))
    assert sizes(found["size"]) == (2, 3)
    assert found["dtype"] == "BF16"
    assert found["ordered"] == {"a": 1}
    assert type(found["layout"]) is type(found["path"]) is Inert  # records: nothing was called


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch pwned",), r"(posix|nt)\.system"),
        (eval, ("open('pwned', 'w')",), r"(builtins|__builtin__)\.eval"),
        (exec, ("open('pwned', 'w')",), r"(builtins|__builtin__)\.exec"),
        (getattr, (os, "system"), r"builtins\.getattr"),
        (subprocess.Popen, (["touch", "pwned"],), r"(subprocess|commands)\.Popen"),
        (open, ("pwned", "w"), r"_?io\.open"),
        (torch.load, ("pwned",), r"torch\.serialization\.load"),
        (torch.zeros, (10**12,), r".*"),
        (os.mkdir, ("pwned",), r"posix\.mkdir"),
    ],
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_refused_by_name(
    function: Any, arguments: Any, name: str, protocol: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if function is getattr:
        content = b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR."
    else:
        content = pickle.dumps({"weights": [1, Calls(function, *arguments)]}, protocol)
    with pytest.raises(UserError, match=rf"\.metadata: its pickle asks for ({name}), which no che"):
        unpickled(FILE, content)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'touch pwned'\ntR.",
        b"(S'touch pwned'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch pwned'\no.",  # OBJ
        b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touchq\x00\x85R.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch pwned\x85R.",
        # by way of a name that is known
        b"\x80\x04\x8c\x05torch\x8c\x0dSize.__init__\x93.",
        b"\x80\x04\x8c\x0bcollections\x8c\x20OrderedDict.fromkeys.__globals__\x93.",
        b"ctorch\nload\n.",
        b"ctorch.distributed.checkpoint.metadata\nos\n.",
        b"canytrain.pickles\nunpickled\n.",
    ],
)
def test_every_way_to_a_name(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="which no checkpoint needs; it was not opened further"):
        unpickled(FILE, content)
    assert not list(tmp_path.iterdir())


def test_known_names_cannot_be_turned_against_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State on records, calls of records, extensions and persistent ids: nothing happens."""
    monkeypatch.chdir(tmp_path)
    metadata = b"ctorch.distributed.checkpoint.metadata\nMetadata\n"
    for content in (
        metadata + b"(tR(S'__reduce__'\nS'x'\ndb.",
        metadata + b"(S'x'\ntR.",
        metadata + b"(tRS'text'\nb.",
    ):
        assert isinstance(unpickled(FILE, content), Inert)
    for content in (b"\x80\x02\x82\x01.", b"S'x'\nQ.", b"Pid\n.", b"ctorch\nfloat32\n(tR.",
                    b"ctorch\nfloat32\n(S'a'\nS'b'\ndb."):  # fmt: skip
        with pytest.raises(UserError, match=r"\.metadata is damaged"):
            unpickled(FILE, content)
    assert not list(tmp_path.iterdir())


def test_sizes_that_are_only_claimed() -> None:
    """A few bytes that would reserve gigabytes: a number for a memo's entry, a byte array."""
    claim = 2**31
    short, long = claim.to_bytes(4, "little"), claim.to_bytes(8, "little")
    tracemalloc.start()
    try:
        assert unpickled(FILE, b"\x80\x02]r" + short + b".") == []
        for content in (b"\x80\x05\x96" + long + b".", b"\x80\x04\x8e" + long + b"x.",
                        b"\x80\x04X" + short + b"x.", b"\x80\x04\x95" + long + b"x."):  # fmt: skip
            with pytest.raises(UserError, match=r"\.metadata is damaged"):
                unpickled(FILE, content)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@given(content=st.binary(max_size=60))
@settings(max_examples=500)
def test_garbage(content: bytes) -> None:
    """Whatever it is, one kind of error."""
    with contextlib.suppress(UserError):
        unpickled(FILE, content)


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
@settings(max_examples=500)
def test_a_changed_byte(place: int, byte: int) -> None:
    content = bytearray(pickle.dumps({"a": torch.Size([1]), "b": [torch.float32, Path("x")]}))
    content[place % len(content)] = byte
    with contextlib.suppress(UserError):
        unpickled(FILE, bytes(content))


def test_what_torch_saves() -> None:
    """Every type's data.pkl, parameters' strides and offsets among it."""
    import zipfile

    for dtype in (torch.float32, torch.bfloat16, torch.uint16, torch.bool, torch.int64):
        stream = io.BytesIO()
        torch.save(torch.zeros(4, 6, dtype=dtype)[1:, :3], stream)
        with zipfile.ZipFile(stream) as archive:
            (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
            found = unpickled(FILE, archive.read(name))
        assert (found.offset, found.shape, found.stride) == (6, (3, 3), (6, 1))
        assert found.storage.key == "0"


def test_sizes() -> None:
    assert (sizes(None), sizes([]), sizes((1, 2))) == ((), (), (1, 2))
    for wrong in ((1.0,), ("1",), (True,), ((1,),)):
        with pytest.raises(TypeError, match="a size"):
            sizes(wrong)
