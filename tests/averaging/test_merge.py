"""Streaming a weighted sum: exact to an ulp in every type, each input read once, by blocks."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anytrain.averaging import blocks, merge, sums
from anytrain.averaging.blocks import BLOCK
from anytrain.averaging.merge import Source, Work, check_alike, copied
from anytrain.errors import UserError
from anytrain.headers import plan_file, read_header
from anytrain.layout import Box, Entry, assembled
from exact import TORCH, TYPES, weighted, worst
from tiny import as_bytes

Tensors = dict[str, Tensor]


def source(path: Path, tensors: Tensors) -> Source:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return Source.of(path.name, read_header(path).entries)


def merged(
    folder: Path, sources: Sequence[Source], weights: Sequence[float], dtype: str | None = None
) -> Tensors:
    """The sum, by way of a file."""
    out = folder / "out.safetensors"
    last = sources[-1]
    typed = {key: last.entry(key) for key in last.terms}
    if dtype is not None:
        typed = {key: Entry(dtype, entry.shape, ()) for key, entry in typed.items()}
    head, targets = plan_file(out, typed, {})
    out.write_bytes(head)
    os.truncate(out, len(head) + sum(entry.bytes for entry in targets.values()))
    merge.run(Work(sources, weights, targets))
    return load_file(out)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def of_values(folder: Path, inputs: Sequence[Tensor]) -> list[Source]:
    return [source(folder / f"{i}.safetensors", {"w": x}) for i, x in enumerate(inputs)]


# --- exact -----------------------------------------------------------------------------------


@pytest.mark.parametrize("out", TYPES)
@pytest.mark.parametrize("into", TYPES)
def test_every_type_to_every_type(into: str, out: str, tmp_path: Path) -> None:
    """Within an ulp of the exact sum, over every power of two that the type has."""
    torch.manual_seed(0)
    weights = torch.softmax(torch.randn(5, dtype=torch.float64), 0).tolist()
    span = min(TYPES[into][1], TYPES[out][1]) if "F16" in (into, out) else -140
    scales = 2.0 ** torch.randint(max(span, -140) - 12, 12, (3, 700)).double()
    inputs = [(torch.randn(3, 700).double() * scales).to(TORCH[into]) for _ in weights]
    found = merged(tmp_path, of_values(tmp_path, inputs), weights, out)["w"]
    assert (found.dtype, found.shape) == (TORCH[out], (3, 700))
    assert worst(found, weighted(weights, inputs), out) <= 1.0


@pytest.mark.parametrize("dtype", TYPES)
def test_what_cancels_is_exact_too(dtype: str, tmp_path: Path) -> None:
    """A task vector: base + 0.3·(a − b), where a − b is all there is."""
    torch.manual_seed(1)
    base = torch.randn(4000, dtype=torch.float64).to(TORCH[dtype])
    near = (base.double() * (1 + 1e-6 * torch.randn(4000))).to(TORCH[dtype])
    inputs = [base, near, torch.zeros(4000, dtype=TORCH[dtype]) if dtype == "F16" else base * 1e-9]
    weights = [0.3, -0.3, 0.7]
    found = merged(tmp_path, of_values(tmp_path, inputs), weights)["w"]
    assert worst(found, weighted(weights, inputs), dtype) <= 1.0


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_where_float64_is_not_enough(dtype: str, tmp_path: Path) -> None:
    """Weights that cancel to a part in 2^40: a sum in float64 is thousands of ulps away."""
    torch.manual_seed(2)
    x = torch.randn(sums.SLICE + 1000).to(TORCH[dtype])
    inputs = [x, x, torch.zeros_like(x)]
    weights = [0.1, -0.1 * (1 + 2.0**-44), 1.0]
    exact = weighted(weights, inputs)
    naive = weights[0] * x.double() + weights[1] * x.double()
    assert worst(naive, exact, dtype) > (100 if dtype == "F32" else 0.01)
    found = merged(tmp_path, of_values(tmp_path, inputs), weights)["w"]
    assert worst(found, exact, dtype) <= 1.0


@pytest.mark.parametrize("dtype", TYPES)
def test_a_merge_of_one_is_the_identity(dtype: str, tmp_path: Path) -> None:
    info = torch.finfo(TORCH[dtype])
    ends = [0.0, -0.0, info.max, info.min, info.smallest_normal, torch.inf, -torch.inf]
    step = torch.finfo(TORCH[dtype]).smallest_normal * info.eps  # the smallest subnormal
    values = torch.tensor([*ends, step, -step, 3 * step, 1 / 3], dtype=TORCH[dtype])
    assert as_bytes(values[7:8]) != as_bytes(values[:1])
    one = of_values(tmp_path, [values])
    assert as_bytes(merged(tmp_path, one, [1.0])["w"]) == as_bytes(values)
    # and with others that weigh nothing, whatever they hold
    other = source(tmp_path / "nan.safetensors", {"w": torch.full_like(values, torch.nan)})
    assert as_bytes(merged(tmp_path, [other, *one], [0.0, 1.0])["w"]) == as_bytes(values)


@pytest.mark.parametrize("dtype", TYPES)
def test_equal_inputs_keep_minus_zero(dtype: str, tmp_path: Path) -> None:
    values = torch.tensor([-0.0, 0.0, 1.0, -2.5], dtype=TORCH[dtype])
    found = merged(tmp_path, of_values(tmp_path, [values] * 4), [0.25] * 4)["w"]
    assert as_bytes(found) == as_bytes(values)


def test_infinities_stay(tmp_path: Path) -> None:
    a, b = torch.tensor([torch.inf, 1.0, 2.0]), torch.tensor([5.0, -torch.inf, 4.0])
    found = merged(tmp_path, of_values(tmp_path, [a, b]), [0.5, 0.5])["w"]
    assert found.tolist() == [torch.inf, -torch.inf, 3.0]


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17])
def test_around_the_ends_of_blocks(count: int, tmp_path: Path) -> None:
    torch.manual_seed(count)
    inputs = [torch.randn(count) for _ in range(3)]
    weights = [0.5, 0.3, 0.2]
    found = merged(tmp_path, of_values(tmp_path, inputs), weights)["w"]
    exact = sum(c * x.double() for c, x in zip(weights, inputs, strict=True))
    assert isinstance(exact, Tensor)
    torch.testing.assert_close(found.double(), exact, rtol=2**-23, atol=1e-12)


def test_blocks_that_cut_across_boxes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shards of rows, shards of columns and whole files in one sum, in blocks of seven."""
    monkeypatch.setattr(merge, "BLOCK", 7)
    monkeypatch.setattr(blocks, "_IOVECS", 2)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 10, 6)).astype(np.float32)
    cuts = [
        [((0, 0), (10, 6))],
        [((0, 0), (4, 6)), ((4, 0), (6, 6))],
        [((0, 0), (10, 1)), ((0, 1), (3, 5)), ((3, 1), (7, 2)), ((3, 3), (7, 3))],
    ]
    sources = []
    for number, boxes in enumerate(cuts):
        made = []
        for piece, (at, shape) in enumerate(boxes):
            file = tmp_path / f"{number}-{piece}"
            part = x[number][at[0] : at[0] + shape[0], at[1] : at[1] + shape[1]]
            file.write_bytes(b"12345" + part.tobytes())
            made.append(Box(file, 5, at, shape))
        sources.append(Source.of(str(number), {"w": assembled("w", "F32", (10, 6), made)}))
    for file in (target := [tmp_path / "t0", tmp_path / "t1"]):
        file.write_bytes(bytes(3) + bytes(4 * 30) + b"end")
    halves = [Box(file, 3, (0, 3 * i), (10, 3)) for i, file in enumerate(target)]
    entry = assembled("w", "F32", (10, 6), halves)
    merge.run(Work(sources, [0.5, 0.25, 0.25], {"w": entry}))
    found = [np.frombuffer(f.read_bytes()[3:-3], np.float32).reshape(10, 3) for f in target]
    expected = np.tensordot([0.5, 0.25, 0.25], x.astype(np.float64), 1).astype(np.float32)
    assert np.array_equal(np.concatenate(found, 1), expected)
    assert all(f.read_bytes()[:3] + f.read_bytes()[-3:] == b"\0\0\0end" for f in target)


