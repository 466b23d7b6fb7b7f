"""Compare schedules fairly: every arm tuned on its grid, reported on other seeds and text.

  anytrain study STUDY.toml --out DIR --dry-run      what would be trained, with tokens and hours
  anytrain study STUDY.toml --out DIR                train it; stop it and start it again at will
  anytrain report DIR --out REPORT                   the table and the page, of what is there

Runs without a horizon are trained once a setting and read at every horizon; runs with one are
trained again for each; branches share their trunk. Nothing is trained twice: arms, horizons, seeds
and grid values that are added to the file later find the runs that are there.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anytrain.errors import UserError

if TYPE_CHECKING:
    from anytrain.study.post.conducted import PostStudy

_REFUSED = 2  # what a verb ends with whose input is wrong


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, where its runs go, and what trains them."""
    parser.add_argument("study", metavar="STUDY.toml", type=Path, nargs="?", help="the study file")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="runs and results")
    parser.add_argument("--executor", default="local", metavar="KIND[:KEY=VALUE,…]",
                        help="local (slots=2), ray (address=…), slurm (partition=…)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained")
    parser.add_argument("--job", metavar="NAME", help="train one of its runs: what executors start")


def run(args: argparse.Namespace) -> int:
    """Train what is missing; write the results as far as they are, however it ends."""
    if args.job is not None:
        return job(args.out, args.job)
    if args.study is None:
        raise UserError("study needs a study file: anytrain study STUDY.toml --out DIR")
    if _kind(args.study) == "post-training":
        return _post(args)
    from anytrain.study.design import Design
    from anytrain.study.gather import Study

    study = Study(Design(args.study), args.out)
    if args.dry_run:
        from anytrain.study.outlook import outlook

        print("\n".join(outlook(study)))
        return 0
    from anytrain.study.conduct import conduct
    from anytrain.study.executors import executor
    from anytrain.study.outlook import before

    for line in before(study):
        print(line)
    try:
        conduct(study, executor(args.executor), lambda line: print(line, flush=True))
    finally:
        _report(args.out)
    return 0


def job(out: Path, name: str) -> int:
    """One training, or the verbs of one step; then a marker says that they ended well.

    A sweep that is refused does not hold up the step's other sweeps.
    """
    from anytrain.cli.main import main
    from anytrain.files import read_json, write_atomic

    told = read_json(out / "jobs" / f"{name}.json")
    if "verbs" not in told:
        from anytrain.study.work import work

        return work(out, name)
    begun, done = (out / "steps" / f"{name}.{word}" for word in ("begun", "done"))
    same = begun.is_file() and begun.read_text(encoding="utf-8").strip() == told["digest"]
    refused = 0
    for words in told["verbs"]:
        if not _there(words, same):
            begun.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(begun, told["digest"] + "\n")
            print(f"anytrain {' '.join(words)}", flush=True)
            if code := main(words):
                if (words[0], code) != ("finetune", _REFUSED):
                    return code
                refused = code
    if refused:
        return refused
    write_atomic(done, told["digest"] + "\n")
    return 0


def _there(words: list[str], same: bool) -> bool:
    """Whether what a verb makes at once is there; the others go on by themselves.

    Raises UserError where it is there and was made by another design.
    """
    if words[0] not in ("fork", "merge"):
        return False
    made = Path(words[words.index("--out") + 1])
    if made.exists() and not same:
        raise UserError(f"{made} was made by another design; remove it to make it again")
    return made.exists()


def _kind(path: Path) -> object:
    """What a study file says it is; nothing is the comparison of schedules."""
    from anytrain.files import read_toml

    return read_toml(path).get("kind")


def _post(args: argparse.Namespace) -> int:
    """A study of kind post-training: base models, fine-tuned and measured."""
    from anytrain.study.conduct import conduct
    from anytrain.study.executors import executor
    from anytrain.study.post.conducted import PostStudy
    from anytrain.study.post.design import Design

    study = PostStudy(Design(args.study), args.out)
    if args.dry_run:
        print("\n".join(study.outlook()))
        return 0
    try:
        conduct(study, executor(args.executor), lambda line: print(line, flush=True))
    finally:
        _post_report(study)
    return 0


def _post_report(study: "PostStudy") -> None:
    """The page and the table so far; no reason to fail for."""
    from anytrain.study.post import reporting

    try:
        _, written = reporting.write(study, study.out, f"anytrain report {study.out}")
    except UserError as error:
        print(f"no page: {error}")
        return
    print(f"wrote {written[0].parent}/page.html, summary.md, table.csv, figures/")


def _report(out: Path) -> None:
    """The page and the tables, where anything was measured; no reason to fail for."""
    from anytrain.study import reporting

    try:
        _, written = reporting.write(reporting.opened(out), out, f"anytrain report {out}")
    except UserError as error:
        print(f"no page: {error}")
        return
    print(f"wrote {written[0].parent}/page.html, summary.md, table.csv, table.parquet, figures/")
