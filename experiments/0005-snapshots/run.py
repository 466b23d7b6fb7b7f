"""Which averages, stored how often, rebuild every other one from the least storage?

python experiments/0005-snapshots/run.py        (about ten minutes on two cores)

Writes tracks.csv (the best tracks of a number and a spacing), storage.csv (what runs store, and how
well every average is rebuilt), thinning.csv (what may be dropped) and rounding.csv (16 bits)
beside this.
"""

import csv
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf, log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anytrain.averaging.posthoc import WITHIN, Snapshot, fit, moments
from anytrain.rules import AnytimeEma, PowerEma, Rule, spec

Array = NDArray[np.float64]
Tracks = tuple[Rule, ...]
Row = list[Any]
Worst = tuple[float, int, float, float]  # error, snapshots read, Σ|a|, rounding in fp32

HERE = Path(__file__).parent
START = Snapshot(0.0, PowerEma(0.1))
WIDEST = log(12**-0.5)  # a uniform average
ASKED: list[Rule] = [
    *(PowerEma(float(s)) for s in np.geomspace(0.03, 0.28, 15)),
    *(AnytimeEma(float(f)) for f in np.geomspace(1.7, 45, 5)),
]


def power(*widths: float) -> Tracks:
    return tuple(PowerEma(w) for w in widths)


FIVE = power(0.279, 0.22, 0.136, 0.066, 0.0335)
FOUR = power(0.275, 0.133, 0.061, 0.033)
THREE = power(0.275, 0.074, 0.034)
KEPT = tuple(AnytimeEma(f) for f in (6.25, 12.5, 25, 50))  # what the trainer averages by default

SETS: dict[str, tuple[Tracks, int]] = {  # tracks, moments a decade
    "issue 2": (power(0.10, 0.05), 13),
    "issue 3": (power(0.25, 0.10, 0.03), 13),
    "2": (power(0.277, 0.036), 50),
    "3": (THREE, 10),
    "3 dense": (THREE, 13),
    "4 sparse": (power(0.271, 0.145, 0.066, 0.0335), 3),
    "4": (FOUR, 4),
    "4 dense": (FOUR, 8),
    "5 sparse": (FIVE, 1),
    "5": (FIVE, 4),
    "kept + 1": ((*power(0.265), *KEPT), 4),
    "kept + 2": ((*power(0.276, 0.22), *KEPT), 4),
}


def worst(snapshots: Sequence[Snapshot], t: int, within: float = WITHIN) -> Worst:
    """The largest of each over everything asked at t."""
    found: Worst = (0.0, 0, 0.0, 0.0)
    for rule in ASKED:
        f = fit(snapshots, rule, t, within)
        new = (f.error, len(f.used), f.amplification, f.rounding("F32"))
        found = tuple(max(pair) for pair in zip(found, new, strict=True))  # type: ignore[assignment]
    return found


def stored(tracks: Iterable[Rule], times: Iterable[float]) -> list[Snapshot]:
    tracks = list(tracks)
    return [START, *(Snapshot(t, rule) for t in times for rule in tracks)]


# --- the best tracks -------------------------------------------------------------------------

# (number of tracks, moments a decade); 0: every moment is rebuilt from itself alone
SEARCHED = [
    *((n, 0) for n in (4, 5, 6)),
    *((6, k) for k in (1, 2)),
    *((5, k) for k in (1, 2, 4)),
    *((4, k) for k in (2, 3, 4, 6, 8)),
    *((3, k) for k in (8, 9, 10, 13, 16)),
    *((2, k) for k in (30, 40, 50)),
]


def search(task: tuple[int, int]) -> Row:
    """The widths with the least of the largest error at one moment, from the snapshots of the
    newest decade."""
    count, per_decade = task
    last = moments(per_decade or 1, 700)[-1]
    oldest = last / 10.01 if per_decade else last
    times = [m for m in moments(per_decade or 1, last) if m >= oldest]

    def error(x: Array) -> float:
        if x.max() >= WIDEST:
            return inf
        return worst(stored(power(*np.exp(x)), times), last, 0.0)[0]

    x = np.log(np.geomspace(0.27, 0.0335, count))
    for _ in range(3):  # the method stalls where the largest error changes its place
        x, low = descend(error, x)
    widths = " ".join(f"{w:.4f}" for w in sorted(np.exp(x), reverse=True))
    return [count, per_decade, widths, f"{low:.4f}", 4 * count, 4 * count * per_decade]


