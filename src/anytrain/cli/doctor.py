"""What is missing for which verb; with a recipe, whether the laws hold on this machine.

anytrain doctor                                what is here, what is not, and how to add it
anytrain doctor demo train.batch=64            trains, kills, resumes, merges; compares bits
anytrain doctor --run runs/a                   the same with a run's recipe; its releases cite it

With a recipe, a few steps of it are trained again and again in a scratch directory, on random
tokens where its data are not there. What was found is written as a certificate. Exit code 1: a
package that a verb needs is missing, or a law is broken.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytrain.errors import UserError
from anytrain.grammar import import_user_module

if TYPE_CHECKING:
    from anytrain.training.config import Recipe

CERTIFICATE = Path("anytrain-certificate.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a shipped recipe or a TOML file")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--run", type=Path, help="a run, whose recipe and data are taken")
    parser.add_argument("--steps", type=int, default=8, metavar="N",
                        help="of a run that stops; one that goes on has 2N; 8")  # fmt: skip
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where to train, on the "
                        "filesystem in question; here, or beside the run, if absent")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the certificate; {CERTIFICATE}, "
                        "or certificate.json in the run, if absent")  # fmt: skip
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    if args.recipe is None and args.run is None:
        return _table(args.json)
    if args.recipe is not None and args.run is not None:
        raise UserError(f"doctor takes the recipe of {args.run} or {args.recipe!r}, not both")
    return _laws(args)


# --- what is installed -----------------------------------------------------------------------


def _table(as_json: bool) -> int:
    from dataclasses import asdict

    from anytrain.doctor import needs

    rows, about = needs.look(), _about()
    if as_json:
        print(json.dumps(about | {"verbs": [asdict(row) for row in rows]}, indent=1))
    else:
        for label, text in about.items():
            print(f"{label:<11} {text}")
        here = {package: version for row in rows for package, version in row.here.items()}
        print(f"{'packages':<11} {', '.join(map(' '.join, sorted(here.items())))}\n")
        for row in rows:
            print(f"{row.verb:<11} {'ready' if row.ready else 'NOT READY'}")
            lacks = {f"needs {package}": how for package, how in row.missing.items()}
            for what, how in (lacks | row.optional).items():
                print(f"{'':<11} {what}: {how}")
    return 0 if all(row.ready for row in rows) else 1


def _about() -> dict[str, str]:
    """The machine, in words."""
    import platform
    import shutil

    from anytrain import __version__
    from anytrain.doctor import machine, needs
    from anytrain.words import size

    gpus = machine.gpus()
    torch = needs.version("torch")
    if gpus and torch.endswith("+cpu"):
        torch += ", a build that cannot use the GPU: https://pytorch.org/get-started has others"
    return {
        "anytrain": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch,
        "GPUs": ", ".join(gpus) or "none",
        "cores": f"{machine.cores()} of {machine.processor()}",
        "disk": f"{size(shutil.disk_usage('.').free)} free here ({machine.filesystem(Path())})",
    }


# --- whether the laws hold -------------------------------------------------------------------


def _laws(args: argparse.Namespace) -> int:
    for module in args.imports:
        import_user_module(module)

    from anytrain.certificate import NAME
    from anytrain.doctor.examine import examine

    recipe = _recipe(args)
    out = args.out or (CERTIFICATE if args.run is None else args.run / NAME)
    parent = args.scratch or (Path() if args.run is None else args.run.parent)
    say: Callable[[str], Any] = (lambda _: None) if args.json else _say
    found = examine(recipe, parent, args.steps, args.imports, say)
    found.write(out)
    if args.json:
        print(found.json, end="")
    broken = [check.name for check in found.named("broken")]
    say(f"broken: {', '.join(broken)}; see {out}" if broken else f"no law is broken: {out}")
    return 1 if broken else 0


def _recipe(args: argparse.Namespace) -> "Recipe":
    from anytrain.rundir import RunDir
    from anytrain.training import recipes

    if args.run is None:
        return recipes.load(args.recipe, args.settings)
    return recipes.recipe(RunDir.open(args.run).recipe, str(args.run))


def _say(line: str) -> None:
    print(line, flush=True)
