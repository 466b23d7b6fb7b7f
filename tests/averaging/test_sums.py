"""Sums of blocks: rounded once and to even, exact to an ulp whatever cancels."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytrain.averaging.sums import PRECISION, careful, doubtful, fits, largest, rounded, widened
from exact import TORCH, TYPES, nearest, ulp, weighted, worst

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def as_tensor(out: Any, dtype: str) -> torch.Tensor:
    """What `rounded` gave, as a tensor of the type."""
    found = torch.from_numpy(out.view(np.int16) if dtype == "BF16" else out)
    return found.view(torch.bfloat16) if dtype == "BF16" else found


def wide(tensor: torch.Tensor, dtype: str) -> Any:
    raw = tensor.view(torch.uint8).numpy().tobytes()
    values, stored = widened(
        raw, dtype, np.empty(tensor.numel()), np.empty(tensor.numel(), np.uint32)
    )
    assert np.array_equal(values, stored.astype(np.float64), equal_nan=True)
    return values


# --- types -----------------------------------------------------------------------------------


def every(dtype: str) -> torch.Tensor:
    """Every value of a 16-bit type, or a sample that has the ends of a wider one."""
    if dtype in ("F16", "BF16"):
        return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(TORCH[dtype])
    bits = {"F32": torch.int32, "F64": torch.int64}[dtype]
    torch.manual_seed(0)
    info = torch.finfo(TORCH[dtype])
    ends = [0.0, -0.0, info.max, info.min, info.tiny, info.smallest_normal, torch.inf, -torch.inf]
    limits = torch.iinfo(bits)
    sample = torch.randint(limits.min, limits.max, (20_000,), dtype=bits).view(TORCH[dtype])
    return torch.cat([torch.tensor(ends, dtype=TORCH[dtype]), sample])


@pytest.mark.parametrize("dtype", TYPES)
def test_there_and_back(dtype: str) -> None:
    """To float64 and back is the same value, −0, subnormals and infinities too."""
    values = every(dtype)
    values = values[~values.isnan()]
    found = wide(values, dtype)
    assert np.array_equal(found, values.double().numpy())
    assert np.array_equal(np.signbit(found), values.signbit().numpy())
    back = as_tensor(rounded(found, dtype), dtype)
    assert torch.equal(back.view(torch.uint8), values.view(torch.uint8))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_float32_is_rounded_as_torch_does(dtype: str) -> None:
    values = every("F32")
    values = values[~values.isnan()]
    found = as_tensor(rounded(values.double().numpy(), dtype), dtype)
    assert torch.equal(found.view(torch.int16), values.to(TORCH[dtype]).view(torch.int16))


@given(value=FINITE, dtype=st.sampled_from(["F32", "F16", "BF16"]))
@settings(max_examples=1000)
def test_a_double_is_rounded_once(value: float, dtype: str) -> None:
    expected = nearest(Fraction(value), dtype)
    found = float(as_tensor(rounded(np.array([value]), dtype), dtype)[0])
    if abs(expected) > TYPES[dtype][2]:
        assert found == np.copysign(np.inf, value)
    else:
        assert Fraction(found) == expected
        assert np.signbit(found) == np.signbit(value)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("at", [1.0, 1.0e-5, 2.0**-130])
def test_near_a_tie(dtype: str, at: float) -> None:
    """A hair beside the middle of two neighbours: two roundings would lose the hair."""
    below = nearest(Fraction(at), dtype)
    step = ulp(below, dtype)
    for number in range(4):
        low = below + number * step
        for hair in (-(2.0**-20), 0, 2.0**-20, 2.0**-40):
            value = low + step / 2 + step * Fraction(hair)
            if Fraction(float(value)) == value:
                found = as_tensor(rounded(np.array([float(value)]), dtype), dtype)[0]
                assert Fraction(float(found)) == nearest(value, dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_does_not_fit(dtype: str) -> None:
    limit = float(TYPES[dtype][2])
    for values, ok in (
        ([limit, -limit, 0.0], True),
        ([np.inf, -np.inf, 1.0], True),  # was infinite before
        ([1.0, limit * 1.01], dtype == "F64"),
        ([np.inf, -limit * 1.01], dtype == "F64"),
    ):
        with np.errstate(over="ignore"):
            given = np.array(values) if np.isfinite(limit * 1.01) else np.array(values[:1])
        assert fits(rounded(given, dtype), dtype, given) is ok


# --- sums ------------------------------------------------------------------------------------


@given(
    rows=st.lists(st.tuples(FINITE, FINITE, FINITE), min_size=1, max_size=8),
    weights=st.tuples(*[st.floats(-4, 4)] * 3),
    dtype=st.sampled_from(list(TYPES)),
)
@settings(max_examples=500)
def test_careful_sums(
    rows: list[tuple[float, float, float]], weights: tuple[float, ...], dtype: str
) -> None:
    """To a quarter of an ulp of the type and half a one of float64, whatever is added up."""
    inputs = np.array(rows).T.copy()
    exact = weighted(weights, list(inputs))
    found = careful(weights, lambda j: inputs[j], dtype)
    for value, expected in zip(found.tolist(), exact, strict=True):
        if abs(expected) > TYPES["F64"][2] or not np.isfinite(value):
            assert abs(expected) > TYPES["F64"][2] / 4 or np.abs(inputs).max() > 1e307
            continue
        error = abs(Fraction(value) - expected)
        assert error <= ulp(expected, "F64") / 2 + ulp(expected, dtype) / 4


def test_careful_sums_cancel() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4000))
    x[3:] = x[:3] * (1 + rng.standard_normal((3, 4000)) * 1e-15)
    weights = [0.3, 0.1, -0.7, -0.3, -0.1, 0.7]
    exact = weighted(weights, list(x))
    assert worst(careful(weights, lambda j: x[j], "F64"), exact, "F64") <= 0.75
    naive = sum(c * row for c, row in zip(weights, x, strict=True))
    assert worst(naive, exact, "F64") > 100
    same = np.concatenate([x[:3], x[:3]])
    assert not careful(weights, lambda j: same[j], "F64").any()


def test_careful_sums_of_what_is_hardly_there() -> None:
    """Subnormal products lose bits that no trick brings back: they are summed with fractions."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 500)) * 2.0 ** rng.integers(-1074, -960, (8, 500))
    weights = rng.dirichlet(np.ones(8)).tolist()
    exact = weighted(weights, list(x))
    assert worst(careful(weights, lambda j: x[j], "F64"), exact, "F64") <= 0.75
    assert worst(np.tensordot(weights, x, 1), exact, "F64") > 1