def descend(f: Callable[[Array], float], x: Array, calls: int = 120) -> tuple[Array, float]:
    """The simplex method of Nelder and Mead (1965): the point, and f there."""
    points = np.array([x, *(x - 0.12 * e for e in np.eye(x.size))])
    values = np.array([f(y) for y in points])
    while calls > 0:
        order = np.argsort(values)
        points, values = points[order], values[order]
        if values[-1] < 1.01 * values[0]:
            break
        middle = points[:-1].mean(axis=0)
        tried = [middle + (middle - points[-1])]
        got = [f(tried[0])]
        if not values[0] <= got[0] < values[-2]:  # further, or back
            scale = 2.0 if got[0] < values[0] else (0.5 if got[0] < values[-1] else -0.5)
            tried.append(middle + scale * (middle - points[-1]))
            got.append(f(tried[1]))
        calls -= len(tried)
        best = int(np.argmin(got))
        if got[best] < values[-1]:
            points[-1], values[-1] = tried[best], got[best]
        else:  # all towards the best
            points[1:] = (points[1:] + points[0]) / 2
            values[1:] = [f(y) for y in points[1:]]
            calls -= x.size
    best = int(np.argmin(values))
    return points[best], float(values[best])


# --- what a run stores, and what it may drop -------------------------------------------------


def rebuilt(kept: Callable[[int], list[Snapshot]], t: int) -> tuple[int, Worst]:
    return t, worst(kept(t), t)


def all_until(tracks: Tracks, times: Sequence[int], t: int) -> list[Snapshot]:
    return stored(tracks, [m for m in times if m <= t])


def storage(pool: Any, name: str) -> list[Row]:
    """Runs that drop nothing. Every moment past the first decade is rebuilt; of those past step
    10,000, where nothing changes any more, the last of each decade."""
    tracks, per_decade = SETS[name]
    times = moments(per_decade, 1_000_000)
    checked = [m for m in times if 10 < m <= 10_000] + [100_000, 1_000_000]
    rebuild = partial(rebuilt, partial(all_until, tracks, times))
    found = dict(pool.map(rebuild, checked[::-1], chunksize=1))
    rows = []
    for run in (10_000, 100_000, 1_000_000):
        parts = zip(*(found[m] for m in checked if m <= run), strict=True)
        error, reads, amplification, rounding = (max(column) for column in parts)
        count = 1 + len(tracks) * sum(m <= run for m in times)
        rows.append(
            [name, " ".join(spec(r) for r in tracks), per_decade, run, count, 4 * count, 2 * count,
             f"{error:.4f}", reads, f"{amplification:.1f}", f"{rounding:.1e}",
             f"{rounding * 2**13:.1e}", f"{rounding * 2**16:.1e}"]
        )  # fmt: skip
    return rows


# set; of what is older than a decade: decades kept, its widest tracks, every n-th moment
POLICIES = [
    ("3", 1.0, 3, 1),
    ("3", 1.0, 2, 1),
    ("3", 1.0, 1, 1),
    ("3", 0.5, 3, 1),
    ("4", 1.0, 4, 1),
    ("4", 1.0, 3, 1),
    ("4", 1.0, 2, 1),
    ("4", 1.0, 1, 1),
    ("4", 0.5, 4, 1),
    ("4", 0.5, 3, 1),
    ("4 dense", 1.0, 4, 2),
    ("4 dense", inf, 4, 2),
    ("5", 0.0, 0, 1),
    ("kept + 2", 0.0, 0, 1),
]


