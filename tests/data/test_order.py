"""The order of samples: a bijection, passes, and eras that never change what came before."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytrain.data.order import LARGEST, Order, permute
from anytrain.errors import UserError

KEYS = st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 5))


@given(st.integers(1, 3000), KEYS)
def test_a_permutation_is_a_bijection(size: int, key: tuple[int, int]) -> None:
    assert np.array_equal(np.sort(permute(size, key, np.arange(size))), np.arange(size))


def slow_permute(size: int, key: tuple[int, ...], index: int) -> int:
    """The textbook twin: one number at a time, in whole numbers of any length."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=48).digest()
    while True:
        left, right = divmod(index, 2**half)
        for number in range(6):
            x = right ^ int.from_bytes(digest[8 * number : 8 * number + 8], "little")
            x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
            left, right = right, left ^ ((x ^ (x >> 31)) % 2**half)
        index = left * 2**half + right
        if index < size:
            return index


@given(st.integers(1, LARGEST), KEYS, st.integers(0))
def test_the_permutation_is_its_textbook_twin(size: int, key: tuple[int, int], at: int) -> None:
    assert int(permute(size, key, at % size)[0]) == slow_permute(size, key, at % size)


@given(st.integers(2, 9), KEYS)
def test_sizes_around_powers_of_two(bits: int, key: tuple[int, int]) -> None:
    for size in (2**bits - 1, 2**bits, 2**bits + 1):
        assert len(set(permute(size, key, np.arange(size)).tolist())) == size


@given(st.integers(2**30, LARGEST), KEYS, st.integers(0, 2**29))
@settings(max_examples=30)
def test_huge_domains_stay_inside_and_do_not_collide(
    size: int, key: tuple[int, int], start: int
) -> None:
    values = permute(size, key, np.arange(start, start + 2000))
    assert values.min() >= 0
    assert values.max() < size
    assert len(set(values.tolist())) == 2000


@given(st.integers(1, 500), KEYS)
def test_one_index_at_a_time_gives_the_same(size: int, key: tuple[int, int]) -> None:
    whole = permute(size, key, np.arange(size))
    assert [int(permute(size, key, i)[0]) for i in range(0, size, 17)] == whole[::17].tolist()


def test_the_permutation_never_changes() -> None:
    """Written down: a change here would reorder the data of every run there is."""
    assert permute(10, (1, 2), np.arange(10)).tolist() == GOLDEN_10
    assert permute(10**9, (7,), [0, 1, 10**9 - 1]).tolist() == GOLDEN_LARGE


GOLDEN_10 = [8, 0, 7, 5, 6, 9, 3, 4, 1, 2]
GOLDEN_LARGE = [275624916, 334788615, 843046724]


def test_keys_are_unrelated() -> None:
    """Fixed points of two keys' difference: Poisson with mean 1, so more than 8 is 1 in 10^6."""
    base = permute(4096, (0,), np.arange(4096))
    for key in range(1, 20):
        assert np.sum(permute(4096, (key,), np.arange(4096)) == base) <= 8


def test_positions_are_uniform() -> None:
    """Where index 0 lands over 4096 keys, in 16 bins: chi-square far below its 1e-6 quantile."""
    bins = np.bincount([int(permute(1000, (k,), 0)[0]) * 16 // 1000 for k in range(4096)])
    expected = np.bincount(np.arange(1000) * 16 // 1000) / 1000 * 4096
    assert np.sum((bins - expected) ** 2 / expected) < 56


@pytest.mark.parametrize("size", [0, -1, LARGEST + 1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="2\\^40"):
        permute(size, (1,), 0)


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_is_refused(index: int) -> None:
    """It would never be walked back inside."""
    with pytest.raises(ValueError, match="below 10 is valid"):
        permute(10, (1,), [0, index])


@given(st.integers(1, 60), st.integers(0, 2**31), st.integers(1, 4))
def test_every_pass_reads_every_window_once_and_differs(size: int, seed: int, passes: int) -> None:
    read = Order((seed,), (0,), (size,))(np.arange(passes * size)).reshape(passes, size)
    assert (np.sort(read, axis=1) == np.arange(size)).all()
    if size > 20 and passes > 1:  # equal by chance with probability 1/20!
        assert not np.array_equal(read[0], read[1])


@st.composite
def eras(draw: st.DrawFn) -> Order:
    starts, windows = [0], [draw(st.integers(1, 40))]
    for _ in range(draw(st.integers(1, 4))):
        starts.append(starts[-1] + draw(st.integers(0, 90)))
        windows.append(windows[-1] + draw(st.integers(0, 40)))
    return Order((draw(st.integers(0, 99)),), tuple(starts), tuple(windows))


@given(eras())
def test_a_new_era_leaves_the_past_alone(order: Order) -> None:
    start = order.starts[-1]
    before = Order(order.key, order.starts[:-1], order.windows[:-1])
    assert np.array_equal(order(np.arange(start)), before(np.arange(start)))


@given(eras())
def test_the_interrupted_pass_reads_old_and_new_windows_exactly_once(order: Order) -> None:
    """From the first sample of the pass that the last era joins to that pass's end."""
    start = order.starts[-1]
    place = order.place(start)
    pass_start = start - place.read
    read = order(np.arange(pass_start, pass_start + place.windows))
    assert sorted(read.tolist()) == list(range(order.windows[-1]))


@given(eras())
def test_passes_after_it_read_everything_once(order: Order) -> None:
    place, size = order.place(order.starts[-1]), order.windows[-1]
    end = order.starts[-1] - place.read + place.windows
    read = order(np.arange(end, end + 2 * size)).reshape(2, size)
    assert (np.sort(read, axis=1) == np.arange(size)).all()


@given(eras(), st.integers(0, 400))
def test_place_counts_passes_one_window_at_a_time(order: Order, samples: int) -> None:
    here, there = order.place(samples), order.place(samples + 1)
    if there.turn == here.turn:
        assert there.read == here.read + 1
    else:
        assert (there.turn, there.read, here.read) == (here.turn + 1, 0, here.windows - 1)


@given(eras(), st.lists(st.integers(0, 500), min_size=1))
def test_samples_in_any_order(order: Order, samples: list[int]) -> None:
    assert order(samples).tolist() == [int(order(n)[0]) for n in samples]


def test_orders_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match="shorter than one sequence"):
        Order((1,), (0,), (0,))
    for starts, windows in (((1,), (5,)), ((0, 5), (5, 4)), ((0, 5, 3), (1, 2, 3)), ((0,), (1, 2))):
        with pytest.raises(ValueError, match="eras start"):
            Order((1,), starts, windows)