# --- what is not summed ----------------------------------------------------------------------


def test_integers_and_buffers_are_the_last_inputs(tmp_path: Path) -> None:
    def tensors(seed: int) -> Tensors:
        torch.manual_seed(seed)
        return {
            "w": torch.randn(4),
            "ids": torch.randint(0, 99, (5,)),
            "mask": torch.rand(3) > 0.5,
            "bytes": torch.randint(0, 9, (3,), dtype=torch.uint8),
            "layers.0.rotary_emb.inv_freq": torch.randn(4),
            "norm.running_mean": torch.randn(2),
            "norm.running_var": torch.randn(2),
            "norm.num_batches_tracked": torch.tensor(seed),
        }

    inputs = [tensors(seed) for seed in (1, 2, 3)]
    sources = [source(tmp_path / f"{i}.safetensors", held) for i, held in enumerate(inputs)]
    for weights in ([0.25, 0.5, 0.25], [0.5, 0.5, 0.0]):
        found = merged(tmp_path, sources, weights)
        assert {k for k in found if as_bytes(found[k]) == as_bytes(inputs[-1][k])} == (
            found.keys() - {"w"}
        )
        expected = sum(c * t["w"] for c, t in zip(weights, inputs, strict=True))
        torch.testing.assert_close(found["w"], expected)


