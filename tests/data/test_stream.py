"""What the trainer reads: every window once a pass, from anywhere, whatever is appended."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import prose

from anytrain.data.stream import Pin, TrainingData
from anytrain.data.tokenize import prepare
from anytrain.errors import UserError

Jsonl = Callable[..., Path]


def numbered(folder: Path, start: int, tokens: int, dtype: str = "uint32") -> str:
    """A raw corpus whose tokens are their own addresses, so that a window says where it is from."""
    folder.mkdir(parents=True)
    np.save(folder / "train.npy", np.arange(start, start + tokens).astype(dtype))
    np.save(folder / "val.npy", np.arange(start, start + tokens // 4).astype(dtype))
    return str(folder)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two corpora of 500 and 200 windows of 8 tokens."""
    root = tmp_path_factory.mktemp("raw")
    return numbered(root / "a", 0, 4005), numbered(root / "b", 10**6, 1601)


def test_a_pass_reads_every_window_once(raw: tuple[str, str]) -> None:
    data = TrainingData.open({raw[0]: 1.0}, context=8, seed=3)
    for number in range(3):
        batch = data.batch(500 * number, 500)
        assert batch.shape == (500, 9)
        assert batch.dtype == np.int64
        assert (np.diff(batch, axis=1) == 1).all()
        assert sorted(batch[:, 0]) == list(range(0, 4000, 8))


@given(st.integers(0, 5000), st.integers(1, 2100), st.integers(0, 3))
@settings(max_examples=30)
def test_a_batch_depends_on_its_numbers_alone(
    raw: tuple[str, str], first: int, count: int, seed: int
) -> None:
    sources = {raw[0]: 0.7, raw[1]: 0.3}
    data = TrainingData.open(sources, context=8, seed=seed)
    whole = data.batch(first, count)
    again = TrainingData.open(sources, context=8, seed=seed)
    cut = count // 3
    parts = [again.batch(first + cut, count - cut), again.batch(first, cut)]
    assert np.array_equal(whole, np.concatenate(parts[::-1]))


def test_the_order_of_samples_never_changes(raw: tuple[str, str]) -> None:
    """Written down: a change here would reorder the data of every run there is."""
    data = TrainingData.open({raw[0]: 0.7, raw[1]: 0.3}, context=8, seed=1)
    assert data.batch(0, 6)[:, 0].tolist() == FIRST
    assert data.batch(5000, 3)[:, 0].tolist() == LATER


FIRST = [3880, 1000784, 560, 1001144, 1360, 1824]
LATER = [472, 1000840, 3424]


def test_seeds_differ(raw: tuple[str, str]) -> None:
    one, two = (TrainingData.open({raw[0]: 1.0}, context=8, seed=s).batch(0, 99) for s in (1, 2))
    assert not np.array_equal(one, two)


def test_a_mixture_keeps_proportions_and_passes(raw: tuple[str, str]) -> None:
    data = TrainingData.open({raw[0]: 3.0, raw[1]: 1.0}, context=8, seed=0)
    batch = data.batch(0, 2048)
    second = batch[:, 0] >= 10**6
    assert second.sum() == 512
    assert sorted(batch[~second][:500, 0]) == list(range(0, 4000, 8))
    assert sorted(batch[second][:200, 0] - 10**6) == list(range(0, 1600, 8))
    a, b = data.positions(2048)
    assert (a.turn, a.read, a.windows, a.tokens, a.share) == (4, 36, 500, 4000, 0.75)
    assert (b.turn, b.read, b.windows) == (3, 112, 200)
    assert b.left == round((200 - 112) / 0.25)


def segments(tmp_path: Path, bpe: str, jsonl: Jsonl, counts: list[int]) -> str:
    """A prepared corpus, grown segment by segment."""
    seed, out = 0, tmp_path / "corpus"
    for number, count in enumerate(counts):
        source = jsonl(f"{number}.jsonl", [prose(s, 20) for s in range(seed, seed + count)])
        settings = {"append": True} if number else {"tokenizer": bpe, "shard_tokens": 777}
        prepare([source], out, **settings)  # type: ignore[arg-type]
        seed += count
    return str(out)


