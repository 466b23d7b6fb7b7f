"""Token files of Megatron, OLMo, nanoGPT and MosaicML, written byte by byte, become a corpus."""

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anytrain.data import ids as id_files
from anytrain.data.manifest import Manifest
from anytrain.data.shards import Corpus
from anytrain.data.stream import TrainingData
from anytrain.data.tokenize import Prepared, prepare
from anytrain.errors import UserError
from tiny import cli, write_recipe
from token_files import array, mds, megatron

EOT = 7
DOCUMENTS = [[1, 2, 3], [4], [5, 6, 1, 2], [290, 3, 3, 3, 3]]


def made(source: Path, out: Path, ids: str = "auto", **options: Any) -> Prepared:
    given = {"tokenizer": "ids:300", "eot": str(EOT), "validation": 0.0} | options
    return prepare([source], out, ids=ids, **given)


def back(folder: Path) -> list[list[int]]:
    """The training documents of a corpus, by its index."""
    corpus, manifest = Corpus.open(folder, "hashes"), Manifest.read(folder)
    found = []
    for segment, start in zip(manifest.segments, corpus.segment_starts, strict=True):
        index = np.fromfile(folder / segment.index[0].path, "<u8").astype(np.int64)
        for a, b in pairwise(index):
            found.append(corpus.train.windows(np.array([start + a]), b - a)[0].tolist())
    return found


ENDED = [[*document, EOT] for document in DOCUMENTS]


# --- Megatron --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint16"])
@pytest.mark.parametrize("named", [".idx", ".bin"])
def test_megatron(dtype: str, named: str, tmp_path: Path) -> None:
    sequences = [[DOCUMENTS[0][:2], DOCUMENTS[0][2:]], *([d] for d in DOCUMENTS[1:])]
    megatron(tmp_path / "a", sequences, dtype)
    done = made((tmp_path / "a").with_suffix(named), tmp_path / "out")
    assert back(tmp_path / "out") == ENDED
    assert (done.manifest.vocab, done.manifest.eot, done.manifest.dtype) == (300, EOT, "uint16")
    assert done.segment.counts["train_documents"] == 4


def test_an_end_that_is_there_is_not_added_again(tmp_path: Path) -> None:
    made(megatron(tmp_path / "a", [[d] for d in ENDED]), tmp_path / "out")
    assert back(tmp_path / "out") == ENDED


def test_a_folder_holds_several_and_says_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    megatron(tmp_path / "in" / "b", [[DOCUMENTS[0]]])
    megatron(tmp_path / "in" / "deep" / "a", [[DOCUMENTS[1]]])
    np.save(tmp_path / "in" / "c.npy", np.array(DOCUMENTS[2], "int32"))
    (tmp_path / "in" / "readme.txt").touch()
    done = made(tmp_path / "in", tmp_path / "out")
    assert back(tmp_path / "out") == [ENDED[0], ENDED[2], ENDED[1]]
    assert done.segment.skipped == {"no token file": (f"{tmp_path}/in/readme.txt",)}


