"""Boxes of tensors: where any stretch of elements is, and which boxes make no tensor."""

import time
import tracemalloc
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytrain.errors import UserError
from anytrain.layout import SIZES, Box, Entry, Packed, assembled, select

Corner = tuple[int, ...]


def test_sizes() -> None:
    assert {name: size * 8 for name, size in SIZES.items() if name != "BOOL"} == {
        name: int(name.lstrip("BFIU")) for name in SIZES if name != "BOOL"
    }


@st.composite
def tilings(draw: st.DrawFn) -> tuple[Corner, list[tuple[Corner, Corner]]]:
    """(a shape, boxes (at, shape) that fill it), cut by random straight cuts."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=0, max_size=4)))
    boxes = [((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 6))):
        at, extent = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        long = [d for d, n in enumerate(extent) if n > 1]
        if not long:
            boxes.append((at, extent))
            continue
        d = draw(st.sampled_from(long))
        cut = draw(st.integers(1, extent[d] - 1))
        boxes.append((at, (*extent[:d], cut, *extent[d + 1 :])))
        after = (*at[:d], at[d] + cut, *at[d + 1 :])
        boxes.append((after, (*extent[:d], extent[d] - cut, *extent[d + 1 :])))
    return shape, draw(st.permutations(boxes))


def stored(shape: Corner, tiling: list[tuple[Corner, Corner]]) -> tuple[Entry, dict[Path, bytes]]:
    """0, 1, 2 … in I32, its boxes in files, three of them sharing one."""
    whole = np.arange(prod(shape), dtype=np.int32).reshape(shape)
    files: dict[Path, bytes] = {}
    boxes = []
    for number, (at, extent) in enumerate(tiling):
        file = Path(f"file-{number // 3}")
        content = files.get(file, b"head!")
        boxes.append(Box(file, len(content), at, extent))
        inside = whole[tuple(slice(a, a + n) for a, n in zip(at, extent, strict=True))]
        files[file] = content + inside.tobytes() + b"gap"
    return assembled("w", "I32", shape, boxes), files


@given(tiling=tilings(), data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_stretch_of_any_tiling(
    tiling: tuple[Corner, list[tuple[Corner, Corner]]], data: st.DataObject
) -> None:
    shape, boxes = tiling
    entry, files = stored(shape, boxes)
    assert (entry.shape, entry.elements, entry.bytes) == (shape, prod(shape), 4 * prod(shape))
    start = data.draw(st.integers(0, prod(shape)))
    stop = data.draw(st.integers(start, prod(shape)))
    found: dict[int, int] = {}
    for file, offset, runs in entry.parts(start, stop):
        assert all(a[1] < b[0] for a, b in pairwise(runs))  # as long as they can be
        for low, high in runs:
            assert start <= low < high <= stop
            values = np.frombuffer(files[file], np.int32, high - low, offset)
            found |= dict(zip(range(low, high), values.tolist(), strict=True))
            offset += 4 * (high - low)
    assert found == {i: i for i in range(start, stop)}


def test_a_whole_file_is_one_run() -> None:
    entry = Entry("BF16", (4, 6), (Box(Path("f"), 100, (0, 0), (4, 6)),))
    assert list(entry.parts(3, 20)) == [(Path("f"), 106, [(3, 20)])]
    assert list(entry.parts(7, 7)) == []
    scalar = Entry("F32", (), (Box(Path("f"), 8, (), ()),))
    assert list(scalar.parts(0, 1)) == [(Path("f"), 8, [(0, 1)])]


def test_split_rows_are_contiguous_and_split_columns_are_runs() -> None:
    rows = [Box(Path(f"{i}"), 0, (2 * i, 0), (2, 6)) for i in range(2)]
    assert list(assembled("w", "F32", (4, 6), rows).parts(10, 15)) == [
        (Path("0"), 40, [(10, 12)]),
        (Path("1"), 0, [(12, 15)]),
    ]
    columns = [Box(Path(f"{i}"), 0, (0, 3 * i), (4, 3)) for i in range(2)]
    assert list(assembled("w", "F32", (4, 6), columns).parts(1, 14)) == [
        (Path("0"), 4, [(1, 3), (6, 9), (12, 14)]),
        (Path("1"), 0, [(3, 6), (9, 12)]),
    ]


def test_an_empty_tensor() -> None:
    entry = assembled("w", "F32", (0, 5), [Box(Path("f"), 0, (0, 0), (0, 5))])
    assert (entry.elements, list(entry.parts(0, 0))) == (0, [])


def test_many_columns_cost_no_memory_and_no_time() -> None:
    """A million rows in 64 pieces each: what is asked for is found without listing them."""
    boxes = [Box(Path(f"{i}"), 0, (0, 64 * i), (1_000_000, 64)) for i in range(64)]
    entry = assembled("w", "BF16", (1_000_000, 4096), boxes)
    begin = time.process_time()
    parts = list(entry.parts(2_000_000_000, 2_000_131_072))
    assert time.process_time() - begin < 0.5
    assert sum(high - low for part in parts for low, high in part.runs) == 131_072


HALF = Box(Path("a"), 0, (0, 0), (2, 6))
REST = Box(Path("b"), 0, (2, 0), (2, 6))


@pytest.mark.parametrize(
    "boxes",
    [
        [HALF],
        [HALF, HALF],
        [HALF, REST, REST],
        [HALF, REST._replace(at=(1, 0))],  # overlaps, and has the right size
        [HALF, REST._replace(at=(3, 0))],  # reaches out
        [HALF, REST._replace(at=(-2, 0))],
        [HALF, REST._replace(at=(2, 0), shape=(2, 5))],
        [],
    ],
)
def test_boxes_that_make_no_tensor(boxes: list[Box]) -> None:
    assert assembled("w", "F32", (4, 6), [HALF, REST]).boxes == (HALF, REST)
    with pytest.raises(UserError, match=r"the shards of 'w' do not fill its \[4, 6\]"):
        assembled("w", "F32", (4, 6), boxes)


@given(tiling=tilings(), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_tiling_without_one_box_or_with_one_moved(
    tiling: tuple[Corner, list[tuple[Corner, Corner]]], data: st.DataObject
) -> None:
    shape, boxes = tiling
    if len(boxes) < 2:
        return
    made = [Box(Path("f"), 0, at, extent) for at, extent in boxes]
    one = data.draw(st.integers(0, len(made) - 1))
    d = data.draw(st.integers(0, len(shape) - 1))
    by = data.draw(st.sampled_from([-2, -1, 1, 2]))
    at = made[one].at
    moved = made[one]._replace(at=(*at[:d], at[d] + by, *at[d + 1 :]))
    for wrong in ([*made[:one], *made[one + 1 :]], [*made[:one], moved, *made[one + 1 :]]):
        with pytest.raises(UserError, match="do not fill"):
            assembled("w", "F32", shape, wrong)


def named(count: int, file: str) -> dict[str, Entry]:
    return {
        "layers." + str(i): Entry("BF16", (i % 7, 4), (Box(Path(file), 8 * i, (0, 0), (i % 7, 4)),))
        for i in range(count)
    }


def test_packed() -> None:
    """The same tensors in the same order, of whatever kind."""
    entries = named(50, "a") | {f"b.{i}": entry for i, entry in enumerate(named(50, "b").values())}
    entries["cut"] = assembled("cut", "F32", (4, 6), [HALF, REST])
    entries["none"] = Entry("I64", (3,), ())
    entries["scalar"] = Entry("F64", (), (Box(Path("a"), 3, (), ()),))
    packed = Packed(entries)
    assert packed == entries
    assert list(packed) == list(entries)
    assert "nothing" not in packed


def test_packed_is_small() -> None:
    """Inputs with the same ten thousand tensors: twelve bytes each, and the names once."""
    first = Packed(named(10_000, "0"))
    tracemalloc.start()
    try:
        rest = [Packed(named(10_000, str(number))) for number in range(1, 6)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rest) == 5
    assert rest[-1]["layers.9"].files == {Path("5")}
    assert len(first) == 10_000
    assert taken < 5 * 10_000 * 20


def test_select() -> None:
    entry = Entry("F32", (), ())
    assert select({"raw/a": entry, "raw/b/raw/c": entry, "b": entry}, "raw/") == {
        "a": entry,
        "b/raw/c": entry,
    }
