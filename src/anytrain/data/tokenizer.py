"""The tokenizer of a corpus: a file, a Hugging Face directory, or a byte-level BPE trained here.

Tokens that the tokenizer calls special are never made from text: a document that spells
`<|endoftext|>` gets the characters, so only real document ends look like document ends.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anytrain.data.ids import Ids
from anytrain.data.manifest import DTYPES
from anytrain.errors import UserError
from anytrain.files import read_json, sha256, sync

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "tokenizer.json"
CONFIG = "tokenizer_config.json"
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|end▁of▁sentence|>", "<EOS>")
_SMALLEST = 257  # 256 bytes and the end of text


@dataclass(frozen=True)
class Spec:
    """What `--tokenizer` says: a file, or the vocabulary of a BPE to be trained."""

    text: str
    file: Path | None  # None: to be trained, or there is none
    vocab: int  # 0 where the file says

    @property
    def ids(self) -> bool:
        """Whether there is no tokenizer: a vocabulary of so many ids, and token files."""
        return self.text.startswith("ids:")

    @property
    def identity(self) -> str:
        """What has to be the same for a run to be continued or a corpus to be appended to."""
        return f"sha256:{sha256(self.file)}" if self.file else self.text


def parse(text: str) -> Spec:
    """`bpe:4096`, `ids:50304`, a tokenizers JSON file, or a directory that holds tokenizer.json."""
    if text.startswith("bpe:"):
        size = text.removeprefix("bpe:")
        if not re.fullmatch(r"\d{1,9}", size) or int(size) < _SMALLEST:
            raise UserError(
                f"tokenizer {text!r}: bpe:N needs a vocabulary N of {_SMALLEST} or more"
            )
        return Spec(f"bpe:{int(size)}", None, int(size))
    if text.startswith("ids:"):
        size = text.removeprefix("ids:")
        if not re.fullmatch(r"\d{1,9}", size) or int(size) < 1:
            raise UserError(f"tokenizer {text!r}: ids:N needs a vocabulary N of 1 or more")
        return Spec(f"ids:{int(size)}", None, int(size))
    path = Path(text)
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"tokenizer {text!r}: no such file; valid are a tokenizers JSON file, a directory "
            "that holds tokenizer.json, or bpe:N to train one, for example bpe:4096"
        )
    return Spec(text, file, 0)


def read(file: Path) -> "Tokenizer":
    """The tokenizer of a file; nothing is cut and nothing padded, whatever the file says."""
    from tokenizers import Tokenizer

    with refusing(f"tokenizer {file} is no tokenizers JSON file"):
        tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """What the library raises inside, bare Exceptions and panics, as a UserError."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what}: {error}") from error


def load(file: Path) -> "Tokenizer":
    """A tokenizer ready for documents: nothing cut, nothing padded, nothing added."""
    tokenizer = read(file)
    tokenizer.encode_special_tokens = True
    return tokenizer


def train_bpe(vocab: int, texts: Iterable[str]) -> "Tokenizer":
    """A byte-level BPE (the pre-tokenization of GPT-2) of at most `vocab` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT[0]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def install(folder: Path, *, file: Path | None = None, trained: Any = None) -> None:
    """Put the tokenizer beside the corpus: a file byte for byte, or the one just trained."""
    if file is not None:
        config = file.parent / CONFIG
        if config.is_file():
            _put(folder / CONFIG, config.read_bytes())
        _put(folder / NAME, file.read_bytes())
        return
    config_of_trained = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT[0],
        "clean_up_tokenization_spaces": False,
    }
    _put(folder / CONFIG, (json.dumps(config_of_trained, indent=2) + "\n").encode())
    _put(folder / NAME, trained.to_str(pretty=True).encode())


def _put(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.aside")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def end_of_text(tokenizer: "Tokenizer", wanted: str | None, file: Path | None) -> str:
    """The token put after each document: the one asked for, a usual one, or the config's."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if wanted is not None:
        if wanted not in vocabulary:
            raise UserError(f"--eot {wanted!r} is not in the vocabulary{_specials(tokenizer)}")
        return wanted
    for token in (*END_OF_TEXT, _configured(file)):
        if token in vocabulary:
            return str(token)
    raise UserError(
        f"tokenizer {file} has no end-of-text token ({', '.join(END_OF_TEXT[:4])}); name one with "
        f"--eot TOKEN{_specials(tokenizer)}"
    )


def _specials(tokenizer: "Tokenizer") -> str:
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    return f" (special tokens there: {', '.join(added[:12])})" if added else ""


def _configured(file: Path | None) -> str | None:
    """`eos_token` of the tokenizer_config.json beside the tokenizer."""
    config = file.parent / CONFIG if file else None
    if config is None or not config.is_file():
        return None
    token = read_json(config).get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


class Vocabulary:
    """Token ids that somebody made -> those of a corpus: seen to be in the vocabulary, and each
    document ending with the end-of-text token where there is one."""

    def __init__(
        self, vocab: int, eot: int | None, eot_token: str | None, dtype: str | None
    ) -> None:
        self.vocab, self.eot, self.eot_token = vocab, eot, eot_token
        self.dtype = dtype or ("uint16" if self.vocab <= 2**16 else "uint32")
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype {dtype!r}: one of {', '.join(DTYPES)}")
        if self.vocab > 256 ** DTYPES[self.dtype]:
            raise UserError(
                f"--dtype {self.dtype} holds {256 ** DTYPES[self.dtype]} tokens, the vocabulary of "
                f"the tokenizer is {self.vocab}; use uint32"
            )

    @classmethod
    def without_tokenizer(cls, spec: Spec, eot: str | None, dtype: str | None) -> "Vocabulary":
        """Of `ids:N`; its end of text is named by its id."""
        if eot is not None and not (re.fullmatch(r"\d{1,10}", eot) and int(eot) < spec.vocab):
            raise UserError(
                f"--eot {eot}: with --tokenizer {spec.text} an id from 0 to {spec.vocab - 1} is "
                "valid"
            )
        return cls(spec.vocab, None if eot is None else int(eot), eot, dtype)

    def take(self, found: Ids) -> NDArray[np.unsignedinteger]:
        """The ids of a document; UserError for one that is not in the vocabulary."""
        ids = found.ids
        wrong = ids[(ids < 0) | (ids >= self.vocab)] if len(ids) else ids
        if len(wrong):
            raise UserError(
                f"{found.origin}: token id {wrong[0]}; the vocabulary has {self.vocab}, so 0 to "
                f"{self.vocab - 1} are valid"
            )
        if found.whole and self.eot is not None and not (len(ids) and ids[-1] == self.eot):
            ids = np.append(ids, self.eot)
        return ids.astype(self.dtype)


class Encoder(Vocabulary):
    """Documents -> arrays of token ids, each ending with the end-of-text token."""

    eot: int

    def __init__(self, tokenizer: "Tokenizer", eot_token: str, dtype: str | None) -> None:
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self._tokenizer = tokenizer
        largest = max(vocabulary.values())  # ids may have holes
        super().__init__(largest + 1, int(vocabulary[eot_token]), eot_token, dtype)

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """Encode in parallel on all cores."""
        with refusing("the tokenizer cannot encode a document"):  # an unknown word, no token for it
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array([*encoding.ids, self.eot], dtype=self.dtype) for encoding in encodings]