def test_appended_data_become_visible_when_told(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    path = segments(tmp_path, bpe, jsonl, [60])
    old = TrainingData.open({path: 1.0}, context=16, seed=5)
    size = old.positions(0)[0].windows
    past = old.batch(0, 3 * size)
    segments_before = old.pins[0].eras[-1].segments
    more = jsonl("more.jsonl", [prose(s, 20) for s in range(500, 540)])
    prepare([more], path, append=True)

    pinned = TrainingData.open({path: 1.0}, context=16, seed=5, pins=old.pins)
    assert np.array_equal(pinned.batch(0, 3 * size), past)  # seen on disk, not yet visible
    extra = pinned.appended()
    assert extra.windows > 10
    assert segments_before == 1

    when = size + size // 2
    grown = pinned.adopt(when)
    assert grown.appended().windows == 0
    assert np.array_equal(grown.batch(0, when), past[:when])
    # the second pass: its first half as it was, then the other half and the new windows, mixed
    joined = grown.batch(size, size + extra.windows)
    once = TrainingData.open({path: 1.0}, context=16, seed=9)
    everything = once.batch(0, size + extra.windows)
    assert np.array_equal(np.sort(joined, axis=0), np.sort(everything, axis=0))
    assert sorted(map(tuple, joined)) == sorted(map(tuple, everything))
    here = grown.positions(when)[0]
    assert (here.turn, here.read, here.windows) == (2, size // 2, size + extra.windows)
    assert grown.adopt(when + 5).pins == grown.pins  # nothing more to adopt

    stored = [Pin.from_json(json.loads(json.dumps(pin.to_json()))) for pin in grown.pins]
    assert tuple(stored) == grown.pins
    again = TrainingData.open({path: 1.0}, context=16, seed=5, pins=stored)
    assert np.array_equal(again.batch(0, 4 * size), grown.batch(0, 4 * size))


def test_data_are_adopted_twice_and_in_a_mixture(
    tmp_path: Path, bpe: str, jsonl: Jsonl, raw: tuple[str, str]
) -> None:
    path = segments(tmp_path, bpe, jsonl, [50])
    sources = {path: 2.0, raw[1]: 1.0}
    data = TrainingData.open(sources, context=8, seed=1)
    past = data.batch(0, 1500)
    for number, when in enumerate((700, 1300)):
        more = jsonl(
            f"m{number}.jsonl", [prose(s, 20) for s in range(900 + 30 * number, 930 + 30 * number)]
        )
        prepare([more], path, append=True)
        data = TrainingData.open(sources, context=8, seed=1, pins=data.pins).adopt(when)
        assert np.array_equal(data.batch(0, when), past[:when])
        assert [len(pin.eras) for pin in data.pins] == [number + 2, 1]
        past = data.batch(0, 1500)
    assert data.adopt(5).pins == data.pins  # nothing new
    prepare([jsonl("last.jsonl", [prose(3000, 99)])], path, append=True)
    data = TrainingData.open(sources, context=8, seed=1, pins=data.pins)
    with pytest.raises(UserError, match=r"cannot become visible at sample 5, before the last"):
        data.adopt(5)


def test_pinned_data_may_move_but_not_change(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    path = segments(tmp_path, bpe, jsonl, [40])
    data = TrainingData.open({path: 1.0}, context=8, seed=1)
    read = data.batch(0, 50)
    moved = tmp_path / "elsewhere"
    Path(path).rename(moved)
    again = TrainingData.open({str(moved): 1.0}, context=8, seed=1, pins=data.pins)
    assert np.array_equal(again.batch(0, 50), read)
    assert again.pins[0].path == str(moved)
    other = jsonl("other.jsonl", [prose(s, 20) for s in range(70, 110)])
    prepare([other], path, tokenizer=bpe, shard_tokens=777)
    with pytest.raises(UserError, match=r"corpus was altered: its first 1 segments are not those"):
        TrainingData.open({path: 1.0}, context=8, seed=1, pins=data.pins)
    with pytest.raises(UserError, match=r"pinned with another context than 4; fork the run"):
        TrainingData.open({str(moved): 1.0}, context=4, seed=1, pins=data.pins)
    with pytest.raises(UserError, match=r"1 corpora of weights \[1.0\] are pinned, 1 of weights"):
        TrainingData.open({str(moved): 2.0}, context=8, seed=1, pins=data.pins)
    with pytest.raises(UserError, match=r"pinned data .* are damaged"):
        Pin.from_json({"path": "x"})


# --- validation ------------------------------------------------------------------------------


def test_validation_is_the_same_spread_windows(raw: tuple[str, str]) -> None:
    data = TrainingData.open({raw[0]: 1.0}, context=8, seed=1)
    found = data.validation(400)
    assert found.shape == (50, 9)
    assert (np.diff(found, axis=1) == 1).all()
    assert (found[:, 0] % 8 == 0).all()
    assert (np.diff(found[:, 0]) >= 8).all()  # no overlap
    assert found[-1, 0] > 900  # of 1001: to the end of the split
    other = TrainingData.open({raw[0]: 1.0}, context=8, seed=2)
    assert np.array_equal(other.validation(400), found)
    assert data.validation(10**9).shape == (125, 9)  # all there is
    assert data.validation(15).shape == (1, 9)


def test_validation_of_a_mixture_is_in_proportion(raw: tuple[str, str]) -> None:
    data = TrainingData.open({raw[0]: 3.0, raw[1]: 1.0}, context=8, seed=1)
    parts = data.validation_parts(80 * 8)
    assert {path: len(found) for path, found in parts.items()} == {raw[0]: 60, raw[1]: 20}
    assert np.array_equal(data.validation(80 * 8), np.concatenate(list(parts.values())))


def test_appending_leaves_validation_alone(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    path = segments(tmp_path, bpe, jsonl, [150])
    before = TrainingData.open({path: 1.0}, context=8, seed=1).validation(10**6)
    prepare([jsonl("m.jsonl", [prose(s, 20) for s in range(500, 700)])], path, append=True)
    data = TrainingData.open({path: 1.0}, context=8, seed=1)
    assert np.array_equal(data.validation(10**6), before)


def test_no_validation_says_what_to_do(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a", 0, 100)
    (tmp_path / "a/val.npy").unlink()
    data = TrainingData.open({path: 1.0}, context=8, seed=1)
    with pytest.raises(UserError, match=r"no validation sequence of 8 \+ 1 tokens \(.*: 0 tok"):
        data.validation(1000)
    with pytest.raises(UserError, match=r"validation on 7 tokens is less than one sequence of 8"):
        data.validation(7)


# --- refused ---------------------------------------------------------------------------------


def test_a_corpus_shorter_than_one_sequence(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a", 0, 100)
    assert TrainingData.open({path: 1.0}, context=99, seed=1).batch(0, 1).shape == (1, 100)
    with pytest.raises(UserError, match=r"a has 100 training tokens, less than one sequence"):
        TrainingData.open({path: 1.0}, context=100, seed=1)
    with pytest.raises(UserError, match=r"context 0: 1 token or more"):
        TrainingData.open({path: 1.0}, context=0, seed=1)
    with pytest.raises(UserError, match=r"no corpus"):
        TrainingData.open({}, context=8, seed=1)


def test_mixing_tokenizers_is_refused(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    source = jsonl("a.jsonl", [prose(seed, 30) for seed in range(30)])
    prepare([source], tmp_path / "a", tokenizer=bpe)
    prepare([source], tmp_path / "b", tokenizer="bpe:290")
    with pytest.raises(UserError, match=r"b was prepared with another tokenizer or end of text"):
        TrainingData.open({str(tmp_path / "a"): 1.0, str(tmp_path / "b"): 1.0}, context=8, seed=1)


def test_negative_tokens_are_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a", -50, 100, "int64")
    with pytest.raises(UserError, match=r"a: token -\d+ is negative"):
        TrainingData.open({path: 1.0}, context=8, seed=1).batch(0, 12)


def test_what_is_known_of_the_tokens(
    tmp_path: Path, bpe: str, jsonl: Jsonl, raw: tuple[str, str]
) -> None:
    path = segments(tmp_path, bpe, jsonl, [40])
    data = TrainingData.open({raw[0]: 1.0, path: 1.0}, context=8, seed=1)
    assert (data.vocab, data.eot, data.tokenizer) == (300, 0, Path(path) / "tokenizer.json")
    data = TrainingData.open({raw[0]: 1.0}, context=8, seed=1)
    assert (data.vocab, data.eot, data.tokenizer) == (None, None, None)


def test_reading_needs_neither_torch_nor_the_readers_of_sources() -> None:
    """In a fresh interpreter, as a status line would import it."""
    import subprocess

    script = (
        "import sys, anytrain.data; anytrain.data.TrainingData\n"
        "print([m for m in ('torch', 'pyarrow', 'tokenizers', 'tqdm') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
