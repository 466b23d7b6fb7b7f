"""Other trainers' checkpoints as Hugging Face directories, which every verb and tool reads."""

from pathlib import Path

from anytrain import archives, foreign
from anytrain.converting import distributed, litgpt, nanogpt
from anytrain.converting.target import Model
from anytrain.errors import UserError


def opened(path: Path, like: Path | None = None) -> Model:
    """The model of a checkpoint, by what lies at the path; UserError where it is none of these.

    `like` is a Hugging Face directory of the same shape, for checkpoints of torch.distributed.
    """
    if (path / foreign.METADATA).is_file():
        return distributed.convert(path, like)
    if like is not None:
        raise UserError(
            f"--like {like} goes with a checkpoint of torch.distributed; {path} is none"
        )
    if litgpt.is_litgpt(path):
        return litgpt.convert(path)
    if path.is_file():
        archive = archives.read(path)
        if nanogpt.is_nanogpt(archive):
            return nanogpt.convert(archive)
        raise UserError(f"{path} says nothing about its model: nanoGPT's has model_args beside it")
    raise UserError(
        f"{path} is no checkpoint of nanoGPT (ckpt.pt), litgpt ({litgpt.WEIGHTS} in a directory) "
        f"or torch.distributed ({foreign.METADATA} in a directory)"
    )


def tokenizer_of(asked: Path | None, checkpoint: Path, like: Path | None) -> Path | None:
    """The tokenizer asked for, else the one beside the checkpoint, else that of `like`."""
    if asked is not None:
        file = asked / "tokenizer.json" if asked.is_dir() else asked
        if not file.is_file():
            raise UserError(f"--tokenizer {asked}: no such file, and no tokenizer.json in it")
        return file
    folders = [folder for folder in (checkpoint, like) if folder is not None]
    return next((f / "tokenizer.json" for f in folders if (f / "tokenizer.json").is_file()), None)
