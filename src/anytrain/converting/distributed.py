"""A checkpoint of torch.distributed (DCP) whose tensors have the names of a known model."""

from pathlib import Path

from anytrain import foreign
from anytrain.converting.target import Model
from anytrain.errors import UserError
from anytrain.layout import Entry, select
from anytrain.models.description import read_config, shape_of
from anytrain.models.shape import DecoderShape
from anytrain.models.tensors import TensorFiles

_BEFORE = ("", "model.", "module.", "state_dict.", "app.model.", "model._orig_mod.", "_orig_mod.")


def convert(path: Path, like: Path | None) -> Model:
    """The model of a checkpoint, of the shape of `like`.

    Raises UserError where there is none, or where the names or sizes are others.
    """
    if like is None:
        raise UserError(
            f"{path} does not say what model it is of; --like DIR names a Hugging Face directory "
            "of the same shape, whose tensors have the same names"
        )
    config = read_config(like)
    shape = shape_of(config, like / "config.json")
    entries = foreign.read(path).entries
    found = TensorFiles(_unwrapped(entries, shape))
    found.check(shape, path)
    what = f"torch.distributed, {shape.layers} layers of {shape.width}"
    dtype = next(iter(entries.values())).dtype
    tensors = ((name, found[name]) for name in shape.tensors())
    return Model(path, what, config, tensors, dtype, shape.tokens, shape.context)


def _unwrapped(entries: dict[str, Entry], shape: DecoderShape) -> dict[str, Entry]:
    """The tensors without what a trainer puts before every name."""
    first = next(iter(shape.tensors()))
    for before in _BEFORE:
        if f"{before}{first}" in entries:
            return select(entries, before)
    return entries  # and `check` says what is missing
