"""Opening corpora: ours, nanoGPT's and NumPy's; and everything that can be wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from texts import prose

from anytrain.data import shards
from anytrain.data.shards import Corpus, TokenArray
from anytrain.data.tokenize import prepare
from anytrain.errors import UserError

Jsonl = Callable[..., Path]


@pytest.fixture
def corpus(tmp_path: Path, bpe: str, jsonl: Jsonl) -> Path:
    """Two segments in shards of 1000 tokens."""
    out = tmp_path / "corpus"
    first = jsonl("a.jsonl", [prose(seed, 20) for seed in range(200)])
    prepare([first], out, tokenizer=bpe, validation=0.1, shard_tokens=1000)
    prepare([jsonl("b.jsonl", [prose(seed, 20) for seed in range(200, 260)])], out, append=True)
    return out


def test_shards_read_as_one_array(corpus: Path) -> None:
    opened = Corpus.open(corpus, verify="hashes")
    files = [np.fromfile(path, "<u2") for path in sorted(corpus.glob("segment-*/train-*.bin"))]
    whole = np.concatenate(files)
    assert len(opened.train) == len(whole)
    assert len(files) > 4
    assert opened.segment_starts.tolist() == [0, opened.segments[0].tokens]
    starts = np.arange(0, len(whole) - 2500, 37)
    found = opened.train.windows(starts, 2500)  # over up to four shards
    assert (found == np.lib.stride_tricks.sliding_window_view(whole, 2500)[starts]).all()
    held = np.fromfile(next(corpus.glob("segment-0000/validation-*.bin")), "<u2")
    assert len(opened.validation) >= len(held)
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert (opened.vocab, opened.eot) == (manifest["vocab"], manifest["eot"])
    assert opened.tokenizer == corpus / "tokenizer.json"


def test_few_files_are_held_open(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_OPEN_FILES", 2)
    train = Corpus.open(corpus).train
    assert len(train.windows(np.arange(0, len(train) - 10, 100), 10))
    assert len(train._maps) == 2


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes())


@pytest.mark.parametrize("open_files", [2, 256])
@pytest.mark.parametrize("change", [rewritten, Path.unlink])
def test_a_shard_that_changes_while_it_is_read(
    change: Callable[[Path], Any], open_files: int, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noticed when asked for, or when the file is closed; a file not read may change."""
    monkeypatch.setattr(shards, "_OPEN_FILES", open_files)
    train = Corpus.open(corpus).train
    train.windows(np.array([0, 1000]), 10)
    first, *_, last = [file.path for file in train.files]
    rewritten(last)
    train.check()
    change(first)
    with pytest.raises(UserError, match="was changed while it was read"):
        train.check() if open_files > 2 else train.windows(np.array([2000, 3000]), 10)


def test_identities(corpus: Path) -> None:
    """By segment and by everything seen: appending leaves the first segment's as it was."""
    opened = Corpus.open(corpus)
    assert opened.identity(1) != opened.identity(2)
    assert Corpus.open(corpus).identity(1) == opened.identity(1)


