"""Turn text into a corpus of token shards that training reads.

SRC is a text or source file, JSONL (plain, .gz, .zst), parquet, a saved `datasets` directory, a
folder of these, a MosaicML data set (MDS), or the word `stdlib`: the Python standard library's own
source on this machine. With --ids it is tokens already: Megatron's .idx and .bin, .npy, .bin, MDS.
Interrupted, the same command goes on where it was.
"""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytrain.data.tokenize import Prepared


_LISTED = 20  # names of skipped files printed; the manifest has them all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags; what is left out takes its default, or with --append what the corpus has."""
    parser.add_argument("sources", nargs="+", metavar="SRC", help="what to read, in this order")
    parser.add_argument("--out", required=True, metavar="DIR", help="the corpus to write")
    parser.add_argument(
        "--tokenizer",
        metavar="FILE|bpe:N|ids:N",
        help="a tokenizers JSON file, a directory that holds tokenizer.json, or a byte-level BPE "
        "of N tokens trained on up to 32 MiB of the documents, for example bpe:4096; ids:N for "
        "--ids without a tokenizer",
    )
    parser.add_argument("--ids", metavar="TYPE", help="the sources are token files: auto, where "
                        "they say of which type, or uint16, uint32, int32, int64")  # fmt: skip
    parser.add_argument("--text-field", metavar="NAME", help="field of JSONL and tables, column of "
                        "MDS (text; with --ids tokens)")  # fmt: skip
    parser.add_argument(
        "--validation", type=float, metavar="SHARE", help="share of documents held out (0.02)"
    )
    parser.add_argument(
        "--eot", metavar="TOKEN", help="the token after each document; of ids:N its id"
    )
    parser.add_argument("--shard-tokens", type=int, metavar="N", help="tokens a file (268435456)")
    parser.add_argument("--dtype", choices=("uint16", "uint32"), help="by the vocabulary")
    parser.add_argument("--append", action="store_true", help="add a segment to a finished corpus")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Prepare, and say what came out."""
    from anytrain.data.tokenize import prepare

    done = prepare(
        args.sources,
        args.out,
        tokenizer=args.tokenizer,
        text_field=args.text_field,
        validation=args.validation,
        eot=args.eot,
        shard_tokens=args.shard_tokens,
        dtype=args.dtype,
        ids=args.ids,
        append=args.append,
        bar=not args.json,
    )
    print(json.dumps(summary(done), indent=2) if args.json else "\n".join(lines(done)))
    return 0


def summary(done: "Prepared") -> dict[str, Any]:
    """The result as plain data: this segment's counts, and what the corpus holds in all."""
    manifest, counts = done.manifest, dict(done.segment.counts)
    tokens = counts["train_tokens"] + counts["validation_tokens"]
    return {
        "out": str(done.folder),
        "outcome": done.outcome,
        **counts,
        "bytes_per_token": counts["text_bytes"] / tokens if counts["text_bytes"] else None,
        "skipped": {reason: list(names) for reason, names in done.segment.skipped.items()},
        "segments": len(manifest.segments),
        "corpus_train_tokens": sum(s.counts["train_tokens"] for s in manifest.segments),
        "vocab": manifest.vocab,
        "eot": manifest.eot,
        "eot_token": manifest.eot_token,
        "dtype": manifest.dtype,
    }


def lines(done: "Prepared") -> list[str]:
    """The same for a person."""
    found = summary(done)
    out = [f"{found['out']}: {found['outcome']}"]
    tokens = found["train_tokens"] + found["validation_tokens"]
    if tokens:
        documents = found["train_documents"] + found["validation_documents"]
        size = found["bytes_per_token"]
        out.append(
            f"  {documents:,} documents, {tokens:,} tokens{f' of {size:.2f} bytes' if size else ''}"
            f" (vocabulary {found['vocab']:,}, {found['dtype']})"
        )
        out.append(f"  held out for validation: {found['validation_tokens']:,} tokens")
    left_out = [
        f"{found[key]:,} {what}"
        for key, what in (
            ("duplicates", "exact duplicates"),
            ("empty", "empty"),
            ("held_out", "in the validation share of the corpus"),
        )
        if found[key]
    ]
    if left_out:
        out.append(f"  left out: {', '.join(left_out)}")
    for reason, names in found["skipped"].items():
        out.append(f"  {reason}, not read: {len(names):,}")
        out += [f"    {name}" for name in names[:_LISTED]]
        if len(names) > _LISTED:
            out.append(f"    … all {len(names):,} are in {found['out']}/manifest.json")
    if found["segments"] > 1:
        total = found["corpus_train_tokens"]
        out.append(f"  the corpus: {found['segments']} segments, {total:,} training tokens")
    out.append(f"  train on it: anytrain train demo --run runs/first data.path={found['out']}")
    return out
