"""Questions and answers from what is free and at hand: chat rows to fine-tune on and to ask.

python experiments/0007-wso/pairs.py FOLDER [--debs DIR] [--seed 0]

Writes FOLDER/{gloss,doctest,docstring,arithmetic}.jsonl, a row `{"messages": [user, assistant]}` a
line, each row once. `gloss`: a word of WordNet and its definition. `doctest`: an example in a
docstring of Python's standard library and what it prints. `docstring`: the first line of a
docstring and the head of its function. `arithmetic`: sums and products. README.md says how many
and under which licences.
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
from collections.abc import Iterator
from pathlib import Path

LONGEST = 240  # bytes of a row: it has to fit the context of a small model
SUMS = 40_000
Pair = tuple[str, str]


def gloss(root: Path) -> Iterator[Pair]:
    """Every word of every synset and the definition, examples left out."""
    for kind in ("noun", "verb", "adj", "adv"):
        path = root / f"usr/share/wordnet/data.{kind}"
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line[:1].isdigit():
                continue
            data, text = line.split(" | ", 1)
            field = data.split()
            definition = text.split('; "')[0].strip()
            word = field[4].split("(")[0].replace("_", " ")
            yield f"What is {word}?", definition


def modules() -> Iterator[tuple[Path, ast.Module]]:
    """The standard library's, tests left out."""
    base = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(base.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield path, ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                continue


def documented() -> Iterator[tuple[ast.AST, str]]:
    for _, module in modules():
        for node in ast.walk(module):
            holders = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            if isinstance(node, holders) and (text := ast.get_docstring(node)):
                yield node, text


def examples() -> Iterator[Pair]:
    parser = doctest.DocTestParser()
    for _, text in documented():
        try:
            found = parser.get_examples(text)
        except ValueError:
            continue
        for example in found:
            if example.want.strip() and "Traceback" not in example.want:
                yield f">>> {example.source.strip()}", example.want.strip()


def docstrings() -> Iterator[Pair]:
    """`def f(a, b):` -> the first line of what it says."""
    for node, text in documented():
        if isinstance(node, ast.FunctionDef):
            head = f"def {node.name}({ast.unparse(node.args)}):"
            yield head, text.strip().splitlines()[0]


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
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    root = wordnet(args.folder, args.debs)
    sources = {
        "gloss": gloss(root),
        "doctest": examples(),
        "docstring": docstrings(),
        "arithmetic": arithmetic(args.seed),
    }
    for name, pairs in sources.items():
        print(name, write(args.folder / f"{name}.jsonl", pairs), file=sys.stderr)


if __name__ == "__main__":
    main()
