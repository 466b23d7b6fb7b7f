"""One segment being prepared: documents -> token shards, validation split, document index.

One pass over the sources, a chunk of documents at a time: read and hash (in a thread, one chunk
ahead), drop what was seen before, split by hash, encode in parallel, write, sync, commit. Memory
holds a few chunks, whatever the corpus. Where a document comes out depends on its bytes and its
place in the sources alone, so neither chunks, cores nor interruptions show in the result.

    a document is held out for validation   when   BLAKE2b(text) < share · 2^64

by the first 8 bytes of the hash; the first document of a corpus never is. Where the documents are
so few or so long that this holds out less than a quarter of the share, the end of the training
tokens makes it up.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from anytrain.data.chunks import Chunk, Survey, Text, ahead, chunks, sample
from anytrain.data.journal import Journal, Progress
from anytrain.data.manifest import DataFile, Manifest, Segment
from anytrain.data.request import Request
from anytrain.data.tokenizer import NAME as TOKENIZER
from anytrain.data.tokenizer import Encoder, Vocabulary, end_of_text, install, load, train_bpe
from anytrain.data.writer import SplitWriter, Tokens
from anytrain.errors import UserError
from anytrain.files import sha256

BPE_SAMPLE = 2**25  # bytes of text that a BPE is trained on, at most

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")


class Preparation:
    """One segment of one corpus being written; `run` starts it or goes on with it."""

    def __init__(
        self, folder: Path, journal: Journal, request: Request, number: int, found: Survey
    ) -> None:
        self.folder, self.journal = folder, journal
        self.request, self.number, self.found = request, number, found
        self.progress = journal.segments()[number][1]

    @property
    def segment_folder(self) -> Path:
        return self.folder / f"segment-{self.number:04d}"

    def run(self, *, bar: bool) -> tuple[Manifest, Segment]:
        """Do what is left to do; the manifest is in place when this returns.

        A segment that adds no document is forgotten, and the manifest stays as it was.
        """
        self.encoder = self._tokenizer()
        self.segment_folder.mkdir(exist_ok=True)
        self.writers = {split: self._writer(split) for split in SPLITS}
        if not self.progress.read:
            self._tokenize(bar)
            self._end_reading()
        if self.progress.documents == 0:
            return self._nothing()
        return self._publish()

    # --- the tokenizer -----------------------------------------------------------------------

    def _tokenizer(self) -> Vocabulary:
        """The corpus's tokenizer, put in place first if this is the first time."""
        path, request = self.folder / TOKENIZER, self.request
        if request.spec.ids:
            return Vocabulary.without_tokenizer(request.spec, request.eot, request.dtype)
        known = self.journal.setting("tokenizer")
        if known is None:
            if request.spec.file is not None:
                install(self.folder, file=request.spec.file)
            else:
                install(self.folder, trained=train_bpe(request.spec.vocab, self._sample()))
            self.journal.set("tokenizer", sha256(path))
        elif not path.is_file() or sha256(path) != known:
            raise UserError(f"{path} was altered: it is not the tokenizer that began this corpus")
        tokenizer = load(path)
        return Encoder(tokenizer, end_of_text(tokenizer, request.eot, path), request.dtype)

    def _sample(self) -> Iterator[str]:
        request = self.request
        return sample(request.sources, request.reading(), BPE_SAMPLE, self.found.bytes, self.folder)

    # --- the pass over the sources -----------------------------------------------------------

    def _writer(self, split: Split) -> SplitWriter:
        writer = SplitWriter(
            self.segment_folder, split, self.encoder.dtype, self.request.shard_tokens
        )
        counts = self.progress.counts
        writer.rewind(counts[f"{split}_tokens"], counts[f"{split}_documents"])
        return writer

    def _tokenize(self, show: bool) -> None:
        request = self.request
        reading = request.reading(self.encoder.eot)
        left = chunks(request.sources, reading, self.progress.cursor, self.folder)
        with tqdm(
            desc="tokenizing", unit="B", unit_scale=True, disable=None if show else True,
            total=self.found.bytes if self.found.exact else None,
            initial=self.progress.counts["text_bytes"],
        ) as bar:  # fmt: skip
            for chunk in ahead(left):
                self._take(chunk)
                bar.set_postfix_str(f"{self._tokens:,} tokens", refresh=False)
                bar.update(chunk.bytes)

    @property
    def _tokens(self) -> int:
        return sum(writer.tokens for writer in self.writers.values())

    def _take(self, chunk: Chunk) -> None:
        """Write one chunk. Files first, the journal last: a kill in between undoes the chunk."""
        self.journal.begin()
        gained: Counter[str] = Counter()
        kept = [(split, text) for text in chunk.texts if (split := self._judge(text, gained))]
        encoded = self._encoded([text for _, text in kept])
        for split in SPLITS:
            mine = [ids for (chosen, _), ids in zip(kept, encoded, strict=True) if chosen == split]
            self.writers[split].append(mine)
            gained[f"{split}_tokens"] = sum(map(len, mine))
        self.journal.skip(self.number, [(item.reason, item.origin) for item in chunk.skipped])
        self._commit(self.progress.advanced(chunk.cursor, gained))

    def _encoded(self, texts: list[Text]) -> list[Tokens]:
        """Documents as ids; the chunks of a segment hold either texts or ids."""
        if self.request.ids is not None:
            return [self.encoder.take(text.ids) for text in texts if text.ids is not None]
        assert isinstance(self.encoder, Encoder)
        return self.encoder([text.text for text in texts])

    def _judge(self, text: Text, gained: Counter[str]) -> Split | None:
        """The split that a document goes to; None if it is left out. Counted either way."""
        if not text.bytes:
            gained["empty"] += 1
            return None
        if not self.journal.add(text.digest):
            gained["duplicates"] += 1
            return None
        first = self.number == 0 and self.progress.documents + gained["train_documents"] == 0
        held = text.draw < self.request.validation and not first
        if held and self.number > 0:  # the validation set never changes, and never leaks
            gained["held_out"] += 1
            return None
        split: Split = "validation" if held else "train"
        gained[f"{split}_documents"] += 1
        gained["text_bytes"] += 0 if text.ids is not None else text.bytes
        return split

    def _commit(self, progress: Progress) -> None:
        self.journal.save(self.number, progress)
        self.journal.commit()
        self.progress = progress

    # --- the end -----------------------------------------------------------------------------

    def _end_reading(self) -> None:
        """Make up a validation split that came out too short, and close the pass."""
        train, validation = self.writers["train"], self.writers["validation"]
        share, all_tokens = self.request.validation, self._tokens
        missing = round(share * all_tokens) - validation.tokens
        self.journal.begin()
        counts = dict(self.progress.counts)
        if self.number == 0 and validation.tokens < share * all_tokens / 4 and missing > 0:
            documents, left = train.tail(missing)
            validation.append(documents)
            counts |= {
                "train_tokens": train.tokens - missing,
                "train_documents": left,
                "validation_tokens": validation.tokens,
                "validation_documents": validation.documents,
            }
        self._commit(replace(self.progress, counts=counts, read=True))
        train.rewind(counts["train_tokens"], counts["train_documents"])

    def _nothing(self) -> tuple[Manifest, Segment]:
        segment = self._segment()
        if self.number == 0:
            why = "; ".join(f"{len(w)} {reason}" for reason, w in segment.skipped.items())
            raise UserError(
                f"{', '.join(self.request.sources)}: no {'ids' if self.request.ids else 'text'} in "
                f"{self.found.files} files"
                + (f" ({why}: {next(iter(segment.skipped.values()))[0]}, …)" if why else "")
            )
        self.discard()
        return Manifest.read(self.folder), segment

    def discard(self) -> None:
        """Forget a segment that has no document yet."""
        self.journal.rollback()
        self.journal.forget(self.number)
        shutil.rmtree(self.segment_folder, ignore_errors=True)

    def _publish(self) -> tuple[Manifest, Segment]:
        """Write the manifest, and only then call the segment complete."""
        segment = self._segment()
        if self.number == 0:
            encoder, request = self.encoder, self.request
            manifest = Manifest(
                dtype=encoder.dtype, vocab=encoder.vocab, eot=encoder.eot,
                eot_token=encoder.eot_token,
                tokenizer=request.spec.text if request.spec.vocab else "file",
                tokenizer_sha256=self._identity(),
                validation=request.validation, shard_tokens=request.shard_tokens,
                segments=(segment,),
            )  # fmt: skip
        else:
            old = Manifest.read(self.folder)
            manifest = replace(old, segments=(*old.segments[: self.number], segment))
        manifest.write(self.folder)
        self.journal.begin()
        self._commit(replace(self.progress, complete=True))
        return manifest, segment

    def _identity(self) -> str:
        """What has to be the same for two corpora to mean the same by an id."""
        if self.request.spec.ids:
            return hashlib.sha256(self.request.spec.text.encode()).hexdigest()
        return sha256(self.folder / TOKENIZER)

    def _segment(self) -> Segment:
        return Segment(
            sources=self.request.sources,
            text_field=self.request.text_field,
            counts=self.progress.counts,
            skipped=self.journal.skipped(self.number),
            train=self._files(self.writers["train"].shards()),
            validation=self._files(self.writers["validation"].shards()),
            index=self._files([writer.index for writer in self.writers.values()]),
        )

    def _files(self, paths: list[Path]) -> tuple[DataFile, ...]:
        return tuple(
            DataFile(path.relative_to(self.folder).as_posix(), path.stat().st_size, sha256(path))
            for path in paths
        )
