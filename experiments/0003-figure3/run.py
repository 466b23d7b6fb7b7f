"""Figure 3 of arXiv:2602.03702 and what lies beyond its panels; writes the files beside this.

python experiments/0003-figure3/run.py            (two minutes on two cores)
python experiments/0003-figure3/run.py tables     the README's tables, from the files that are there
"""

import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
KEPT = ("results.csv", "slopes.csv", "local.csv", "risk.png", "slopes.png")  # grid.csv is large
WINDOWS = ("1", "2", "4", "8", "16")
Row = dict[str, str]


def main() -> None:
    for folder, panels in ((HERE, ()), (HERE / "beyond", ("--source-ratio", "3"))):
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-m", "anytrain", "theory", "sweep", *panels, "--out", out]
            subprocess.run(command, check=True)
            folder.mkdir(exist_ok=True)
            for name in KEPT:
                (folder / name).write_bytes((Path(out) / name).read_bytes())


def rows(name: str, **where: str) -> list[Row]:
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        found = csv.DictReader(file)
        return [row for row in found if all(row[key] == value for key, value in where.items())]


def tables() -> dict[str, str]:
    """Every table of the README, by what it shows."""
    return {
        "power": power(),
        "constant": constant(),
        "size": size(),
        "risk": risk(),
        "beyond": beyond(),
    }


def table(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, body)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def three(value: str) -> str:
    return f"{float(value):.3f}".replace("-", "−")


def power() -> str:
    """t^(−γ*) with averaging, chosen as the paper does."""
    found = rows("slopes.csv", arm="power", weights="average", chosen="mean")
    return table(
        ("a", "b", "m", "window", "slope", "theory", "difference"),
        (
            (r["capacity"], r["source"], r["multiplier"], r["window"] + "*" * bool(r["edge"]),
             *(three(r[name]) for name in ("slope", "theory", "difference")))
            for r in found if r["source"] != r["capacity"]
        ),
    )  # fmt: skip


def constant() -> str:
    """The slope of a constant rate of 1/tr H, by window."""
    body = []
    for a, b in panels("slopes.csv"):
        found = rows("slopes.csv", arm="constant", chosen="fixed", capacity=a, source=b)
        body.append([a, b, *(three(r["slope"]) for r in found), three(found[0]["theory"])])
    return table(("a", "b", *(f"window {m}" for m in WINDOWS), "theory"), body)


def size() -> str:
    """Local slopes of a constant rate of 1/tr H, window 2, by dimension."""
    body = []
    dims = list(dict.fromkeys(r["dim"] for r in rows("local.csv")))
    steps = list(dict.fromkeys(r["step"] for r in rows("local.csv")))
    for a, b in panels("local.csv"):
        for step in (min(steps, key=lambda n: abs(int(n) - 50_000)), steps[-1]):
            found = rows(
                "local.csv", arm="constant", chosen="fixed", step=step, capacity=a, source=b
            )
            body.append(
                [
                    a,
                    b,
                    f"{int(step):,}",
                    *(three(r["slope"]) for r in found),
                    three(found[0]["theory"]),
                ]
            )
    return table(("a", "b", "N", *(f"d = {int(d):,}" for d in dims), "theory"), body)


def risk() -> str:
    """Where every arm is at the end."""
    arms = (
        ("constant", "average", "mean"),
        ("inverse_sqrt", "average", "mean"),
        ("inverse_sqrt_offset", "average", "mean"),
        ("wsd", "last", "horizon"),
        ("wsd", "last", "mean"),
        ("cosine", "last", "horizon"),
    )
    body = []
    for a, b in panels("slopes.csv"):
        row = [a, b]
        for arm, weights, chosen in arms:
            (found,) = rows("slopes.csv", arm=arm, weights=weights, chosen=chosen,
                            capacity=a, source=b)  # fmt: skip
            row.append(f"{float(found['risk']):.2e}".replace("e-0", "e-").replace("e+00", ""))
        body.append(row)
    names = (
        "constant",
        "bare 1/√t",
        "offset 1/√t",
        "WSD, tuned",
        "WSD, one choice",
        "cosine, tuned",
    )
    return table(("a", "b", *names), body)


def beyond() -> str:
    """b = 3a: t^(−γ*) at 1/tr H, window 2, at the largest dimension and N."""
    body = []
    for a, b in panels("beyond/local.csv"):
        found = rows("beyond/local.csv", arm="power", chosen="fixed", capacity=a, source=b)[-1]
        early = (2 * float(a) - 1) / float(b)  # of the README
        (chosen,) = rows("beyond/slopes.csv", arm="power", weights="average", chosen="mean",
                         capacity=a, source=b)  # fmt: skip
        body.append([a, b, three(chosen["slope"]), three(found["slope"]),
                     three(str(1 / float(b) - 1)), three(str(-early))])  # fmt: skip
    steps, dim = int(found["step"]), int(found["dim"])
    return table(
        ("a", "b", "last decade, as chosen", f"local slope, N = {steps:,}, d = {dim:,}",
         "−(1 − 1/b)", "−(2a − 1)/b"),
        body,
    )  # fmt: skip


def panels(name: str) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["capacity"], row["source"]) for row in rows(name)))


if __name__ == "__main__":
    if sys.argv[1:] == ["tables"]:
        for text in tables().values():
            print(text, end="\n\n")
    else:
        main()
