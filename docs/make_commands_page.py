"""Write commands.md: what every verb says of itself.

python docs/make_commands_page.py
"""

import importlib
import os
from pathlib import Path

os.environ["COLUMNS"] = "92"  # of argparse's help

from anytrain.cli.main import GROUPS, parser, resolve

PAGE = Path(__file__).parent / "commands.md"
HEAD = """\
# Commands

Weights are named `RUN[@WHEN][:WEIGHTS]` everywhere: `runs/a@20B-tokens:ema25`, `runs/a@12500:raw`,
`runs/a` (its best). Durations are `2000-steps`, `20M-tokens`, `10min`, settings `key.path=value`.
Exit codes: 0 done, 2 something in what was asked (one sentence says what), 130 interrupted.
This page is written by `python docs/make_commands_page.py` from the code.
"""


def words() -> list[tuple[str, list[list[str]]]]:
    """Groups and the words of their verbs."""
    found = []
    for group, verbs in GROUPS.items():
        inside: list[list[str]] = []
        for verb in verbs:
            module = importlib.import_module(f"anytrain.cli.{verb}")
            within = getattr(module, "SUMMARIES", None)
            inside += [[verb]] if within is None else [[verb, each] for each in within]
        found.append((group, inside))
    return found


def page() -> str:
    parts = [HEAD]
    for group, verbs in words():
        parts.append(f"## {group}\n")
        for verb in verbs:
            name, module, _ = resolve(verb)
            text = parser(name, module).format_help().strip()
            parts.append(f"### anytrain {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
