"""More than 100 MB of English text and code from package registries, prepared for training.

python experiments/0006-every-horizon/corpora.py FOLDER [--debs DIR] [--out data/text512]

Downloads the packages below that are not in `--debs` (`apt-get download`), writes their text to
FOLDER/text and prepares that folder and `stdlib` with a byte-level BPE of 512 tokens. README.md
lists versions, licences and bytes as found. The same packages give the same bytes.
"""

import argparse
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

TOKENIZER = "bpe:512"
SMALLEST = 1000  # bytes of a document; shorter ones are dropped
ENTRIES = 300  # dictionary entries a document
Page = tuple[str, str]  # name, text
Source = Callable[[Path], Iterator[Page]]  # of the folder a package is unpacked in


class Text(HTMLParser):
    """The text of a page, a line for each block, without what stands around the article."""

    blocks = frozenset(("p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "br"))
    blocks |= {"dt", "dd", "blockquote", "table"}
    hidden = frozenset(("script", "style", "nav", "head"))

    def __init__(self, page: str):
        super().__init__()
        self.parts: list[str] = []
        self.depth = 0  # of hidden elements
        self.feed(page)
        lines = (" ".join(line.split()) for line in "".join(self.parts).splitlines())
        self.text = "\n".join(line for line in lines if line)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.depth += tag in self.hidden
        if tag in self.blocks:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag in self.hidden
        if tag in self.blocks:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.depth:
            self.parts.append(data)


def linux(root: Path) -> Iterator[Page]:
    """Sources of the kernel's documentation; translations are left out."""
    base = root / "usr/share/doc/linux-doc-6.1/Documentation"
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base)
        suffix = Path(path.name.removesuffix(".gz")).suffix
        drawing = suffix in {".svg", ".dot", ".ttf", ".png", ".gif", ".pdf"}
        if path.is_file() and name.parts[0] != "translations" and not drawing:
            yield str(name), decoded(path)


def files(pattern: str) -> Source:
    def pages(root: Path) -> Iterator[Page]:
        for path in sorted(root.glob(pattern)):
            text = decoded(path)
            yield path.name, Text(text).text if path.suffix == ".html" else text

    return pages


def gcide(root: Path) -> Iterator[Page]:
    """Entries begin where a line after an empty one begins at the margin."""
    text = decoded(root / "usr/share/dictd/gcide.dict.dz")
    return grouped("gcide", re.split(r"\n\n(?=\S)", text), "\n\n")


def wordnet(root: Path) -> Iterator[Page]:
    """Words and gloss of every synset: `contact: close interaction; "…"`."""

    def synsets(text: str) -> Iterator[str]:
        for line in text.splitlines():
            if line[:1].isdigit():
                data, gloss = line.split(" | ", 1)
                field = data.split()
                words = field[4 : 4 + 2 * int(field[3], 16) : 2]
                yield f"{', '.join(words).replace('_', ' ')}: {gloss.strip()}"

    for kind in ("adj", "adv", "noun", "verb"):
        text = decoded(root / f"usr/share/wordnet/data.{kind}")
        yield from grouped(kind, synsets(text), "\n")


def grouped(name: str, entries: Iterable[str], between: str) -> Iterator[Page]:
    every = list(entries)
    for start in range(0, len(every), ENTRIES):
        yield f"{name}-{start:06}", between.join(every[start : start + ENTRIES])


def decoded(path: Path) -> str:
    raw = path.read_bytes()
    if path.suffix in {".gz", ".dz"}:
        raw = gzip.decompress(raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


PACKAGES: dict[str, Source] = {
    "linux-doc-6.1": linux,
    "dict-gcide": gcide,
    "wordnet-base": wordnet,
    "python3.11-doc": files("usr/share/doc/python3.11/html/_sources/**/*.txt"),
    "perl-doc": files("usr/share/perl/5.36.0/pod/*.pod"),
    "anarchism": files("usr/share/doc/anarchism/html/**/*.html"),
}


def unpacked(package: str, folder: Path, debs: Path) -> tuple[Path, str]:
    """The package's files, and its version."""
    if not list(debs.glob(f"{package}_*.deb")):
        subprocess.run(["apt-get", "download", package], cwd=debs, check=True)
    (deb,) = debs.glob(f"{package}_*.deb")
    root = folder / "unpacked" / package
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", str(deb.resolve()), str(root)], check=True)
    asked = subprocess.run(["dpkg-deb", "-f", str(deb), "Version"], check=True, capture_output=True)
    return root, asked.stdout.decode().strip()


def main(folder: Path, debs: Path, out: Path) -> None:
    debs.mkdir(parents=True, exist_ok=True)
    for package, pages in PACKAGES.items():
        root, version = unpacked(package, folder, debs)
        count = size = 0
        for name, text in pages(root):
            raw = text.encode()
            if len(raw) >= SMALLEST:
                path = folder / "text" / package / f"{name.removesuffix('.gz')}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(raw)
                count, size = count + 1, size + len(raw)
        print(f"| {package} | {version} | {count:,} | {size:,} |", flush=True)
    command = [sys.executable, "-m", "anytrain", "prepare", str(folder / "text"), "stdlib"]
    command += ["--out", str(out), "--tokenizer", TOKENIZER, "--json"]
    done = subprocess.run(command, check=True, capture_output=True)
    print(json.dumps(json.loads(done.stdout), indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--debs", type=Path, help="packages as downloaded; FOLDER/debs if absent")
    parser.add_argument("--out", type=Path, default=Path("data/text512"))
    asked = parser.parse_args()
    main(asked.folder, asked.debs or asked.folder / "debs", asked.out)