def test_careful_sums_keep_what_is_not_finite() -> None:
    x = np.array([[np.inf, 1.0, -np.inf, np.inf], [1.0, -np.inf, -np.inf, -np.inf]])
    found = careful([0.5, 0.5], lambda j: x[j], "F64")
    assert np.array_equal(found, [np.inf, -np.inf, -np.inf, np.nan], equal_nan=True)
    zeros = np.array([[-0.0, 0.0], [-0.0, -0.0]])
    assert np.signbit(careful([0.5, 0.5], lambda j: zeros[j], "F64")).tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("terms", [2, 3, 9])
def test_what_is_not_doubtful_is_right(dtype: str, terms: int) -> None:
    """Sums that cancel by every power of two: those that are off by an ulp are all doubtful."""
    rng = np.random.default_rng(1)
    weights = rng.dirichlet(np.ones(terms - 1)).tolist()
    x = rng.standard_normal((terms, 3000))
    target = 2.0 ** rng.integers(-60, 0, 3000) * rng.standard_normal(3000)
    x[-1] = target - np.tensordot(weights, x[:-1], 1)
    weights.append(1.0)
    total = sum(c * row for c, row in zip(weights, x, strict=True))
    bound = sum(abs(c) * largest(row) for c, row in zip(weights, x, strict=True))
    again = doubtful(total, terms, bound, dtype)
    assert 0 < again.size < 3000
    exact = weighted(weights, list(x))
    kept = np.setdiff1d(np.arange(3000), again)
    errors = [
        abs(Fraction(float(total[i])) - exact[i]) / ulp(exact[i], dtype) for i in kept.tolist()
    ]
    assert max(errors) <= Fraction(1, 2)
    # and not all is doubtful that is small: the limit is what the theory says, not the block's
    limit = (terms + 1) * 2.0 ** (PRECISION[dtype] - 52) * bound
    assert np.abs(total[again]).max() < limit <= np.abs(total[kept]).min()


def test_what_is_doubtful_beside_infinities() -> None:
    total = np.array([np.inf, 1.0, -np.inf])
    assert doubtful(total, 2, np.inf, "F32").tolist() == [1]
    assert doubtful(total, 2, np.nan, "F32").tolist() == [1]
    assert doubtful(total, 1, np.inf, "F32").size == 0  # one product is rounded once


def test_largest() -> None:
    assert largest(np.array([-3.0, 2.0])) == 3.0
    assert largest(np.array([-3.0, 4.0])) == 4.0
    assert largest(np.array([-np.inf, 4.0])) == np.inf