def test_which_names_are_copied() -> None:
    weight = Entry("F32", (1,), ())
    assert not copied("layers.0.weight", weight)
    assert not copied("inv_freq.weight", weight)
    assert copied("h.0.attn.masked_bias", weight)
    assert all(copied("w", Entry(dtype, (1,), ())) for dtype in ("I64", "U8", "BOOL", "I8"))


def test_a_source_that_is_itself_a_sum(tmp_path: Path) -> None:
    """As Schedule-Free's weights are: terms with weights of their own."""
    x = [torch.randn(50) for _ in range(3)]
    a, b, c = of_values(tmp_path, x)
    twice = Source("sum", {"w": ((1.5, a.entry("w")), (-0.5, b.entry("w")))})
    found = merged(tmp_path, [twice, c], [0.5, 0.5])["w"]
    assert worst(found, weighted([0.75, -0.25, 0.5], x), "F32") <= 1.0
    work = Work([twice, c], [0.5, 0.5], {"w": c.entry("w")})
    assert work.bytes == 3 * 200


# --- reading ---------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that were read through `os.preadv`."""
    counted: list[int] = []
    true, lock = os.preadv, threading.Lock()

    def preadv(descriptor: int, buffers: Any, offset: int) -> int:
        got = true(descriptor, buffers, offset)
        with lock:
            counted.append(got)
        return got

    monkeypatch.setattr(os, "preadv", preadv)
    return counted


