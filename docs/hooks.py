"""What the site has beside docs/: README.md as its first page, experiments/ with their pages.

A link that a reader of the repository follows from one file to another leads to the page of the
site; to a file that is no page, such as a script, it becomes plain text.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SHOWN = {".md", ".html", ".png"}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for path in sorted((ROOT / "experiments").rglob("*")):
        if path.suffix in SHOWN and path.is_file():
            inside = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, inside, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links as the site has them."""
    source = Path(page.file.abs_src_path).resolve().relative_to(ROOT).as_posix()
    if source == "README.md":
        markdown = markdown.replace("](docs/frontier.png)", "](frontier.png)")
    folder = posixpath.dirname(source)

    def moved(found: re.Match[str]) -> str:
        text, target = found.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return found.group()
        path, hash_, anchor = target.partition("#")
        there = posixpath.normpath(posixpath.join(folder, path))
        if (ROOT / there).is_dir() and (ROOT / there / "README.md").is_file():
            there = posixpath.join(there, "README.md")
        there = there.removeprefix("docs/")
        if files.get_file_from_path(there) is None:
            return text if (ROOT / there).exists() or (ROOT / "docs" / there).exists() else target
        here = posixpath.dirname(page.file.src_uri)
        return f"[{text}]({posixpath.relpath(there, here or '.')}{hash_}{anchor})"

    return _LINK.sub(moved, markdown)
