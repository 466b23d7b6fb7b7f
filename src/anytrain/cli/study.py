"""Compare schedules fairly: every arm tuned on the same grid, reported on other seeds.

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

if TYPE_CHECKING:
    from anytrain.study.gather import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, where its runs go, and what trains them."""
    parser.add_argument("study", metavar="STUDY.toml", type=Path, help="the study file")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="runs and results")
    parser.add_argument("--executor", default="local", metavar="KIND[:KEY=VALUE,…]",
                        help="local (slots=2), ray (address=…), slurm (partition=…)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained")


def run(args: argparse.Namespace) -> int:
    """Train what is missing; write the results as far as they are, however it ends."""
    from anytrain.study.design import Design
    from anytrain.study.gather import Study

    study = Study(Design(args.study), args.out)
    if args.dry_run:
        print("\n".join(_dry(study)))
        return 0
    from anytrain.study.conduct import conduct
    from anytrain.study.executors import executor

    conduct(study, executor(args.executor), print)
    return 0


def _dry(study: "Study") -> list[str]:
    from anytrain.study.words import tokens

    out = []
    for job in study.plan.jobs.values():
        state = "done" if study.done(job) else ""
        out.append(f"{job.name:<60} {tokens(job.cost):>8} {state}")
    out.append(
        f"{len(study.plan.jobs)} jobs, {tokens(sum(j.cost for j in study.plan.jobs.values()))}"
    )
    return out
