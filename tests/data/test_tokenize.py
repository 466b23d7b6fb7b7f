"""`prepare`: what is written, what is left out, what is refused."""

import errno
import json
import sqlite3
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from texts import contents, prose
from tokenizers import Tokenizer

from anytrain.data import chunks, tokenize, writer
from anytrain.data.corpora import documents
from anytrain.data.journal import Journal
from anytrain.data.manifest import Manifest
from anytrain.data.tokenize import prepare
from anytrain.errors import UserError

Jsonl = Callable[..., Path]


def decoded(folder: Path, segment: int = 0) -> dict[str, list[str]]:
    """The documents of both splits, back from tokens through the index; each ends with eot."""
    manifest = Manifest.read(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = {}
    for split in ("train", "validation"):
        files = getattr(manifest.segments[segment], split)
        tokens = np.concatenate(
            [np.fromfile(folder / file.path, manifest.dtype) for file in files]
            or [np.empty(0, manifest.dtype)]
        )
        index = np.fromfile(folder / f"segment-{segment:04d}/{split}.index", "<u8").astype(int)
        pieces = [tokens[a:b] for a, b in pairwise(index)]
        assert index[-1] == len(tokens)
        assert all(piece[-1] == manifest.eot for piece in pieces)
        found[split] = [tokenizer.decode(piece[:-1]) for piece in pieces]
    return found


def test_documents_survive_the_round_trip(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    texts = [prose(seed, 30) for seed in range(300)]
    source = jsonl("a.jsonl", texts)
    done = prepare([source], tmp_path / "out", tokenizer=bpe, shard_tokens=1000)
    found = decoded(tmp_path / "out")
    assert sorted(found["train"] + found["validation"]) == sorted(texts)
    assert found["train"] == [text for text in texts if text in set(found["train"])]  # in order
    counts = done.segment.counts
    assert counts["train_documents"] == len(found["train"])
    assert counts["text_bytes"] == sum(len(text.encode()) for text in texts)
    sizes = [file.bytes for file in done.segment.train]
    assert len(sizes) > 5
    assert set(sizes[:-1]) == {2000}
    assert Path(bpe).read_bytes() == (tmp_path / "out/tokenizer.json").read_bytes()


def test_the_split_is_by_hash_at_the_share_asked(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    texts = [prose(seed, 5) for seed in range(1, 2000)]
    done = prepare([jsonl("a.jsonl", texts)], tmp_path / "out", tokenizer=bpe, validation=0.1)
    held = decoded(tmp_path / "out")["validation"]
    assert 150 < len(held) < 250  # 200 ± 13.4
    assert held == [text for text in texts if chunks.Text.of(text).draw < 0.1]
    assert done.manifest.validation == 0.1
    prepare([jsonl("b.jsonl", texts[::-1])], tmp_path / "b", tokenizer=bpe, validation=0.1)
    assert decoded(tmp_path / "b")["validation"] == held[::-1]


def test_the_first_document_is_never_held_out(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    """Or one unlucky file would leave nothing to train on."""
    text = next(t for t in (prose(s, 50) for s in range(999)) if chunks.Text.of(t).draw < 0.02)
    done = prepare([jsonl("a.jsonl", [text])], tmp_path / "out", tokenizer=bpe)
    counts = done.segment.counts
    assert counts["train_tokens"] > 10 * counts["validation_tokens"] > 0


def test_no_validation_when_none_is_asked(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    source = jsonl("a.jsonl", [prose(seed, 5) for seed in range(200)])
    done = prepare([source], tmp_path / "out", tokenizer=bpe, validation=0)
    assert done.segment.counts["validation_tokens"] == 0
    assert done.segment.validation == ()


def test_one_document_is_split_at_its_end(tmp_path: Path, bpe: str) -> None:
    """Hashes cannot split a single file: the end of its tokens is the validation split."""
    text = prose(1, 20000)
    (tmp_path / "book.txt").write_text(text)
    done = prepare(
        [tmp_path / "book.txt"], tmp_path / "out", tokenizer=bpe, validation=0.1, shard_tokens=4096
    )
    counts = done.segment.counts
    tokens = counts["train_tokens"] + counts["validation_tokens"]
    assert counts["validation_tokens"] == round(0.1 * tokens)
    folder = tmp_path / "out"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    split = {
        name: np.concatenate(
            [np.fromfile(folder / f.path, "<u2") for f in getattr(done.segment, name)]
        )
        for name in ("train", "validation")
    }
    joined = np.concatenate([split["train"], split["validation"]])
    assert tokenizer.decode(joined[:-1]) == text
    for name in split:
        index = np.fromfile(folder / f"segment-0000/{name}.index", "<u8")
        assert index.tolist() == [0, len(split[name])]


@pytest.mark.parametrize("share", [0.3, 0.45, 0.5, 0.7])
def test_the_tail_of_several_documents(tmp_path: Path, bpe: str, share: float) -> None:
    """Long documents, none held out by its hash: every cut keeps text, index and counts true."""
    texts = [t for t in (prose(s, 300) for s in range(60)) if chunks.Text.of(t).draw >= share][:4]
    for number, text in enumerate(texts):
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / f"{number}.txt").write_text(text)
    done = prepare([tmp_path / "src"], tmp_path / "out", tokenizer=bpe, validation=share)
    counts = done.segment.counts
    index = {
        s: np.fromfile(tmp_path / f"out/segment-0000/{s}.index", "<u8").tolist()
        for s in ("train", "validation")
    }
    for split, ends in index.items():
        assert ends == sorted(set(ends))  # no empty document
        assert len(ends) - 1 == counts[f"{split}_documents"]
        assert ends[-1] == counts[f"{split}_tokens"]
    tokens = counts["train_tokens"] + counts["validation_tokens"]
    assert counts["validation_tokens"] == round(share * tokens)
    assert counts["train_documents"] + counts["validation_documents"] == 5  # one is cut in two


def test_duplicates_and_empty_documents_are_left_out(
    tmp_path: Path, bpe: str, jsonl: Jsonl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_DOCUMENTS", 4)  # duplicates within and across chunks
    texts = ["a", "b", "a", "", "c", "b", "a", "", "d"]
    done = prepare([jsonl("a.jsonl", texts)], tmp_path / "out", tokenizer=bpe, validation=0)
    assert decoded(tmp_path / "out")["train"] == ["a", "b", "c", "d"]
    counts = done.segment.counts
    assert (counts["duplicates"], counts["empty"]) == (3, 2)


def test_chunks_do_not_show_in_the_result(
    tmp_path: Path, bpe: str, jsonl: Jsonl, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = jsonl("a.jsonl", [prose(seed, 20) for seed in range(200)])
    prepare([source], tmp_path / "one", tokenizer=bpe)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1000)
    prepare([source], tmp_path / "two", tokenizer=bpe)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_special_tokens_are_not_made_from_text(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    text = "an <|endoftext|> inside"
    prepare([jsonl("a.jsonl", [text])], tmp_path / "out", tokenizer=bpe, validation=0)
    assert decoded(tmp_path / "out")["train"] == [text]
    tokens = np.fromfile(tmp_path / "out/segment-0000/train-00000.bin", "<u2")
    assert np.flatnonzero(tokens == 0).tolist() == [len(tokens) - 1]


def test_what_is_not_utf8_is_counted_and_listed(tmp_path: Path, bpe: str) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.txt").write_text("good")
    (source / "b.txt").write_bytes(b"\xe9")
    (source / "c.bin").write_bytes(b"\0\1")
    prepare([source], tmp_path / "out", tokenizer=bpe, validation=0)
    assert Manifest.read(tmp_path / "out").segments[0].skipped == {
        "not UTF-8": (f"{source}/b.txt",),
        "binary": (f"{source}/c.bin",),
    }


# --- tokenizers ------------------------------------------------------------------------------


def test_a_bpe_is_trained_and_is_the_same_each_time(tmp_path: Path, jsonl: Jsonl) -> None:
    source = jsonl("a.jsonl", [prose(seed, 100) for seed in range(50)])
    done = prepare([source], tmp_path / "a", tokenizer="bpe:280")
    prepare([source], tmp_path / "b", tokenizer="bpe:280")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (done.manifest.vocab, done.manifest.eot, done.manifest.dtype) == (280, 0, "uint16")
    config = json.loads((tmp_path / "a/tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|endoftext|>"


def test_the_sample_is_bounded_and_spread(tmp_path: Path, jsonl: Jsonl) -> None:
    texts = [prose(seed, 100) for seed in range(400)]
    source = str(jsonl("a.jsonl", texts))
    total = sum(len(text.encode()) for text in texts)
    taken = list(chunks.sample([source], chunks.Reading("text"), total // 4, total))
    assert 0.15 * total < sum(len(text.encode()) for text in taken) <= total // 4
    places = [texts.index(text) for text in taken]
    assert places[0] < 40
    assert places[-1] > 300
    assert list(chunks.sample([source], chunks.Reading("text"), 10 * total, total)) == texts


def saved(folder: Path, token: str, config: dict[str, object] | None = None) -> Path:
    """A Hugging Face directory whose tokenizer has one special token."""
    from tokenizers import models, pre_tokenizers

    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens([token])
    made.enable_truncation(4)
    made.enable_padding(length=8)
    made.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("token", "config", "flag"),
    [
        ("</s>", None, None),
        ("<|end_of_text|>", None, None),
        ("[END]", {"eos_token": "[END]"}, None),
        ("[END]", {"eos_token": {"content": "[END]"}}, None),
        ("[END]", None, "[END]"),
    ],
)
def test_a_hugging_face_directory_and_its_end_of_text(
    tmp_path: Path, jsonl: Jsonl, token: str, config: dict[str, object] | None, flag: str | None
) -> None:
    """Truncation and padding that the file asks for are for other uses than this."""
    folder = saved(tmp_path / "hf", token, config)
    done = prepare(
        [jsonl("a.jsonl", ["longer than four", "ab"])],
        tmp_path / "out", tokenizer=str(folder), eot=flag, validation=0,
    )  # fmt: skip
    tokens = np.fromfile(tmp_path / "out/segment-0000/train-00000.bin", "<u2")
    assert (done.manifest.eot, done.manifest.eot_token, done.manifest.vocab) == (256, token, 257)
    assert len(tokens) == len("longer than four") + 1 + len("ab") + 1
    assert (tmp_path / "out/tokenizer_config.json").is_file() == (config is not None)


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, jsonl: Jsonl) -> None:
    from tokenizers import models, pre_tokenizers

    words = {f"w{n}": n for n in range(70000)} | {"</s>": 70000}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "words.json"))
    source = jsonl("a.jsonl", ["w1 w69999 w65536"])
    arguments = {"tokenizer": str(tmp_path / "words.json"), "validation": 0}
    done = prepare([source], tmp_path / "out", **arguments)
    assert done.manifest.dtype == "uint32"
    tokens = np.fromfile(tmp_path / "out/segment-0000/train-00000.bin", "<u4")
    assert tokens.tolist() == [1, 69999, 65536, 70000]
    with pytest.raises(UserError, match=r"--dtype uint16 holds 65536 tokens, the voc.* is 70001"):
        prepare([source], tmp_path / "forced", dtype="uint16", **arguments)
    assert not (tmp_path / "forced").exists()


# --- again, and with more --------------------------------------------------------------------


def test_again_says_it_is_there_and_other_arguments_are_refused(
    tmp_path: Path, bpe: str, jsonl: Jsonl
) -> None:
    source = jsonl("a.jsonl", ["one", "two"])
    prepare([source], tmp_path / "out", tokenizer=bpe)
    before = contents(tmp_path / "out")
    assert prepare([source], tmp_path / "out", tokenizer=bpe).outcome == "already there"
    with pytest.raises(UserError, match=r"begun with --validation 0.02, now it is 0.5"):
        prepare([source], tmp_path / "out", tokenizer=bpe, validation=0.5)
    with pytest.raises(UserError, match=r"begun with --tokenizer sha256:\w+, now it is bpe:300"):
        prepare([source], tmp_path / "out", tokenizer="bpe:300")
    with pytest.raises(UserError, match=r"begun with SRC .*a.jsonl, now it is stdlib"):
        prepare(["stdlib"], tmp_path / "out", tokenizer=bpe)
    jsonl("a.jsonl", ["one", "two", "three"])
    with pytest.raises(UserError, match=r"sources have changed since; add .* with --append"):
        prepare([source], tmp_path / "out", tokenizer=bpe)
    assert contents(tmp_path / "out") == before


def test_appending_adds_a_segment_and_changes_nothing_old(
    tmp_path: Path, bpe: str, jsonl: Jsonl
) -> None:
    old = [prose(seed, 20) for seed in range(300)]
    new = [prose(seed, 20) for seed in range(250, 600)]
    prepare([jsonl("a.jsonl", old)], tmp_path / "out", tokenizer=bpe, validation=0.1)
    before = contents(tmp_path / "out")
    done = prepare([jsonl("b.jsonl", new)], tmp_path / "out", append=True)
    after = contents(tmp_path / "out")
    assert {k: v for k, v in after.items() if k in before} == before | {
        "manifest.json": after["manifest.json"]
    }
    added = [text for text in new[50:] if chunks.Text.of(text).draw >= 0.1]
    assert decoded(tmp_path / "out", 1) == {"train": added, "validation": []}
    assert done.outcome == "appended"
    assert done.segment.counts["duplicates"] == 50
    assert done.segment.counts["held_out"] == 300 - len(added)
    segments = json.loads(after["manifest.json"])["segments"]
    assert segments[0] == json.loads(before["manifest.json"])["segments"][0]
    assert len(segments) == 2


def test_appending_what_is_there_adds_nothing(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    source = jsonl("a.jsonl", [prose(seed, 9) for seed in range(30)])
    prepare([source], tmp_path / "out", tokenizer=bpe)
    before = contents(tmp_path / "out")
    done = prepare([source], tmp_path / "out", append=True, tokenizer=bpe)
    assert done.outcome == "nothing new"
    assert done.segment.counts["duplicates"] == 30
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "out/segment-0001").exists()
    more = prepare([jsonl("b.jsonl", ["fresh"])], tmp_path / "out", append=True, text_field="text")
    assert more.outcome == "appended"
    assert decoded(tmp_path / "out", 1)["train"] == ["fresh"]


def test_appending_keeps_the_corpus_settings(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    source = jsonl("a.jsonl", ["one", "two"])
    with pytest.raises(UserError, match=r"out is no finished corpus: run prepare without --append"):
        prepare([source], tmp_path / "out", append=True)
    prepare([source], tmp_path / "out", tokenizer=bpe)
    for other, sentence in (
        ({"validation": 0.5}, r"--validation 0.5: .* has 0.02, and appending keeps it"),
        ({"dtype": "uint32"}, r"--dtype uint32: .* has uint16, and appending keeps it"),
        ({"eot": "x"}, r"--eot x: .* has <\|endoftext\|>, and appending keeps it"),
        ({"tokenizer": "bpe:999"}, r"--tokenizer bpe:999 is not the one .* prepared with"),
    ):
        with pytest.raises(UserError, match=sentence):
            prepare([source], tmp_path / "out", append=True, **other)


# --- refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tokenizer": None}, r"no --tokenizer: name a"),
        (
            {"tokenizer": "bpe:100"},
            r"tokenizer 'bpe:100': bpe:N needs a vocabulary N of 257 or more",
        ),
        ({"tokenizer": "bpe:many"}, r"'bpe:many': bpe:N needs"),
        ({"tokenizer": "/nowhere.json"}, r"tokenizer '/nowhere.json': no such file; valid are"),
        ({"eot": "<none>"}, r"--eot '<none>' is not in the vocabulary \(special tokens there: <\|"),
        ({"validation": 1.0}, r"--validation 1.0: a share from 0 to below 1 is valid"),
        ({"shard_tokens": 0}, r"--shard-tokens 0: 1 or more is valid"),
        ({"dtype": "int8"}, r"--dtype 'int8': one of uint16, uint32"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(
    tmp_path: Path, bpe: str, jsonl: Jsonl, arguments: dict[str, object], sentence: str
) -> None:
    source = jsonl("a.jsonl", ["text"])
    with pytest.raises(UserError, match=sentence):
        prepare([source], tmp_path / "out", **{"tokenizer": bpe, **arguments})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_file_that_is_none(tmp_path: Path, jsonl: Jsonl) -> None:
    (tmp_path / "t.json").write_text('{"model": 3}')
    source = jsonl("a.jsonl", ["text"])
    with pytest.raises(UserError, match=r"t.json is no tokenizers JSON file"):
        prepare([source], tmp_path / "out", tokenizer=str(tmp_path / "t.json"))
    folder = saved(tmp_path / "hf", "[SEP]")
    with pytest.raises(UserError, match=r"no end-of-text token .* name one with --eot TOKEN .*SEP"):
        prepare([source], tmp_path / "out", tokenizer=str(folder))


@pytest.mark.parametrize("tokenizer", ["file", "bpe:300"])
def test_a_corpus_without_text_leaves_nothing_behind(
    tmp_path: Path, bpe: str, tokenizer: str
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/x.bin").write_bytes(b"\0")
    (tmp_path / "src/empty.txt").write_text("")
    with pytest.raises(UserError, match=r"src: no text in 2 files \(1 binary: .*x.bin"):
        prepare(
            [tmp_path / "src"],
            tmp_path / "out",
            tokenizer=bpe if tokenizer == "file" else tokenizer,
        )
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no source"):
        prepare([], tmp_path / "out", tokenizer=bpe)


def test_a_bad_line_at_once_leaves_nothing_and_later_can_be_mended(
    tmp_path: Path, bpe: str, jsonl: Jsonl, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [prose(seed, 9) for seed in range(50)]
    source = jsonl("a.jsonl", texts)
    prepare([source], tmp_path / "right", tokenizer=bpe)
    good = source.read_text()
    source.write_text("{\n" + good)
    with pytest.raises(UserError, match=r"a.jsonl, line 1 is not JSON"):
        prepare([source], tmp_path / "out", tokenizer=bpe)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(chunks, "CHUNK_DOCUMENTS", 10)
    source.write_text(good + "{\n")
    with pytest.raises(UserError, match=r"a.jsonl, line 51 is not JSON"):
        prepare([source], tmp_path / "out", tokenizer=bpe)
    assert not (tmp_path / "out/manifest.json").exists()
    source.write_text(good)
    prepare([source], tmp_path / "out", tokenizer=bpe)
    assert contents(tmp_path / "out") == contents(tmp_path / "right")


def test_a_failed_append_leaves_the_corpus_as_it_was(
    tmp_path: Path, bpe: str, jsonl: Jsonl
) -> None:
    prepare([jsonl("a.jsonl", ["one", "two"])], tmp_path / "out", tokenizer=bpe)
    before = contents(tmp_path / "out")
    (tmp_path / "bad.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match="line 1 is a list"):
        prepare([tmp_path / "bad.jsonl"], tmp_path / "out", append=True)
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "out/segment-0001").exists()
    assert prepare([jsonl("b.jsonl", ["3"])], tmp_path / "out", append=True).outcome == "appended"


def test_sources_that_changed_under_an_interrupted_run(
    tmp_path: Path, bpe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for number in range(9):
        (source / f"{number}.txt").write_text(prose(number, 9))
    monkeypatch.setattr(chunks, "CHUNK_DOCUMENTS", 2)
    (source / "9.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match="line 1 is a list"):
        prepare([source], tmp_path / "out", tokenizer=bpe)
    (source / "9.jsonl").unlink()
    (source / "3.txt").write_text("other")
    with pytest.raises(UserError, match=r"the sources changed: the first \d files are no longer"):
        prepare([source], tmp_path / "out", tokenizer=bpe)
    with pytest.raises(UserError, match=r"begun with --text-field text, now it is body"):
        prepare([source], tmp_path / "out", tokenizer=bpe, text_field="body")


@pytest.mark.parametrize("full_at", ["shard", "journal"])
def test_a_full_disk_is_said_and_the_work_goes_on_later(
    tmp_path: Path, bpe: str, jsonl: Jsonl, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    source = jsonl("a.jsonl", [prose(seed, 20) for seed in range(100)])
    prepare([source], tmp_path / "right", tokenizer=bpe)
    monkeypatch.setattr(chunks, "CHUNK_DOCUMENTS", 10)
    write, commit, calls = writer._write, Journal.commit, iter(range(100))

    def torn(file, data: bytes) -> None:  # type: ignore[no-untyped-def]
        if next(calls) == 9:
            write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    def full(self: Journal) -> None:
        if next(calls) == 5:
            raise sqlite3.OperationalError("database or disk is full")
        commit(self)

    with monkeypatch.context() as patch:
        if full_at == "shard":
            patch.setattr(writer, "_write", torn)
        else:
            patch.setattr(Journal, "commit", full)
        with pytest.raises(UserError, match=r"out: the disk is full; make room and run the same"):
            prepare([source], tmp_path / "out", tokenizer=bpe)
    assert not (tmp_path / "out/manifest.json").exists()
    prepare([source], tmp_path / "out", tokenizer=bpe)
    assert contents(tmp_path / "out") == contents(tmp_path / "right")


def test_directories_that_are_not_ours(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    source = jsonl("a.jsonl", ["one"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("…")
    with pytest.raises(UserError, match=r"mine is not empty and was not made by prepare"):
        prepare([source], tmp_path / "mine", tokenizer=bpe)
    with pytest.raises(UserError, match=r"a.jsonl is a file; --out needs a directory"):
        prepare([source], source, tokenizer=bpe)
    assert (tmp_path / "mine/thesis.tex").read_text() == "…"


def test_a_corpus_is_no_source_and_a_tokenizer_may_fail(
    tmp_path: Path, bpe: str, jsonl: Jsonl
) -> None:
    from tokenizers import models

    source = jsonl("a.jsonl", ["one"])
    prepare([source], tmp_path / "out", tokenizer=bpe)
    with pytest.raises(UserError, match=r"out is a prepared corpus, not a source of text"):
        prepare([tmp_path / "out"], tmp_path / "two", tokenizer=bpe)
    Tokenizer(models.WordLevel({"</s>": 0}, unk_token="none")).save(str(tmp_path / "w.json"))
    with pytest.raises(UserError, match=r"the tokenizer cannot encode a document: "):
        prepare([source], tmp_path / "two", tokenizer=str(tmp_path / "w.json"))
    assert not (tmp_path / "two").exists()


def test_two_at_once_are_refused(tmp_path: Path, bpe: str, jsonl: Jsonl) -> None:
    source = jsonl("a.jsonl", ["one"])
    prepare([source], tmp_path / "out", tokenizer=bpe)
    journal = Journal(tmp_path / "out")
    try:
        with pytest.raises(UserError, match=r"out is being written by another prepare"):
            prepare([source], tmp_path / "out", tokenizer=bpe)
    finally:
        journal.close()
    (tmp_path / "out/journal.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match=r"journal.sqlite is damaged"):
        prepare([source], tmp_path / "out", tokenizer=bpe)


def test_the_corpus_may_lie_inside_its_source(tmp_path: Path, bpe: str) -> None:
    (tmp_path / "a.txt").write_text("a text")
    prepare([tmp_path], tmp_path / "data/out", tokenizer=bpe, validation=0)
    assert prepare([tmp_path], tmp_path / "data/out", tokenizer=bpe, validation=0).outcome == (
        "already there"
    )
    assert [d.text for d in documents(tmp_path)] == ["a text"]
    assert tokenize.Manifest.read(tmp_path / "data/out").segments[0].counts["train_documents"] == 1