def damaged(path: Path, at: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


def test_a_damaged_index_is_a_sentence(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            made(tmp_path / "a.idx", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        megatron(tmp_path / "a", [[d] for d in DOCUMENTS])

    megatron(tmp_path / "a", [[d] for d in DOCUMENTS])
    damaged(tmp_path / "a.idx", 0, b"TNTIDX\0\0")
    refused("a.idx is no index of Megatron: it begins b'TNTIDX")
    damaged(tmp_path / "a.idx", 9, struct.pack("<Q", 2))
    refused("version 2 of Megatron's index; 1 is valid")
    damaged(tmp_path / "a.idx", 17, b"\x06")
    refused("type 6 of Megatron's; 1, 2, 3, 4, 5, 8 are valid")
    content = (tmp_path / "a.idx").read_bytes()
    for length in (0, 8, 20, len(content) - 1):
        (tmp_path / "a.idx").write_bytes(content[:length])
        refused("is truncated: it has|is no index of Megatron")
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.bin").read_bytes()[:-2])
    refused(r"a.bin is truncated: it has 24 bytes of 26")
    (tmp_path / "a.bin").unlink()
    refused("a.bin is missing; .*a.idx is its index")
    damaged(tmp_path / "a.idx", 34 + 12 * 4, struct.pack("<q", 3))
    refused("its documents are not its sequences in order")
    damaged(tmp_path / "a.idx", 34, struct.pack("<i", -1))
    refused("a sequence of a length or place below 0")
    damaged(tmp_path / "a.idx", 18, struct.pack("<Q", 2**60))
    refused("is truncated: it has")


# --- NumPy and files without a header --------------------------------------------------------


@pytest.mark.parametrize("dtype", id_files.TYPES)
@pytest.mark.parametrize("name", ["train.bin", "part-0-00000.npy"])
def test_without_a_header(dtype: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(np.concatenate(ENDED).astype(dtype).tobytes())
    with pytest.raises(UserError, match=f"{name} has no header .*--ids uint16, uint32, int32"):
        made(file, tmp_path / "out")
    made(file, tmp_path / "out", dtype)
    assert back(tmp_path / "out") == ENDED


def test_numpys_own_format_says_its_type(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.concatenate(ENDED).astype("uint32")[:-1])  # the last has no end
    made(tmp_path / "a.npy", tmp_path / "out", "uint16")
    assert back(tmp_path / "out") == ENDED
    np.save(tmp_path / "b.npy", np.ones((2, 2)))
    with pytest.raises(UserError, match=r"b.npy holds float64 of shape \(2, 2\); one axis"):
        made(tmp_path / "b.npy", tmp_path / "other")


def test_a_file_that_ends_inside_an_id(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\1\0\2")
    with pytest.raises(UserError, match=r"a.bin was truncated, or holds no uint16: 3 bytes"):
        made(tmp_path / "a.bin", tmp_path / "out", "uint16")


@pytest.mark.parametrize(("magic", "dtype"), [(20240520, "<u2"), (20240801, "<u4")])
def test_llmc(magic: int, dtype: str, tmp_path: Path) -> None:
    head = np.zeros(256, "<i4")
    ids = np.concatenate(ENDED).astype(dtype)
    head[:3] = magic, 1, len(ids)
    file = tmp_path / "fineweb_train_000001.bin"
    file.write_bytes(head.tobytes() + ids.tobytes())
    made(file, tmp_path / "out")
    assert back(tmp_path / "out") == ENDED
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"is truncated or damaged: \d+ bytes with 17 ids"):
        made(file, tmp_path / "other")
    file.write_bytes(head.tobytes()[:100])
    with pytest.raises(UserError, match=r"is truncated: it has 100 bytes of 1024"):
        made(file, tmp_path / "other")
    head[1] = 2
    file.write_bytes(head.tobytes() + ids.tobytes())
    with pytest.raises(UserError, match=r"version 2 of llm.c's tokens; 1 is valid"):
        made(file, tmp_path / "other")


@pytest.mark.parametrize("eot", [None, EOT])
def test_long_documents_come_in_parts(
    eot: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_files, "LONGEST", 8)
    stream = [*range(20, 39), EOT, 1, 2, EOT, *range(50, 60)]
    (tmp_path / "a.bin").write_bytes(np.array(stream, "<u2").tobytes())
    options = {} if eot else {"eot": None}
    done = made(tmp_path / "a.bin", tmp_path / "out", "uint16", **options)
    whole = [token for document in back(tmp_path / "out") for token in document]
    assert whole == (stream if eot is None else [*stream, EOT])
    assert done.manifest.eot == eot
    assert max(map(len, back(tmp_path / "out"))) <= 9  # a part and the end added to the last


# --- MosaicML --------------------------------------------------------------------------------

FORMS: dict[str, tuple[dict[str, str], Any, str]] = {
    "ndarray": ({"id": "int", "tokens": "ndarray"}, array, "auto"),
    "ndarray:uint16": ({"id": "int", "tokens": "ndarray:uint16"},
                       lambda d: array(d)[1:], "auto"),
    "bytes": ({"id": "int", "tokens": "bytes"}, lambda d: np.array(d, "<i8").tobytes(), "int64"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compression", [None, "zstd", "zstd:7"])
def test_mds(form: str, compression: str | None, tmp_path: Path) -> None:
    columns, encode, ids = FORMS[form]
    samples = [[np.int64(i).tobytes(), encode(d)] for i, d in enumerate(DOCUMENTS)]
    folder = mds(tmp_path / "a", [samples[:3], samples[3:]], columns, [8, None], compression)
    made(folder, tmp_path / "out", ids)
    assert back(tmp_path / "out") == ENDED


def test_mds_of_arrays_of_one_shape(tmp_path: Path) -> None:
    rows = [[np.array(d, "<i4").tobytes()] for d in ([1, 2, 3], [4, 5, 6])]
    folder = mds(tmp_path / "a", [rows], {"tokens": "ndarray:int32:3"}, [12])
    made(folder, tmp_path / "out")
    assert back(tmp_path / "out") == [[1, 2, 3, EOT], [4, 5, 6, EOT]]


def test_mds_of_text_is_text(tmp_path: Path, bpe: str) -> None:
    texts = ["some words", "others, ö"]
    folder = mds(tmp_path / "a", [[[t.encode()] for t in texts]], {"text": "str"}, [None], "zstd")
    done = prepare([folder], tmp_path / "out", tokenizer=bpe, validation=0.0)
    assert done.segment.counts["text_bytes"] == sum(len(t.encode()) for t in texts)


def test_a_damaged_data_set_is_a_sentence(tmp_path: Path, bpe: str) -> None:
    rows = [[array(d)] for d in DOCUMENTS]

    def refused(match: str, number: int, ids: str = "auto", **options: Any) -> None:
        with pytest.raises(UserError, match=match):
            made(tmp_path / f"a{number}", tmp_path / "out", ids, **options)
        assert not (tmp_path / "out").exists()

    def folder(number: int, encoding: str = "ndarray", compression: str | None = None) -> Path:
        return mds(tmp_path / f"a{number}", [rows], {"tokens": encoding}, [None], compression)

    (folder(0) / "shard.00000.mds").write_bytes(b"")
    refused("shard.00000.mds is truncated: it has 0 bytes of", 0)
    (folder(1) / "shard.00000.mds").unlink()
    refused("shard.00000.mds is missing; .*index.json lists it", 1)
    damaged(folder(2, compression="zstd") / "shard.00000.mds.zstd", 20, b"\xff" * 8)
    refused("shard.00000.mds.zstd is damaged", 2)
    folder(3)
    refused("has no column 'input_ids'; columns there: tokens", 3, text_field="input_ids")
    damaged(folder(4) / "shard.00000.mds", 0, struct.pack("<I", 9))
    refused("it has 9 samples, index.json says 4", 4)
    damaged(folder(5) / "shard.00000.mds", 8, struct.pack("<I", 2**31))
    refused("is damaged at sample", 5)
    folder(6, "bytes")
    refused("column 'tokens' holds bytes; --ids uint16", 6)
    folder(7, "pkl")
    refused("column 'tokens' holds pkl; ndarray, or bytes of ids", 7)
    index = folder(8, compression="br") / "index.json"
    refused("compression 'br'; zstd, gz or none is valid", 8)
    index.write_text(index.read_text().replace("shard.00000", "../shard"))
    refused(r"\.\./shard", 8)
    with pytest.raises(UserError, match=r"column 'tokens' holds ndarray, text is needed; .*--ids"):
        prepare([folder(9)], tmp_path / "text", tokenizer=bpe, text_field="tokens")


# --- the vocabulary --------------------------------------------------------------------------


def test_an_id_beyond_the_vocabulary_is_a_sentence(tmp_path: Path) -> None:
    file = megatron(tmp_path / "a", [[d] for d in DOCUMENTS])
    with pytest.raises(
        UserError, match=r"a.idx, document 3: token id 290; .* has 290, so 0 to 289"
    ):
        made(file, tmp_path / "out", tokenizer="ids:290")
    assert not (tmp_path / "out").exists()
    made(file, tmp_path / "out", tokenizer="ids:291")
    negative = megatron(tmp_path / "b", [[[1, -2]]], "int32")
    with pytest.raises(UserError, match="token id -2"):
        made(negative, tmp_path / "other")


def test_with_the_tokenizer_that_made_them(tmp_path: Path, bpe: str) -> None:
    file = megatron(tmp_path / "a", [[d] for d in DOCUMENTS])
    done = made(file, tmp_path / "out", tokenizer=bpe, eot=None)
    corpus = Corpus.open(tmp_path / "out")
    assert (corpus.vocab, corpus.eot, done.manifest.eot_token) == (300, 0, "<|endoftext|>")
    assert corpus.tokenizer == tmp_path / "out" / "tokenizer.json"
    assert back(tmp_path / "out") == [[*d, 0] for d in DOCUMENTS]
    (tmp_path / "more.txt").write_text("and text of the same tokenizer")
    more = prepare([tmp_path / "more.txt"], tmp_path / "out", append=True)
    assert (more.outcome, len(more.manifest.segments)) == ("appended", 2)


@pytest.mark.parametrize(
    ("ids", "options", "match"),
    [
        ("auto", {"tokenizer": "bpe:300"}, r"--tokenizer bpe:300: with --ids it is the file"),
        ("auto", {"eot": "300"}, r"--eot 300: with --tokenizer ids:300 an id from 0 to 299"),
        ("auto", {"eot": "<eos>"}, r"--eot <eos>: with --tokenizer ids:300 an id from 0"),
        ("auto", {"tokenizer": "ids:0"}, r"ids:N needs a vocabulary N of 1 or more"),
        ("float32", {}, r"--ids float32: one of auto, uint16"),
        (None, {}, r"--tokenizer ids:300 reads no text"),
    ],
)
def test_what_does_not_go_together(
    ids: Any, options: dict[str, Any], match: str, tmp_path: Path
) -> None:
    megatron(tmp_path / "a", [[d] for d in DOCUMENTS])
    with pytest.raises(UserError, match=match):
        made(tmp_path / "a.idx", tmp_path / "out", ids, **options)
    assert not (tmp_path / "out").exists()


def test_no_token_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"a.txt is no token file; .idx, .bin and .npy are valid"):
        made(tmp_path / "a.txt", tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere.idx: no such file or folder \(token files are"):
        made(tmp_path / "nowhere.idx", tmp_path / "out")


# --- training --------------------------------------------------------------------------------


def test_training_reads_them_in_our_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(8, 300, 40).tolist() for _ in range(50)]
    made(megatron(tmp_path / "a", [[d] for d in documents]), tmp_path / "out", validation=0.1)
    data = TrainingData.open({str(tmp_path / "out"): 1.0}, context=16, seed=0)
    assert (data.vocab, data.eot, data.tokenizer) == (300, EOT, None)
    corpus = Corpus.open(tmp_path / "out")
    windows = (len(corpus.train) - 1) // 16
    seen = sorted(data.batch(0, windows)[:, 0].tolist())
    starts = corpus.train.windows(np.arange(windows) * 16, 1)[:, 0]
    assert seen == sorted(starts.tolist())
    assert len(corpus.validation) > 0


def test_a_recipe_prepares_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(8, 300, 40).tolist() for _ in range(50)]
    folder = mds(tmp_path / "a", [[[array(d)] for d in documents]], {"tokens": "ndarray"}, [None])
    how = {"sources": [str(folder)], "tokenizer": "ids:300", "ids": "auto", "eot": str(EOT)}
    data = {"path": str(tmp_path / "out"), "prepare": {**how, "validation": 0.1}}
    recipe = write_recipe(tmp_path / "r.toml", tmp_path / "out", data=data)
    said = cli("train", recipe, "--run", tmp_path / "run", "--until", "2")
    assert said.code == 0, said.err
    out = cli("release", tmp_path / "run", "--out", tmp_path / "model")
    assert out.code == 0, out.err
    assert not (tmp_path / "model" / "tokenizer.json").exists()


def test_the_verb(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(8, 300, 40).tolist() for _ in range(50)]
    megatron(tmp_path / "a", [[d] for d in documents])
    command = ["prepare", tmp_path / "a.idx", "--out", tmp_path / "out", "--ids", "auto"]
    command += ["--tokenizer", "ids:300", "--eot", EOT, "--validation", "0.1"]
    said = cli(*command)
    assert (said.code, said.err) == (0, "")
    assert "  50 documents, 2,050 tokens (vocabulary 300, uint16)" in said.out
    assert "already there" in cli(*command).out
    other = cli(*command, "--dtype", "uint32")
    assert (other.code, "was begun with --dtype None, now it is uint32" in other.err) == (2, True)
    text = cli(*(word for word in command if word not in ("--ids", "auto")))
    assert (text.code, "reads no text" in text.err) == (2, True)
