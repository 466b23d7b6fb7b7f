"""Print what makes a shell complete verbs, options, run directories, recipes and their settings.

anytrain completion bash > ~/.local/share/bash-completion/completions/anytrain
anytrain completion zsh > ~/.zfunc/_anytrain            with ~/.zfunc in fpath, before compinit
anytrain completion fish > ~/.config/fish/completions/anytrain.fish
anytrain completion tcsh > ~/.anytrain.tcsh             and source it in ~/.tcshrc

Print it again after an update: it is fixed text and starts no Python.
"""

import argparse
import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh")

# Arguments by their names: what is completed where a type does not say it.
_RUNS = {"run", "runs", "weights", "inputs", "start_from"}
_RECIPES = {"recipe", "settings"}
_PATHS = {"sources", "out", "data", "tokenizer"}

# Of directories those that are runs or lead to one within two levels; where there are none, all.
# shtab asks bash to treat results as file names where the function's name has `_dir` or `_file`.
_BASH = """\
_anytrain_run_dirs() {{
  local all found d
  all=$(compgen -d -- "$1") || return 0
  while IFS= read -r d; do
    if [ -e "$d/run.json" ] || compgen -G "$d/*/run.json" >/dev/null ||
       compgen -G "$d/*/*/run.json" >/dev/null; then found=${{found:+$found$'\\n'}}$d; fi
  done <<< "$all"
  printf '%s\\n' "${{found:-$all}}"
}}
_anytrain_recipe_files() {{
  compgen -W "{words}" -- "$1"
  compgen -f -X '!*.toml' -- "$1"
  compgen -d -- "$1"
}}
"""

# A setting is completed up to its `=`; the value follows it without a space.
_BASH_SETTINGS = """
_anytrain_completed() {{
  {function} "$@"
  if [[ ${{#COMPREPLY[@]}} = 1 && ${{COMPREPLY[0]}} == *= ]]; then
    compopt -o nospace 2>/dev/null || :
  fi
}}
complete -o bashdefault -F _anytrain_completed anytrain
"""

_ZSH = """\
_anytrain_recipe_files() {{
  compadd -S '' -- {words}
  _files
}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which shell")


def run(args: argparse.Namespace) -> int:
    print(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The whole text for one shell."""
    import shtab

    words = " ".join(recipe_words())
    preamble = {"bash": _BASH.format(words=words), "zsh": _ZSH.format(words=words)}
    made = str(shtab.complete(whole(), shell, preamble=preamble.get(shell, "")))
    if shell != "bash":
        return made
    function = made.rpartition("complete -o bashdefault -F ")[2].split()[0]
    return made + _BASH_SETTINGS.format(function=function)


def whole() -> argparse.ArgumentParser:
    """One parser of every verb with every argument, each marked with what completes it."""
    from anytrain.cli.main import SUMMARIES

    root = argparse.ArgumentParser("anytrain")
    root.add_argument("--version", action="store_true", help="print the version")
    verbs = root.add_subparsers()
    for verb, summary in SUMMARIES.items():
        module = importlib.import_module(f"anytrain.cli.{verb}")
        made = verbs.add_parser(verb, help=summary)
        within: dict[str, str] | None = getattr(module, "SUMMARIES", None)
        if within is None:
            _add(made, module)
            continue
        below = made.add_subparsers()
        for name, what in within.items():
            inner = importlib.import_module(f"anytrain.cli.{verb}.{name}")
            _add(below.add_parser(name, help=what), inner)
    return root


def _add(parser: argparse.ArgumentParser, module: Any) -> None:
    module.add_arguments(parser)
    for action in parser._actions:
        how = _completer(action)
        if how is not None:
            action.complete = how  # type: ignore[attr-defined]


def _completer(action: argparse.Action) -> dict[str, Any] | None:
    """What shtab calls for an argument, by shell; None for one whose value nobody can list."""
    import shtab

    positional = not action.option_strings
    if action.dest in _RUNS and (positional or action.dest in ("run", "start_from")):
        return {**shtab.DIRECTORY, "bash": "_anytrain_run_dirs"}
    if positional and action.dest in _RECIPES:
        return {**shtab.FILE, "bash": "_anytrain_recipe_files", "zsh": "_anytrain_recipe_files"}
    if action.type is Path or action.dest in _PATHS:
        return dict(shtab.FILE)
    return None


def recipe_words() -> list[str]:
    """The shipped recipes, then every setting with its `=`."""
    from anytrain.training import recipes
    from anytrain.training.config import Recipe

    return [*recipes.shipped(), *(f"{key}=" for key in keys(Recipe))]


def keys(table: Any, above: str = "") -> Iterator[str]:
    """`key.path` of every setting of a recipe, those of its tables included."""
    import typing

    hints = typing.get_type_hints(table)
    for field in dataclasses.fields(table):
        kinds = (hints[field.name], *typing.get_args(hints[field.name]))
        inner = next((k for k in kinds if dataclasses.is_dataclass(k) and _has_keys(k)), None)
        if inner is None:
            yield f"{above}{field.name}"
        else:
            yield from keys(inner, f"{above}{field.name}.")


def _has_keys(kind: Any) -> bool:
    from anytrain.grammar import Quantity

    return kind is not Quantity  # one value, written as text