def thinned(policy: tuple[str, float, int, int], now: int, t: int) -> list[Snapshot]:
    """What is left at step `now` of the snapshots until t."""
    name, decades, wide, stride = policy
    tracks, per_decade = SETS[name]
    new = [m for m in moments(per_decade, t) if 10.01 * m >= now]
    old = [m for m in moments(per_decade // stride, t) if 10.01 * m < now]
    old = [m for m in old if m >= 0.99 * now * 10 ** (-1 - decades)]
    return [*stored(tracks, new), *stored(tracks[:wide], old)[1:]]


def thinning(pool: Any, policy: tuple[str, float, int, int]) -> Row:
    """The newest decade is rebuilt at every moment; older ones too where none ends."""
    name, decades, wide, stride = policy
    now = 10_000
    oldest = 10 if decades == inf else now / 10.01
    times = {s.t for s in thinned(policy, now, now) if s.t > oldest}
    found = dict(pool.map(partial(rebuilt, partial(thinned, policy, now)), sorted(times)))
    counts = [len(thinned(policy, run, run)) for run in (10_000, 1_000_000)]
    error, reads, *_ = (max(column) for column in zip(*found.values(), strict=True))
    return [name, decades, wide, stride, *counts, *(4 * n for n in counts), f"{error:.4f}", reads]


# --- 16 bits ---------------------------------------------------------------------------------


def bf16(x: Array) -> Array:
    """Rounded to nearest; the even one of two, as far as fp32 tells."""
    bits = x.astype(np.float32).view(np.int32).astype(np.int64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & ~0xFFFF
    return bits.astype(np.int32).view(np.float32).astype(np.float64)


STORED_AS: dict[str, Callable[[Array], Array]] = {
    "F64": lambda x: x,
    "F32": lambda x: x.astype(np.float32).astype(np.float64),
    "F16": lambda x: x.astype(np.float16).astype(np.float64),
    "BF16": bf16,
}


def rounding(steps: int = 10_000, size: int = 4000) -> list[Row]:
    """A random walk that moves every weight by its own size in `steps`: rebuilt from "4" stored in
    each type against the average kept in float64, rms relative to the rms of the weights."""
    rng = np.random.default_rng(0)
    rules = [*FOUR, PowerEma(0.05), PowerEma(0.1), PowerEma(0.2), AnytimeEma(1.7)]
    theta = rng.standard_normal(size)
    running = [theta.copy() for _ in rules]
    in_fp32 = [theta.astype(np.float32) for _ in rules]
    times = set(moments(SETS["4"][1], steps))
    tensors = [theta.copy()]
    for t in range(1, steps + 1):
        theta = theta + rng.standard_normal(size) / steps**0.5
        for average, coarse, rule in zip(running, in_fp32, rules, strict=True):
            average += rule(t) * (theta - average)
            coarse += np.float32(rule(t)) * (theta.astype(np.float32) - coarse)
        if t in times:
            tensors += [average.copy() for average in running[: len(FOUR)]]
    scale = np.linalg.norm(theta)
    rows = []
    for rule, average, coarse in zip(rules, running, in_fp32, strict=True):
        f = fit(stored(FOUR, sorted(times)), rule, steps)
        row = [spec(rule), f"{f.error:.4f}", f"{f.amplification:.2f}"]
        exact = sum(a * tensors[i] for i, a in enumerate(f.coefficients))
        row.append(f"{np.linalg.norm(exact - average) / scale:.1e}")
        row.append(f"{np.linalg.norm(coarse - average) / scale:.1e}")
        for dtype, cast in list(STORED_AS.items())[1:]:
            got = sum(a * cast(tensors[i]) for i, a in enumerate(f.coefficients))
            row.append(f"{np.linalg.norm(got - exact) / scale:.1e}")
            row.append(f"{f.rounding(dtype):.1e}")
        rows.append(row)
    return rows


# --- files -----------------------------------------------------------------------------------

TABLES = {
    "tracks": "tracks,per_decade,sigma_rel,error,bytes_training,bytes_decade",
    "storage": "set,tracks,per_decade,run,snapshots,bytes_fp32,bytes_16bit,error,reads,"
    "amplification,rounding_fp32,rounding_fp16,rounding_bf16",
    "thinning": "set,older_decades,older_tracks,older_stride,snapshots_1e4,snapshots_1e6,"
    "bytes_1e4,bytes_1e6,error,reads",
    "rounding": "rule,error,amplification,profile,online_fp32,"
    "fp32,fp32_expected,fp16,fp16_expected,bf16,bf16_expected",
}


def write(name: str, rows: Iterable[Row]) -> None:
    with (HERE / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(TABLES[name].split(","))
        for row in rows:
            print(name, *row, flush=True)
            writer.writerow(row)


def main(names: Sequence[str]) -> None:
    with multiprocessing.Pool(2) as pool:
        if "rounding" in names:
            write("rounding", rounding())
        if "thinning" in names:
            write("thinning", (thinning(pool, policy) for policy in POLICIES))
        if "storage" in names:
            write("storage", (row for name in SETS for row in storage(pool, name)))
        if "tracks" in names:
            write("tracks", pool.imap(search, SEARCHED, chunksize=1))


if __name__ == "__main__":
    main(sys.argv[1:] or list(TABLES))
