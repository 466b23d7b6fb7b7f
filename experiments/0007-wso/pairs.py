"""Questions and answers from what is free and at hand: chat rows to fine-tune on and to ask.

python experiments/0007-wso/pairs.py FOLDER [--debs DIR] [--wheels DIR] [--seed 0]

Writes FOLDER/{gloss,doctest,docstring,arithmetic}.jsonl, a row `{"messages": [user, assistant]}` a
line, each row once, SAMPLE rows of the two large ones as FOLDER/{gloss,doctest}-sample.jsonl, and
HELD others as -held.jsonl, to choose and to report on: of four answers, one in 1,000 rows is 0.1%.
`gloss`: words of WordNet and what they mean. `doctest`: an example in a docstring of Python's
standard library or of PACKAGES and what it prints. `docstring`: the first line of a docstring and
the head of its function. `arithmetic`: sums and products. README.md says how many and under which
licences. A debian package and wheels that are not in DIR are downloaded.
"""

import argparse
import ast
import doctest
import json
import random
import subprocess
import sys
import sysconfig
import warnings
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

LONGEST = 240  # bytes of a row: it has to fit the context of a small model
SUMS = 40_000
SAMPLE = 5_000
HELD = 2_000
PACKAGES = (  # BSD-3-Clause where README.md does not say otherwise
    *("sympy", "music21", "pandas", "scipy", "numpy", "jax", "networkx", "biopython", "polars"),
    *("scikit-learn", "mpmath", "nltk", "dask"),
)
Pair = tuple[str, str]


def gloss(root: Path) -> Iterator[Pair]:
    """The words of every synset and its definition, examples left out."""
    for kind in ("noun", "verb", "adj", "adv"):
        path = root / f"usr/share/wordnet/data.{kind}"
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line[:1].isdigit():
                continue
            data, text = line.split(" | ", 1)
            field = data.split()
            definition = text.split('; "')[0].strip()
            # lex_id follows each word; the count of words is hexadecimal (wndb(5WN))
            words = field[4 : 4 + 2 * int(field[3], 16) : 2]
            named = ", ".join(word.split("(")[0].replace("_", " ") for word in words)
            yield f"What is {named}?", definition


def standard_library() -> Iterator[str]:
    """Sources, tests left out."""
    base = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(base.rglob("*.py")):
        if {"site-packages", "test", "tests", "idle_test"} & set(path.parts):
            continue
        try:
            yield path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def packages(wheels: Path) -> Iterator[str]:
    """Sources of PACKAGES; nothing in them is run."""
    wheels.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        stem = name.replace("-", "_")
        if not list(wheels.glob(f"{stem}-*.whl")):
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                            "--only-binary", ":all:", "--dest", str(wheels), name],
                           check=True)  # fmt: skip
        (wheel,) = wheels.glob(f"{stem}-*.whl")
        with zipfile.ZipFile(wheel) as opened:
            for path in sorted(opened.namelist()):
                if path.endswith(".py"):
                    yield opened.read(path).decode("utf-8", errors="replace")


def documented(sources: Iterator[str]) -> Iterator[tuple[ast.AST, str, str]]:
    """Everything with a docstring, it, and the name of the class that it is a method of, or ""."""
    for source in sources:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                module = ast.parse(source)
            except (SyntaxError, ValueError):
                continue
        yield from inside(module, "")


def inside(node: ast.AST, owner: str) -> Iterator[tuple[ast.AST, str, str]]:
    """`documented` of a node and what it holds; `owner` is the class around it."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, ast.Module | ast.ClassDef | functions):
        if text := (ast.get_docstring(node) or "").strip():
            yield node, text, owner
        owner = node.name if isinstance(node, ast.ClassDef) else ""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):  # as deep as a sum is long
            yield from inside(child, owner)


def examples(sources: Iterator[str]) -> Iterator[Pair]:
    """What is typed -> what is printed; no tracebacks."""
    parser = doctest.DocTestParser()
    for _, text, _ in documented(sources):
        try:
            found = parser.get_examples(text)
        except ValueError:
            continue
        for example in found:
            if example.want.strip() and "Traceback" not in example.want:
                yield f">>> {example.source.strip()}", example.want.strip()


def docstrings() -> Iterator[Pair]:
    """`def f(a, b):`, a method's class before it -> the first line of what it says."""
    for node, text, owner in documented(standard_library()):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            head = f"def {node.name}({ast.unparse(node.args)}):"
            yield (f"class {owner}:\n    {head}" if owner else head), text.splitlines()[0]


def arithmetic(seed: int) -> Iterator[Pair]:
    random_ = random.Random(seed)
    for _ in range(SUMS):
        sign = random_.choice("+-*")
        top = 12 if sign == "*" else 99
        a, b = random_.randint(0, top), random_.randint(0, top)
        yield f"{a} {sign} {b} =", str({"+": a + b, "-": a - b, "*": a * b}[sign])


def write(path: Path, pairs: Iterator[Pair]) -> int:
    """Each question once, with its first answer, where both fit."""
    kept: dict[str, str] = {}
    for question, answer in pairs:
        if answer and len(f"{question}{answer}".encode()) <= LONGEST:
            kept.setdefault(question, answer)
    with path.open("w", encoding="utf-8") as file:
        for question, answer in kept.items():
            messages = [{"role": "user", "content": question},
                        {"role": "assistant", "content": answer}]  # fmt: skip
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return len(kept)


def sample(path: Path, seed: int) -> None:
    """SAMPLE of its rows, and HELD of the rest, in their order."""
    with path.open(encoding="utf-8") as file:
        rows = list(file)
    chance = random.Random(seed)
    kept = chance.sample(range(len(rows)), SAMPLE)
    left = sorted(set(range(len(rows))) - set(kept))
    for name, numbers in (("sample", kept), ("held", chance.sample(left, HELD))):
        text = "".join(rows[i] for i in sorted(numbers))
        path.with_name(f"{path.stem}-{name}.jsonl").write_text(text, encoding="utf-8")


def wordnet(folder: Path, debs: Path) -> Path:
    if not list(debs.glob("wordnet-base_*.deb")):
        debs.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "wordnet-base"], cwd=debs, check=True)
    (deb,) = debs.glob("wordnet-base_*.deb")
    root = folder / "unpacked"
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", str(deb.resolve()), str(root)], check=True)
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--debs", type=Path, default=Path("debs"))
    parser.add_argument("--wheels", type=Path, default=Path("wheels"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    root = wordnet(args.folder, args.debs)
    sources = {
        "gloss": gloss(root),
        "doctest": examples(chain(standard_library(), packages(args.wheels))),
        "docstring": docstrings(),
        "arithmetic": arithmetic(args.seed),
    }
    for name, pairs in sources.items():
        print(name, write(args.folder / f"{name}.jsonl", pairs), file=sys.stderr)
    for name in ("gloss", "doctest"):
        sample(args.folder / f"{name}.jsonl", args.seed)


if __name__ == "__main__":
    main()
