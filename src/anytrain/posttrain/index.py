"""The harness's own index of its tasks, and only as much of it as is needed.

It has 14 000 files, which take it ten seconds of a core to parse. A name is defined in a folder
whose file has a line `task: NAME` or `group: NAME`, and the index of that folder mostly has all
that a group names; where it has not, and for tags and unknown names, the whole index is read.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager

_ROOT = Path(lm_eval.tasks.__file__).parent
_NAMED = re.compile(rb"^(?:task|group): *['\"]?([^\s'\"#\[\]{}]+)['\"]? *$", re.MULTILINE)


def manager(name: str) -> TaskManager:
    """The harness's manager of tasks with an index that has `name`, if the harness has it."""
    folders = _folders().get(name, ())
    if len(folders) == 1:  # of two definitions the whole index knows which counts
        found = _of_folder(next(iter(folders)))
        if _complete(name, found):
            return found
    return whole()


@cache
def whole() -> TaskManager:
    """Everything that the installed harness knows; takes ten seconds."""
    return TaskManager()


@cache
def _of_folder(folder: str) -> TaskManager:
    return TaskManager(include_defaults=False, include_path=str(_ROOT / folder))


@cache
def _folders() -> dict[str, set[str]]:
    """Name -> the harness's folders that define it."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in _ROOT.glob("*/**/*.yaml"):
        for name in _NAMED.findall(file.read_bytes()):
            found[name.decode()].add(file.relative_to(_ROOT).parts[0])
    return dict(found)


def _complete(name: str, found: TaskManager) -> bool:
    """Whether a task, or a group with all that it names, is in an index."""
    waiting, seen = [name], set()
    while waiting:
        if (one := waiting.pop()) in seen:
            continue
        seen.add(one)
        if (entry := found.task_index.get(one)) is None:
            return False
        children = (entry.cfg or {}).get("task")
        waiting += _names(children) if isinstance(children, list) else []
    return True


def _names(children: Iterable[Any]) -> Iterable[str]:
    """What a group's list names, groups inside it too."""
    for child in children:
        inner = child.get("task", child.get("group")) if isinstance(child, dict) else child
        if isinstance(inner, list):
            yield from _names(inner)
        elif isinstance(inner, str):
            yield inner
