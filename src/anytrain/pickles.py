"""The pickles of torch's checkpoints, read without running anything in them, and without torch.

A pickle names classes and functions, and opening it calls them: it can run any code. Here the few
names that a checkpoint needs stand for records without behaviour, and every other one is refused.
"""

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, ClassVar, NamedTuple

from anytrain.errors import UserError


class Inert:
    """What a name in a pickle becomes: it keeps what it is given, and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


class TensorStorage(Inert):
    """TensorStorageMetadata: properties, size, chunks."""

    properties: Any
    size: Any
    chunks: Any


class _Index(Inert):
    """MetadataIndex, a key of a dict while its fields are not there yet."""

    offset: Any = None


class _Storage(NamedTuple):
    key: str
    dtype: str


class Saved(NamedTuple):
    """A tensor that torch.save wrote."""

    storage: _Storage
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str


def _saved(storage: _Storage, offset: int, shape: Any, stride: Any, *rest: Any) -> Saved:
    # `_rebuild_tensor_v3` says a type of its own after requires_grad and hooks
    dtype = rest[2] if len(rest) > 2 and isinstance(rest[2], str) else storage.dtype
    return Saved(storage, offset, sizes(shape), sizes(stride), dtype)


def _parameter(data: Any, *rest: Any) -> Any:
    """A torch.nn.Parameter is its tensor."""
    return data


def _ordered(pairs: Any = ()) -> "OrderedDict[Any, Any]":
    for key, _ in pairs:
        _check_key(key)
    return OrderedDict(pairs)


def _check_key(key: Any) -> None:
    """A few bytes spell a tuple of tuples that takes for ever to hash: no checkpoint has one."""
    if not isinstance(key, str | int | float | Inert):
        raise ValueError(f"a key {shortened(key)}")


_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32",
    "uint16": "U16", "uint8": "U8", "bool": "BOOL", "complex64": "C64", "complex128": "C128",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL", "UntypedStorage": "",
}  # fmt: skip
_CHECKPOINT = "torch.distributed.checkpoint"
_OLD = "torch.distributed._shard.sharded_tensor.metadata"  # where properties were until torch 2.3

_NAMES: dict[str, Any] = {
    **{f"torch.{name}": code for name, code in _DTYPES.items()},
    **{f"torch.{name}": code for name, code in _STORAGES.items()},
    "torch.storage.UntypedStorage": "",
    "torch.Size": tuple,
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _saved,
    "torch._utils._rebuild_tensor_v3": _saved,
    f"{_CHECKPOINT}.metadata.TensorStorageMetadata": TensorStorage,
    f"{_CHECKPOINT}.metadata.MetadataIndex": _Index,
    **dict.fromkeys(
        [
            *(f"{_CHECKPOINT}.metadata.{name}" for name in ("Metadata", "BytesStorageMetadata",
              "ChunkStorageMetadata", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING")),
            *(f"{_CHECKPOINT}.filesystem.{name}" for name in ("_StorageInfo", "_StoragePrefix")),
            *(f"{_OLD}.{name}" for name in ("TensorProperties", "MEM_FORMAT_ENCODING")),
            "torch.serialization._get_layout",
            *(f"{room}.{kind}Path" for room in ("pathlib", "pathlib._local")
              for kind in ("Posix", "PurePosix", "Windows", "PureWindows", "")),
        ],
        Inert,
    ),
}  # fmt: skip


# Operations that reserve memory for a size that a file only claims, or that look elsewhere, and
# sets: what goes into one is hashed.
_NEVER = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4,
          pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)  # fmt: skip


class _Unpickler(pickle._Unpickler):
    """The slow one, in Python: the fast one reserves memory for any number of a memo's entry."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: does
        for code, does in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in _NEVER
    }

    def __init__(self, file: Path, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _NAMES:
            raise UserError(
                f"{self.file}: its pickle asks for {module}.{name}, which no checkpoint needs; "
                "it was not opened further"
            )
        return _NAMES[f"{module}.{name}"]

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, _, _ = identity
        if kind != "storage" or not isinstance(key, str) or not isinstance(dtype, str):
            raise ValueError(f"a storage {shortened(identity)}")
        return _Storage(key, dtype)


def _checked(does: Any, keys: slice) -> Any:
    """An operation that fills a dict, the keys looked at where they lie on the stack."""

    def checked(unpickler: Any) -> None:
        for key in unpickler.stack[keys]:
            _check_key(key)
        does(unpickler)

    return checked


for _code, _keys in (
    (pickle.DICT, slice(0, None, 2)),
    (pickle.SETITEMS, slice(0, None, 2)),
    (pickle.SETITEM, slice(-2, -1)),
):
    _Unpickler.dispatch[_code[0]] = _checked(_Unpickler.dispatch[_code[0]], _keys)


def unpickled(file: Path, content: bytes) -> Any:
    """What a pickle in a file holds; UserError where it is damaged or names what is not known."""
    try:
        return _Unpickler(file, content).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{file} is damaged: {error}") from error


def sizes(size: Any) -> tuple[int, ...]:
    """A torch.Size, or none, as integers."""
    if size is None:
        return ()
    if not all(type(n) is int for n in size):
        raise TypeError(f"a size {shortened(size)}")
    return tuple(size)