def tamper(corpus: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads((corpus / "manifest.json").read_text())
    change(record)
    (corpus / "manifest.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(version=9), r"manifest.json: format 'anytrain-corpus' version 9; this"),
        (lambda m: m.update(format="x"), r"manifest.json: format 'x'"),
        (lambda m: m.update(dtype="int8"), r"dtype is 'int8'; uint16, uint32 is valid"),
        (lambda m: m.pop("vocab"), r"manifest.json is damaged: vocab is missing"),
        (lambda m: m.update(segments=[]), r"manifest.json is damaged: it lists no segment"),
        (lambda m: m.update(segments=[3]), r"manifest.json is damaged: segments.0 is 3"),
        (
            lambda m: m["segments"][0]["train"][0].update(path="../secret"),
            r"names '../secret', which lies outside the corpus",
        ),
        (
            lambda m: m["segments"][0]["train"][0].update(path="/etc/passwd"),
            r"names '/etc/passwd', which lies outside",
        ),
        (lambda m: m["segments"][0]["train"][0].update(bytes=3), r"of 3 bytes is no uint16"),
        (
            lambda m: m["segments"][0]["train"][0].update(path="gone.bin"),
            r"gone.bin is missing; .*manifest.json lists it",
        ),
    ],
)
def test_manifests_that_are_wrong(
    corpus: Path, change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    tamper(corpus, change)
    with pytest.raises(UserError, match=sentence):
        Corpus.open(corpus)


def test_a_manifest_that_is_no_json(corpus: Path) -> None:
    (corpus / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        Corpus.open(corpus)
    (corpus / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"preparation is not finished; run the same"):
        Corpus.open(corpus)


def test_truncated_and_altered_shards(corpus: Path) -> None:
    shard = corpus / "segment-0000/train-00001.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-2])
    with pytest.raises(UserError, match=r"train-00001.bin was truncated: it has 1998 bytes"):
        Corpus.open(corpus)
    shard.write_bytes(data + b"\0\0")
    with pytest.raises(UserError, match=r"train-00001.bin was altered: it has 2002 bytes"):
        Corpus.open(corpus, verify="sizes")
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"train-00001.bin was altered: its sha256 is not"):
        Corpus.open(corpus)
    assert Corpus.open(corpus, verify="sizes")


def test_a_large_corpus_is_not_hashed_unless_asked(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "HASHED", 10)
    shard = corpus / "segment-0000/train-00000.bin"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    assert Corpus.open(corpus)
    with pytest.raises(UserError, match="was altered"):
        Corpus.open(corpus, verify="hashes")


def test_a_tokenizer_that_is_not_the_corpus_s(corpus: Path) -> None:
    (corpus / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer.json is not the tokenizer that the corpus"):
        Corpus.open(corpus)
    (corpus / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json is missing"):
        Corpus.open(corpus)


def test_nanogpt_files_in_place(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 50257, 5000).astype("<u2")
    tokens[:4000].tofile(tmp_path / "train.bin")
    tokens[4000:].tofile(tmp_path / "val.bin")
    (tmp_path / "meta.pkl").write_bytes(b"never read")
    opened = Corpus.open(tmp_path)
    assert (opened.train.windows(np.array([7]), 100)[0] == tokens[7:107]).all()
    assert (opened.validation.windows(np.array([0]), 1000)[0] == tokens[4000:]).all()
    assert (opened.vocab, opened.eot, opened.tokenizer) == (None, None, None)
    before = opened.identity(1)
    with (tmp_path / "train.bin").open("r+b") as file:
        file.seek(3000)
        file.write(b"\xff\xff")
    assert Corpus.open(tmp_path).identity(1) != before


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "int64", ">u2", ">i8"])
def test_numpy_files_in_place(tmp_path: Path, dtype: str) -> None:
    tokens = np.arange(3000).astype(dtype)
    np.save(tmp_path / "train.npy", tokens)
    opened = Corpus.open(tmp_path)
    assert (opened.train.windows(np.array([1, 2000]), 900)[1] == np.arange(2000, 2900)).all()
    assert len(opened.validation) == 0


def test_raw_files_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no corpus: it holds no manifest.json, train.bin or"):
        Corpus.open(tmp_path)
    with pytest.raises(UserError, match=r"nowhere: no such corpus; make one with `anytrain prep"):
        Corpus.open(tmp_path / "nowhere")
    np.save(tmp_path / "train.npy", np.zeros((3, 4), np.uint16))
    with pytest.raises(UserError, match=r"train.npy holds uint16 of shape \(3, 4\); one axis of"):
        Corpus.open(tmp_path)
    np.save(tmp_path / "train.npy", np.zeros(5, np.float32))
    with pytest.raises(UserError, match=r"train.npy holds float32"):
        Corpus.open(tmp_path)
    np.save(tmp_path / "train.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"train.npy is no NumPy file, or truncated"):
        Corpus.open(tmp_path)
    np.save(tmp_path / "train.npy", np.zeros(500, np.uint16))
    (tmp_path / "train.npy").write_bytes((tmp_path / "train.npy").read_bytes()[:-2])
    with pytest.raises(UserError, match=r"train.npy is no NumPy file, or truncated"):
        Corpus.open(tmp_path)
    (tmp_path / "train.bin").write_bytes(b"123")
    with pytest.raises(UserError, match=r"train.bin was truncated: 3 bytes"):
        Corpus.open(tmp_path)
    np.array([20240520, 1, 100], "<i4").tofile(tmp_path / "train.bin")
    with pytest.raises(UserError, match=r"train.bin has the header of llm.c"):
        Corpus.open(tmp_path)


def test_an_empty_array_has_no_tokens() -> None:
    assert len(TokenArray([])) == 0
