"""Token files of others, written byte by byte as their formats are described."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def megatron(
    path: Path, documents: Sequence[Sequence[Sequence[int]]], dtype: str = "uint16"
) -> Path:
    """X.idx and X.bin of documents of sequences, as Megatron-LM's indexed_dataset.py has them."""
    sequences = [np.array(s, dtype) for document in documents for s in document]
    lengths = [len(s) for s in sequences]
    size = np.dtype(dtype).itemsize
    places = [size * sum(lengths[:i]) for i in range(len(lengths))]
    ends = np.cumsum([0, *(len(document) for document in documents)])
    head = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", CODES[dtype])
    head += struct.pack("<QQ", len(sequences), len(ends))
    body = np.array(lengths, "<i4").tobytes() + np.array(places, "<i8").tobytes()
    path.with_suffix(".idx").write_bytes(head + body + ends.astype("<i8").tobytes())
    path.with_suffix(".bin").write_bytes(b"".join(s.tobytes() for s in sequences))
    return path.with_suffix(".idx")


def mds(
    folder: Path,
    shards: Sequence[Sequence[Sequence[bytes]]],
    columns: dict[str, str],
    fixed: Sequence[int | None],
    compression: str | None = None,
) -> Path:
    """An MDS folder: shards of samples of encoded columns, as its writer packs them."""
    folder.mkdir()
    rows = []
    for number, samples in enumerate(shards):
        packed = []
        for sample in samples:
            sizes = [len(v) for v, size in zip(sample, fixed, strict=True) if size is None]
            packed.append(np.array(sizes, "<u4").tobytes() + b"".join(sample))
        config = json.dumps({"column_names": list(columns)}).encode()
        begin = 4 + 4 * (len(packed) + 1) + len(config)
        starts = begin + np.cumsum([0, *map(len, packed)])
        data = struct.pack("<I", len(packed)) + starts.astype("<u4").tobytes() + config
        data += b"".join(packed)
        name = f"shard.{number:05d}.mds"
        row: dict[str, Any] = {
            "format": "mds", "version": 2, "samples": len(packed), "compression": compression,
            "column_names": list(columns), "column_encodings": list(columns.values()),
            "column_sizes": list(fixed), "hashes": [], "zip_data": None,
            "raw_data": {"basename": name, "bytes": len(data), "hashes": {}},
        }  # fmt: skip
        if compression:
            data = pa.Codec("zstd").compress(data, asbytes=True)
            name += ".zstd"
            row["zip_data"] = {"basename": name, "bytes": len(data), "hashes": {}}
        (folder / name).write_bytes(data)
        rows.append(row)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": rows}))
    return folder


def array(values: Sequence[int], dtype: str = "uint16") -> bytes:
    """An `ndarray` column that says nothing in its name: type, axes and length first."""
    code = {"uint16": 16, "int64": 65}[dtype]
    return bytes([code, 1 << 2, len(values)]) + np.array(values, dtype).tobytes()
