"""Heads of safetensors files: read as the library reads them, damage named, plans it can load."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from anytrain.errors import UserError
from anytrain.headers import (
    INDEX,
    SINGLE,
    of_checkpoint,
    of_directory,
    of_files,
    plan_file,
    read_header,
    weight_files,
)
from anytrain.layout import Entry
from anytrain.rundir import Checkpoint
from tiny import as_bytes

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor([1.5, -0.0, 3.0], dtype=torch.bfloat16),
    "c": torch.tensor(7, dtype=torch.int64),
    "d": torch.tensor([True, False]),
    "e": torch.zeros(0, 4, dtype=torch.float16),
    "f": torch.tensor([2.5], dtype=torch.float64),
}


def head(table: Any, data: bytes = b"") -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


def row(begin: int, end: int, dtype: str = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_what_the_library_wrote(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file(TENSORS, file, {"format": "pt", "note": "ü"})
    found = read_header(file)
    assert found.metadata == {"format": "pt", "note": "ü"}
    assert found.entries.keys() == TENSORS.keys()
    content = file.read_bytes()
    kinds = {"a": "F32", "b": "BF16", "c": "I64", "d": "BOOL", "e": "F16", "f": "F64"}
    for name, entry in found.entries.items():
        assert (entry.dtype, entry.shape) == (kinds[name], tuple(TENSORS[name].shape))
        (box,) = entry.boxes
        assert as_bytes(TENSORS[name])[2] == content[box.offset : box.offset + entry.bytes]
        assert entry.files == {file}


@given(
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    shapes=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(
            st.sampled_from(["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL"]),
            st.lists(st.integers(0, 4), max_size=3).map(tuple),
        ),
        max_size=6,
    ),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_library_reads_what_is_planned(
    metadata: dict[str, str], shapes: dict[str, tuple[str, tuple[int, ...]]], tmp_path: Path
) -> None:
    file = tmp_path / "planned.safetensors"
    planned = {name: Entry(dtype, shape, ()) for name, (dtype, shape) in shapes.items()}
    text, entries = plan_file(file, planned, metadata)
    file.write_bytes(text + bytes(sum(entry.bytes for entry in entries.values())))
    assert len(text) % 8 == 0
    assert read_header(file) == (entries, metadata)
    assert list(entries) == list(shapes)
    with safe_open(file, "pt") as opened:
        assert (opened.metadata() or {}) == metadata
        assert {
            name: (opened.get_slice(name).get_dtype(), tuple(opened.get_slice(name).get_shape()))
            for name in opened.keys()  # noqa: SIM118
        } == shapes


DAMAGED = {
    "empty": b"",
    "short": b"\x03\0\0",
    "no header": struct.pack("<Q", 100),
    "endless header": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": head(b"nothing!"),
    "no text": head(b"\xff\xfe\xfa"),
    "nested": head(b"[" * 200_000),
    "a list": head([1, 2]),
    "a number": head(3),
    "rows that are none": head({"a": 5}),
    "no shape": head({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "a shape of text": head({"a": row(0, 4, shape="1")}, bytes(4)),
    "a negative shape": head({"a": row(0, 4, shape=[-1, -1])}, bytes(4)),
    "a fraction": head({"a": row(0, 4, shape=[1.0])}, bytes(4)),
    "three offsets": head({"a": row(0, 4) | {"data_offsets": [0, 4, 8]}}, bytes(4)),
    "backwards": head({"a": row(4, 0)}, bytes(4)),
    "before the data": head({"a": row(-4, 0)}),
    "the wrong size": head({"a": row(0, 8)}, bytes(8)),
    "a gap": head({"a": row(0, 4), "b": row(8, 12)}, bytes(12)),
    "an overlap": head({"a": row(0, 4), "b": row(0, 4)}, bytes(4)),
    "an overlap and a gap": head({"a": row(0, 4), "b": row(0, 4)}, bytes(8)),
    "too long": head({"a": row(0, 4)}, bytes(5)),
    "metadata of numbers": head({"__metadata__": {"a": 1}}),
    "metadata of a list": head({"__metadata__": []}),
    "named twice": head(b'{"a": %b, "a": %b}' % ((json.dumps(row(0, 4)).encode(),) * 2), bytes(8)),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_is_named(how: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(DAMAGED[how])
    with pytest.raises(UserError, match=r"x\.safetensors is (damaged|truncated)") as caught:
        read_header(file)
    assert "\n" not in str(caught.value)


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", 10**10))
    os.truncate(file, 10**10 + 8)  # takes no room
    with pytest.raises(UserError, match="its header should have 10000000000 bytes"):
        read_header(file)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file(TENSORS, file)
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"x\.safetensors is (damaged|truncated)"):
            read_header(file)
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"truncated or damaged: it has {len(content) - 1} bytes, "
                       f"its header says {len(content)}"):  # fmt: skip
        read_header(file)


@given(place=st.integers(0, 400), byte=st.integers(0, 255))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_changed_byte(place: int, byte: int, tmp_path: Path) -> None:
    """It is refused in a sentence, or read as the library reads it."""
    file = tmp_path / "x.safetensors"
    save_file(TENSORS, file, {"format": "pt"})
    content = bytearray(file.read_bytes())
    content[place % len(content)] = byte
    file.write_bytes(content)
    try:
        found = read_header(file)
    except UserError:
        return
    try:
        opened = safe_open(file, "pt")
    except SafetensorError:  # it asks for more, a known key in each row for example
        return
    with opened:
        for name, entry in found.entries.items():
            assert tuple(opened.get_slice(name).get_shape()) == entry.shape


def test_a_type_that_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(2, dtype=torch.float8_e4m3fn)}, file)
    with pytest.raises(UserError, match="tensor 'w' is F8_E4M3; F64, F32, F16, BF16, I64"):
        read_header(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.safetensors: No such file or directory"):
        read_header(tmp_path / "no.safetensors")


# --- directories -----------------------------------------------------------------------------


def sharded(folder: Path) -> Path:
    folder.mkdir()
    halves = (dict(list(TENSORS.items())[:3]), dict(list(TENSORS.items())[3:]))
    where = {}
    for number, half in enumerate(halves, 1):
        save_file(half, folder / f"model-0000{number}-of-00002.safetensors")
        where |= dict.fromkeys(half, f"model-0000{number}-of-00002.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def test_a_sharded_directory(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    entries = of_directory(folder)
    assert entries.keys() == TENSORS.keys()
    assert {file.name for entry in entries.values() for file in entry.files} == {
        file.name for file in weight_files(folder)
    }
    assert load_file(weight_files(folder)[0]).keys() == {"a", "b", "c"}


def test_one_file_comes_before_an_index(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    save_file(TENSORS, folder / SINGLE)
    assert weight_files(folder) == [folder / SINGLE]


def rewrite(folder: Path, **changes: Any) -> None:
    (folder / INDEX).write_text(json.dumps(json.loads((folder / INDEX).read_text()) | changes))


def test_directories_that_cannot_be_read(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    rewrite(folder, weight_map={"a": "../secret.safetensors"})
    with pytest.raises(UserError, match=r"is '\.\./secret\.safetensors'; the name of a file"):
        of_directory(folder)
    rewrite(folder, weight_map={"a": "model-00001-of-00002.safetensors",
                                "z": "model-00001-of-00002.safetensors"})  # fmt: skip
    with pytest.raises(UserError, match=r"model-00001-of-00002\.safetensors has no tensor 'z'"):
        of_directory(folder)
    rewrite(folder, weight_map={"a": "model-00003-of-00002.safetensors"})
    with pytest.raises(UserError, match=r"model-00003-of-00002\.safetensors: No such file"):
        of_directory(folder)
    for wrong in ("", "[]", '{"weight_map": 5}', '{"weight_map": {"a": 5}}', "{}"):
        (folder / INDEX).write_text(wrong)
        with pytest.raises(UserError, match=rf"{INDEX} is damaged"):
            of_directory(folder)
    (folder / INDEX).unlink()
    with pytest.raises(UserError, match=r"holds no weights; model\.safetensors or .* is valid"):
        of_directory(folder)
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"holds pickled weights .* convert them to safetensors"):
        of_directory(folder)


def test_shards_of_two_types(tmp_path: Path) -> None:
    """A checkpoint whose ranks did not agree on a tensor's type."""
    for number, dtype in ((1, torch.float32), (2, torch.float16)):
        places = {"w": {"saved_offsets": [2 * (number - 1)]}, "v": {}}
        held = {"w": torch.ones(2, dtype=dtype)} | ({"v": torch.ones(3)} if number == 1 else {})
        save_file(held, tmp_path / f"{number}.safetensors",
                  {"DCP_SHARDING_INFO": json.dumps(places)})  # fmt: skip
    files = {name: {"bytes": 0, "sha256": ""} for name in ("state.json", "1.safetensors")}
    about = {"format": 1, "step": 5, "tokens": 5, "t": 5, "lr": 0.1, "weights": ["raw"]}
    manifest = {**about, "files": files}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    found = of_checkpoint(Checkpoint(tmp_path, 5))
    assert {name: entry.shape for name, entry in found.items()} == {"w": (2,), "v": (3,)}
    (tmp_path / "manifest.json").write_text(
        json.dumps({**about, "files": files | {"2.safetensors": {"bytes": 0, "sha256": ""}}})
    )
    with pytest.raises(UserError, match=r"1\.safetensors: the shards of 'w' are F(32|16) and F"):
        of_checkpoint(Checkpoint(tmp_path, 5))


@pytest.mark.parametrize(
    "said", ["", "[1]", "{", '{"w": 5}', '{"w": {"saved_offsets": 5}}',
             '{"w": {"saved_offsets": []}}', '{"w": {"saved_offsets": ["0"]}}',
             '{"w": {"saved_offsets": [0, 0]}}', '{"other": {"saved_offsets": [0]}}']
)  # fmt: skip
def test_places_that_are_none(said: str, tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "1.safetensors", {"DCP_SHARDING_INFO": said})
    about = {"format": 1, "step": 5, "tokens": 5, "t": 5, "lr": 0.1, "weights": ["raw"]}
    files = {"1.safetensors": {"bytes": 0, "sha256": ""}}
    (tmp_path / "manifest.json").write_text(json.dumps({**about, "files": files}))
    with pytest.raises(UserError, match=r"1\.safetensors is damaged"):
        of_checkpoint(Checkpoint(tmp_path, 5))


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    for name in "ab":
        save_file({"w": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"b\.safetensors: tensor 'w' is also in .*a\.safetensors"):
        of_files([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