@pytest.mark.parametrize("dtype", TYPES)
def test_each_input_is_read_once(dtype: str, reads: list[int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = [1 + torch.rand(2 * BLOCK + 5).to(TORCH[dtype]) for _ in range(3)]
    sources = of_values(tmp_path, inputs)
    merged(tmp_path, sources, [0.5, 0.25, 0.25])
    assert sum(reads) == 3 * (2 * BLOCK + 5) * inputs[0].element_size()


def test_inputs_that_weigh_nothing_are_not_read(reads: list[int], tmp_path: Path) -> None:
    inputs = [torch.randn(100) for _ in range(4)]
    sources = of_values(tmp_path, inputs)
    (tmp_path / "0.safetensors").unlink()
    found = merged(tmp_path, sources, [0.0, 0.5, 0.0, 0.5])["w"]
    assert torch.equal(found, (0.5 * inputs[1].double() + 0.5 * inputs[3].double()).float())
    assert sum(reads) == 2 * 400


def test_short_reads_and_writes_are_continued(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def limited(true: Any) -> Any:
        return lambda fd, buffers, at: true(fd, [buffers[0][:13]], at)

    monkeypatch.setattr(os, "preadv", limited(os.preadv))
    monkeypatch.setattr(os, "pwritev", limited(os.pwritev))
    inputs = [torch.randn(1000) for _ in range(2)]
    found = merged(tmp_path, of_values(tmp_path, inputs), [0.5, 0.5])["w"]
    assert torch.equal(found, (0.5 * inputs[0].double() + 0.5 * inputs[1].double()).float())


def test_more_inputs_than_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each thread keeps a few open; at the end none is."""
    monkeypatch.setattr(blocks, "_OPEN", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    inputs = [torch.randn(2 * BLOCK) for _ in range(12)]
    sources = of_values(tmp_path, inputs)
    before, most = open_files(), []
    true = merge._block
    monkeypatch.setattr(merge, "_block", lambda *a: (true(*a), most.append(open_files())))
    found = merged(tmp_path, sources, [1 / 12] * 12)["w"]
    torch.testing.assert_close(found, torch.stack(inputs).mean(0))
    assert max(most) <= before + 2 * 3 + 1  # and the directory that is being counted
    assert open_files() == before


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    inputs = [torch.randn(3 * BLOCK) for _ in range(2)]
    sources = of_values(tmp_path, inputs)
    out = tmp_path / "out"
    out.write_bytes(bytes(12 * BLOCK))
    target = Entry("F32", (3 * BLOCK,), (Box(out, 0, (0,), (3 * BLOCK,)),))
    work = Work(sources, [0.5, 0.5], {"w": target})
    said: list[int] = []
    merge.run(work, said.append)
    assert sum(said) == work.bytes == 24 * BLOCK
    assert max(said) <= 8 * BLOCK


def test_the_result_does_not_depend_on_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inputs = [torch.randn(5 * BLOCK + 3) for _ in range(3)]
    sources = of_values(tmp_path, inputs)
    found = []
    for count in (1, 3, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=count: set(range(n)))
        found.append(as_bytes(merged(tmp_path, sources, [0.2, 0.3, 0.5])["w"]))
    assert found[0] == found[1] == found[2]


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copied", "summed", "F64"])
def test_nan_names_file_and_tensor(how: str, tmp_path: Path) -> None:
    dtype = torch.float64 if how == "F64" else torch.float32
    x = [torch.randn(BLOCK + 10, dtype=dtype) for _ in range(3)]
    x[1][BLOCK + 3] = torch.nan
    sources = of_values(tmp_path, x)
    if how == "copied":
        sources = sources[1:2]
    weights = [1 / len(sources)] * len(sources)
    with pytest.raises(UserError, match=r"1\.safetensors: tensor 'w' holds NaN"):
        merged(tmp_path, sources, weights)


def test_nan_names_the_shard(tmp_path: Path) -> None:
    x = np.zeros((4, 6), np.float32)
    x[2, 1] = np.nan
    boxes = []
    for number in range(2):
        (tmp_path / f"rank-{number}").write_bytes(x[2 * number : 2 * number + 2].tobytes())
        boxes.append(Box(tmp_path / f"rank-{number}", 0, (2 * number, 0), (2, 6)))
    both = Source.of("both", {"w": assembled("w", "F32", (4, 6), boxes)})
    with pytest.raises(UserError, match="rank-1: tensor 'w' holds NaN"):
        merged(tmp_path, [both, both], [0.5, 0.5])


def test_infinities_of_both_signs(tmp_path: Path) -> None:
    x = [torch.tensor([torch.inf, 1.0]), torch.tensor([-torch.inf, 1.0])]
    with pytest.raises(UserError, match="tensor 'w' holds infinities that cancel"):
        merged(tmp_path, of_values(tmp_path, x), [0.5, 0.5])


def test_a_sum_beyond_the_type(tmp_path: Path) -> None:
    sources = of_values(tmp_path, [torch.tensor([1e5, -3e5])])
    with pytest.raises(UserError, match=r"'w' holds 3e\+05, beyond F16; another --dtype is valid"):
        merged(tmp_path, sources, [1.0], "F16")
    assert merged(tmp_path, sources, [1.0], "BF16")["w"].tolist() == [99840.0, -299008.0]
    sources = of_values(tmp_path, [torch.tensor([1.0, torch.finfo(torch.float32).max])])
    with pytest.raises(UserError, match=r"'w' holds 3\.403e\+38, beyond BF16"):
        merged(tmp_path, sources, [1.0], "BF16")


def test_a_file_that_shrinks_or_goes_meanwhile(tmp_path: Path) -> None:
    sources = of_values(tmp_path, [torch.randn(100), torch.randn(100)])
    os.truncate(tmp_path / "0.safetensors", 200)
    with pytest.raises(UserError, match=r"0\.safetensors was truncated while it was read"):
        merged(tmp_path, sources, [0.5, 0.5])
    (tmp_path / "0.safetensors").unlink()
    with pytest.raises(UserError, match=r"0\.safetensors: No such file"):
        merged(tmp_path, sources, [0.5, 0.5])


def test_a_failure_ends_every_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first error is raised, nothing is computed for long after it, no file stays open."""
    x = [torch.zeros(60 * BLOCK) for _ in range(2)]
    x[0][0] = torch.nan
    sources = of_values(tmp_path, x)
    before, computed = open_files(), []
    true = merge._block
    monkeypatch.setattr(merge, "_block", lambda *a: (computed.append(1), true(*a)))
    with pytest.raises(UserError, match="NaN"):
        merged(tmp_path, sources, [0.5, 0.5])
    assert len(computed) < 30
    assert open_files() == before
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


def entries(**shapes: tuple[str, tuple[int, ...]]) -> dict[str, Entry]:
    return {name: Entry(dtype, shape, ()) for name, (dtype, shape) in shapes.items()}


def test_inputs_that_are_not_alike() -> None:
    a = Source.of("A", entries(w=("F32", (2, 3)), v=("F32", (2,)), only=("F32", ())))
    b = Source.of("B", entries(w=("F32", (3, 2)), v=("BF16", (2,)), other=("F32", ())))
    check_alike([a, a])
    with pytest.raises(UserError) as caught:
        check_alike([a, a, b])
    assert str(caught.value) == (
        "A and B are not alike: w is F32 [2, 3] and F32 [3, 2]; v is F32 [2] and BF16 [2]; "
        "only is only in A; other is only in B"
    )


def test_the_first_five_differences_are_listed() -> None:
    a = Source.of("A", entries(**{f"t{i}": ("F32", (1,)) for i in range(9)}))
    b = Source.of("B", entries(**{f"t{i}": ("F32", (2,)) for i in range(9)}))
    with pytest.raises(UserError) as caught:
        check_alike([a, b])
    said = str(caught.value)
    assert all(f"t{i} is" in said for i in range(5))
    assert "t5" not in said
    assert said.endswith("(and 4 more)")
