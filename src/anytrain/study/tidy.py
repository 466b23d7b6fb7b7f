"""The table of a study: one row for some weights of one run at one horizon, parquet and CSV.

arm, phase, seed, setting, horizon (units), weights, tokens, loss (nats/token), stderr (nats/token),
run; and `chosen`: `all` where tuning chose this setting and these weights for all horizons,
`horizon` where it chose them for this one, `both`, or nothing.
"""

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anytrain.compare.results import Observation, Results
from anytrain.files import write_atomic

FILES = ("table.parquet", "table.csv")


def rows(results: Results) -> list[dict[str, Any]]:
    """In the order arm, phase, setting, seed, horizon, weights of the study."""
    return [vars(found) | {"chosen": _chosen(results, found)} for found in results.observations]


def _chosen(results: Results, found: Observation) -> str:
    def same(horizon: float | None) -> bool:
        choice = results.choice(found.arm, horizon)
        key = (found.setting, found.weights)
        return choice is not None and (choice.setting, choice.weights) == key

    names = {(True, True): "both", (True, False): "all", (False, True): "horizon"}
    return names.get((same(None), same(found.horizon)), "")


def write(results: Results, out: Path) -> list[Path]:
    """Both files; the same rows give the same bytes."""
    table = pa.Table.from_pylist(rows(results))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomic(out / FILES[0], sink.getvalue().to_pybytes())
    text = io.StringIO()
    writer = csv.DictWriter(text, table.column_names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(results))
    write_atomic(out / FILES[1], text.getvalue())
    return [out / name for name in FILES]
