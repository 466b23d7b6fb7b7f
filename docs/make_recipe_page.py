"""Write docs/recipe.md from the code: every setting, its type, default and meaning.

python docs/make_recipe_page.py
"""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from anytrain import rules, schedules
from anytrain.models.shape import DecoderShape
from anytrain.training import config, tables

TABLES: dict[str, Any] = {
    "": config.Recipe,
    "model": DecoderShape,
    "data": tables.Data,
    "data.prepare": tables.Prepare,
    "train": tables.Train,
    "optimizer": tables.Optimizer,
    "evaluate": tables.Evaluate,
    "checkpoint": tables.Keep,
    "snapshots": tables.Snapshots,
    "guard": tables.Guard,
    "log": tables.Log,
    "parallel": tables.Parallel,
}
NESTED = {"model", "data", "train", "optimizer", "evaluate", "checkpoint", "log", "prepare",
          "snapshots", "guard", "parallel"}  # fmt: skip


def rows(cls: Any) -> list[tuple[str, str, str]]:
    """(name, type and default, comment) of every field, as its source line says."""
    source = inspect.getsource(cls)
    found = []
    for field in dataclasses.fields(cls):
        line = re.search(rf"^    {field.name}: (.*)$", source, re.MULTILINE)
        code, _, comment = (line[1] if line else "").partition("  # ")
        found.append((field.name, code.removesuffix(" = field("), comment))
    return found


def table(title: str, cls: Any) -> list[str]:
    lines = [f"## {title}", "", inspect.getdoc(cls) or "", "", "| key | type = default | |"]
    lines.append("|---|---|---|")
    for name, code, comment in rows(cls):
        if name not in NESTED:
            escaped = code.replace("|", "\\|")
            lines.append(f"| `{name}` | `{escaped}` | {comment} |")
    return [*lines, ""]


def page() -> str:
    lines = [
        "# A recipe",
        "",
        "TOML. Every key can be changed on the command line as `key.path=value`. Durations are",
        "`2000-steps`, `20M-tokens` or `10min`. This page is written by",
        "`python docs/make_recipe_page.py` from the code.",
        "",
        "On resume `averages`, `log`, `evaluate` (but `evaluate.tokens`), `checkpoint`,",
        "`snapshots`, `parallel`, `unit`, `name` and `train.batch` may change, `model` and",
        "`train.context` never, the rest in a fork.",
        "",
    ]
    for name, cls in TABLES.items():
        lines += table(f"[{name}]" if name else "Top level", cls)
    lines += ["# Schedules", "", '`schedule = "kind:parameter=value,…"`.', ""]
    for kind, cls in schedules.KINDS.items():
        lines += described(kind, cls)
    lines += ["", "# Averaging rules", "", '`[averages]` name = "kind:parameter=value,…".', ""]
    for kind, cls in rules.KINDS.items():
        lines += described(kind, cls)
    return "\n".join(lines).rstrip() + "\n"


def described(kind: str, cls: Any) -> list[str]:
    """One schedule or rule: what it is and its parameters."""
    named = [f.name if needed(f) else f"{f.name}={f.default}" for f in dataclasses.fields(cls)]
    said, _, _ = (inspect.getdoc(cls) or "").partition("\nExamples:")
    return [f"- **`{kind}`** ({', '.join(named)}): {' '.join(said.split())}"]


def needed(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING


if __name__ == "__main__":
    (Path(__file__).parent / "recipe.md").write_text(page(), encoding="utf-8")
