"""What each file of a run directory holds, as far as a reader relies on it (see `schema`)."""

from anytrain.schema import COUNT, LIST, LOSS, NAME, NUMBER, PAIR, SIZE, TABLE, TEXT, Each, Kind

_WINDOWS = Kind(
    lambda value: COUNT.right(value) or (isinstance(value, list) and all(map(COUNT.right, value))),
    "a whole number, or a list of them",
)

RECIPE = {
    "name": TEXT,
    "schedule": TEXT,
    "unit?": TEXT,
    "model": TABLE,
    "train": {"batch": SIZE, "context": SIZE, "reference_batch?": SIZE, "average_every?": SIZE},
    "optimizer": {"kind": TEXT, "beta1": NUMBER, "weight_decay": NUMBER},
    "averages?": Each(TEXT),
    "checkpoint?": {"disk?": COUNT},
    "snapshots?": {"per_decade": SIZE},
}

IDENTITY = {
    "id": TEXT,
    "versions": Each(TEXT),
    "imports": Each(TEXT),
    "parent?": {"path": TEXT, "id": TEXT, "step": COUNT, "tokens": COUNT, "stage?": TEXT},
    "changes?": Each(PAIR),
    "data": [
        {
            "path": TEXT,
            "weight": NUMBER,
            "eras": [{"start": COUNT, "segments": COUNT, "windows": _WINDOWS, "sha256": TEXT}],
        }
    ],
    "eot?": COUNT,
    "decisions": {"device": TEXT, "threads": COUNT},
    "averages?": Each({"rule": TEXT, "since": NUMBER}),
}

_FILES = Each({"bytes": COUNT, "sha256": TEXT}, key=NAME)
_STORED = {"step": COUNT, "tokens": COUNT, "t": NUMBER, "files": _FILES}
_WEIGHTS = Kind(
    lambda value: isinstance(value, list) and bool(value) and all(map(TEXT.right, value)),
    "a list of one name or more",
)
CHECKPOINT = {**_STORED, "weights": _WEIGHTS, "lr": NUMBER}
SNAPSHOT = {**_STORED, "tracks": Each({"file": NAME, "sigma_rel": NUMBER, "since": NUMBER})}

_AVERAGES = {"t": NUMBER, "since": Each(NUMBER), "rules": Each(TEXT), "kept?": Each(NUMBER)}
STATE = {
    "clock": {"step": COUNT, "t": NUMBER, "tokens": COUNT, "samples": COUNT},
    "averages": _AVERAGES,
    "tracks?": _AVERAGES,
    "optimizer": LIST,
    "recipe": RECIPE,
}

METRIC = {
    "step": COUNT, "tokens": COUNT, "t?": NUMBER, "lr?": NUMBER, "loss?": LOSS,
    "seconds?": NUMBER, "tokens_per_second?": NUMBER, "val/tokens?": COUNT,
}  # fmt: skip
EVENT = {
    "event": TEXT, "step": COUNT, "tokens?": COUNT, "time?": TEXT, "by?": TEXT,
    "settings?": Each(PAIR),
}  # fmt: skip

SCORE = {  # of DIR/results.jsonl, by `anytrain evaluate`
    "weights": TEXT, "identity": TEXT, "task": TEXT, "label": TEXT, "shots?": COUNT,
    "limit?": SIZE, "content?": TEXT, "harness": TEXT, "metric": TEXT, "score": NUMBER,
    "stderr?": NUMBER, "documents": COUNT, "truncated": COUNT, "file": NAME,
}  # fmt: skip
DOCUMENT = {"task": TEXT, "doc": COUNT, "hash": TEXT, "score?": NUMBER}
