"""`anytrain VERB …`: one verb per file, imported only when it is the one asked for."""

import argparse
import errno
import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

from anytrain.errors import UserError, nearest

# What a machine refuses and a person can mend: a sentence, not a traceback.
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
            errno.ENAMETOOLONG}  # fmt: skip

_LONGEST = 2000  # characters of a sentence

GROUPS: dict[str, tuple[str, ...]] = {
    "Train": ("prepare", "plan", "train", "status", "fork", "doctor"),
    "Release": ("release", "merge", "convert", "generate"),
    "Post-train": ("finetune", "evaluate"),
    "Compare": ("study", "report", "sharpness"),
    "Theory": ("theory",),
    "Shell": ("completion",),
}

SUMMARIES: dict[str, str] = {
    "prepare": "turn text into token shards that training reads",
    "plan": "what a recipe costs: parameters, tokens, FLOPs, memory, disk",
    "train": "train a recipe until told to stop, or go on with a run",
    "status": "where a run is, what it gained, what the next doubling buys",
    "fork": "a new run from an old one's state: a cooldown, another setting",
    "doctor": "what is missing for which verb, and whether the laws hold here",
    "release": "write any weights of a run as a Hugging Face directory",
    "merge": "stream checkpoints into one: any rule, after the fact",
    "convert": "another trainer's checkpoint as a Hugging Face directory",
    "generate": "continue a prompt with any weights of a run",
    "finetune": "fine-tune any weights by TRL: rates tuned, then seeds, then a table",
    "evaluate": "any weights on tasks of lm-evaluation-harness, with paired intervals",
    "study": "schedules compared fairly: tuned, with seeds, at every horizon",
    "report": "validation loss of runs side by side: a table, a page, a picture",
    "sharpness": "curvature of the held-out loss: traces, eigenvalues, barriers",
    "theory": "linear regression, exactly: rates, sweep, estimate, advise",
    "completion": "what makes bash, zsh, fish or tcsh complete all of this",
}


def overview() -> str:
    """The help page: verbs in their groups."""
    from anytrain import __version__

    lines = [
        f"anytrain {__version__}: pretrain without deciding when to stop",
        "",
        "usage: anytrain VERB …        anytrain VERB --help",
    ]
    for group, verbs in GROUPS.items():
        lines += ["", group]
        lines += [f"  {verb:<10} {SUMMARIES[verb]}" for verb in verbs]
    lines += [
        "",
        "weights    RUN[@WHEN][:WEIGHTS]   runs/a@20B-tokens:ema25, runs/a@12500:raw, runs/a",
        "durations  2000-steps, 20M-tokens, 10min",
        "settings   key.path=value, for example train.batch=64",
    ]
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as everything here does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('anytrain ')}: {message}; see {self.prog} --help")


def parser(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    """The argument parser of one verb."""
    made = _Parser(
        prog=f"anytrain {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(made)
    return made


def resolve(argv: Sequence[str]) -> tuple[str, ModuleType, list[str]]:
    """The verb's words, its module and its arguments; `theory` is a package of verbs."""
    verb, rest = argv[0], list(argv[1:])
    if verb not in SUMMARIES:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, SUMMARIES)}")
    module = importlib.import_module(f"anytrain.cli.{verb}")
    within: dict[str, str] | None = getattr(module, "SUMMARIES", None)
    if within is None:
        return verb, module, rest
    if not rest or rest[0] in ("-h", "--help", "help"):
        page = [f"usage: anytrain {verb} VERB …", "", (module.__doc__ or "").strip(), ""]
        print("\n".join([*page, *(f"  {name:<10} {what}" for name, what in within.items())]))
        raise SystemExit(0)
    if rest[0] not in within:
        raise UserError(f"unknown verb {f'{verb} {rest[0]}'!r}{nearest(rest[0], within)}")
    found = importlib.import_module(f"anytrain.cli.{verb}.{rest[0]}")
    return f"{verb} {rest[0]}", found, rest[1:]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; see `guarded` for its exit codes."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv[0] == "--version":
        from anytrain import __version__

        print(f"anytrain {__version__}")
        return 0
    return guarded(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    verb, module, rest = resolve(argv)
    args = parser(verb, module).parse_intermixed_args(rest)
    args.words = argv  # for a verb that starts itself again
    return int(module.run(args))


def guarded(action: Callable[[], int]) -> int:
    """0: done; 2: the input is wrong, in one sentence; 130: interrupted; else what it returns."""
    try:
        return action()
    except UserError as error:
        print(f"anytrain: {_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone; there is nobody to tell
        return 0
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"anytrain: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("anytrain: interrupted", file=sys.stderr)
        return 130


def _line(text: str) -> str:
    """One line that a terminal can show: what a damaged file holds may be long or steer it."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


if __name__ == "__main__":
    sys.exit(main())
