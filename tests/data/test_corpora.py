"""Every kind of source gives its documents, in order, and says what it could not read."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anytrain.data import formats
from anytrain.data.corpora import documents, files, items
from anytrain.data.formats import Document, Skipped
from anytrain.errors import UserError

TEXTS = ["one\n", "zwei — ü\r\n", "三 🙂", "", "five " * 50]
LINES = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)).encode()


def texts(source: Path | str, field: str = "text") -> list[str]:
    return [document.text for document in documents(source, field)]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", bytes),
        ("a.ndjson", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.json.gz", gzip.compress),
        ("a.jsonl.zst", zstd),
        ("a.JSONL.zst", lambda data: zstd(data[:60]) + zstd(data[60:])),  # two frames
        ("a.jsonl.gz", lambda data: gzip.compress(data[:60]) + gzip.compress(data[60:])),
        ("a.jsonl", lambda data: data.replace(b"\n", b"\n\n")),  # blank lines
        ("a.jsonl", lambda data: b"\xef\xbb\xbf" + data.rstrip(b"\n")),  # a mark, no last newline
    ],
)
def test_jsonl_in_every_wrapping(tmp_path: Path, name: str, pack) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / name).write_bytes(pack(LINES))
    assert texts(tmp_path / name) == TEXTS


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array([*TEXTS, None], pa.string()).cast(kind)
    pq.write_table(
        pa.table({"n": range(6), "text": column}), tmp_path / "a.parquet", row_group_size=2
    )
    assert texts(tmp_path / "a.parquet") == [*TEXTS, ""]


def test_a_saved_datasets_directory_and_a_dict_of_them(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"body": TEXTS, "n": range(5)})
    made.save_to_disk(tmp_path / "one", num_shards=2)
    made.select([4, 0]).save_to_disk(tmp_path / "picked")
    both = datasets.DatasetDict({"train": made, "test": made.select([2])})
    both.save_to_disk(tmp_path / "both")
    assert texts(tmp_path / "one", "body") == TEXTS
    assert texts(tmp_path / "picked", "body") == [TEXTS[4], TEXTS[0]]
    assert texts(tmp_path / "both", "body") == [TEXTS[2], *TEXTS]  # test before train
    assert texts(tmp_path, "body") == [TEXTS[2], *TEXTS, *TEXTS, TEXTS[4], TEXTS[0]]


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/z.txt", "b/a.py", "a.md", "c.txt", "B.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["B.txt", "a.md", "b/a.py", "b/z.txt", "c.txt"]


def test_what_a_folder_passes_over_and_what_it_lists(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    for hidden in (".git/config", ".hidden", "__pycache__/x.pyc", "corpus/journal.sqlite"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_text("hidden")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "wide.txt").write_text("é", encoding="utf-16")
    found = [item for file in files(tmp_path) for item in items(file)]
    assert found == [
        Document("good", f"{tmp_path}/good.txt"),
        Skipped(f"{tmp_path}/image.png", "binary"),
        Skipped(f"{tmp_path}/latin.txt", "not UTF-8"),
        Skipped(f"{tmp_path}/wide.txt", "not UTF-8"),
    ]


def test_the_folder_being_written_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.txt").write_text("x")
    (tmp_path / "a.txt").write_text("a")
    assert [file.path.name for file in files(tmp_path, exclude=tmp_path / "out")] == ["a.txt"]


def test_the_standard_library(tmp_path: Path) -> None:
    found = list(files("stdlib"))
    names = [file.origin for file in found]
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert "stdlib/argparse.py" in names
    assert sum(file.bytes for file in found) > 8e6
    assert not [n for n in names if "site-packages" in n or "__pycache__" in n or n[-3:] != ".py"]


def test_a_long_file_becomes_documents_cut_at_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "PART", 100)
    lines = "".join(f"line {n} äöü\n" for n in range(100))
    long = lines + "三" * 301  # no line end: cut between characters
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + long.encode())
    parts = texts(tmp_path / "a.txt")
    assert "".join(parts) == long
    assert len(parts) > 10
    assert all(len(part.encode()) <= 100 for part in parts)
    assert all(part.endswith("\n") for part in parts[:10])


def test_part_of_a_long_file_that_is_not_utf8_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "PART", 10)
    (tmp_path / "a.txt").write_bytes(b"123456789\n" + b"\xff23456789\n" + b"end")
    found = [item for file in files(tmp_path / "a.txt") for item in items(file)]
    assert [type(item) for item in found] == [Document, Skipped, Document]
    assert found[1].origin.endswith("a.txt, bytes 10-20")


def test_lines_and_rows_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n{"text": "\\ud800"}\n')
    bad = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "b.parquet")
    found = [item for file in files(tmp_path) for item in items(file)]
    assert [item for item in found if isinstance(item, Skipped)] == [
        Skipped(f"{tmp_path}/a.jsonl:2", "not UTF-8"),
        Skipped(f"{tmp_path}/a.jsonl:3", "not UTF-8"),
        Skipped(f"{tmp_path}/b.parquet:2", "not UTF-8"),
    ]


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', r"line 2 is a list; a JSON object is needed"),
        (
            "a.jsonl",
            b'{"body": "x", "n": 1}\n',
            r"has no field 'text'; fields there: body, n",
        ),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: field 'text' is a int, text is needed"),
        ("a.jsonl.gz", gzip.compress(LINES)[:-9], r"a.jsonl.gz is damaged after line \d"),
        ("a.jsonl.gz", b"not gzip at all\n", r"a.jsonl.gz is damaged after line 0"),
        ("a.jsonl.zst", zstd(LINES * 50)[:-9], r"a.jsonl.zst is damaged after line \d"),
        ("a.jsonl.zst", b"not zstd at all\n", r"a.jsonl.zst is damaged after line 0"),
        ("a.parquet", b"PAR1 but no more", r"a.parquet is damaged after row 0"),
    ],
)
def test_damaged_files_are_named_with_their_place(
    tmp_path: Path, name: str, data: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        texts(tmp_path / name)


def test_a_table_without_the_column_lists_those_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column 'text'; columns there: body, n"):
        texts(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"column 'n' holds int64, text is needed"):
        texts(tmp_path / "a.parquet", "n")


def test_a_damaged_datasets_directory(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    with pytest.raises(UserError, match=r"data.arrow is missing; .*state.json lists it"):
        texts(tmp_path)
    (tmp_path / "data.arrow").write_bytes(b"no arrow in here")
    with pytest.raises(UserError, match=r"data.arrow is damaged"):
        texts(tmp_path)
    (tmp_path / "state.json").write_text('{"_indices_data_files": ["x"]}')
    with pytest.raises(UserError, match="flatten_indices"):
        texts(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state.json is damaged"):
        texts(tmp_path)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such file or folder \(a source is"):
        texts(tmp_path / "nowhere")


def test_a_path_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's refusal is imitated: the superuser may read everything."""
    (tmp_path / "a.txt").write_text("a")

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"a.txt cannot be read: Permission denied"):
        texts(tmp_path)
    monkeypatch.setattr("anytrain.data.corpora.os.scandir", refuse)
    with pytest.raises(UserError, match=rf"{tmp_path} cannot be read: Permission denied"):
        texts(tmp_path)
