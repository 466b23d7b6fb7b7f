"""A post-training study's results, written: the tidy table, the page, figures, the summary."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anytrain.compare.post import PostResults
from anytrain.errors import UserError
from anytrain.files import write_atomic
from anytrain.report import figures, study_page
from anytrain.report.post_sections import headline, key_figures, sections
from anytrain.study.post.conducted import PostStudy
from anytrain.study.post.gather import results

COLUMNS = ("base", "kind", "seed", "task", "lr", "score", "retention", "loss", "trace",
           "trace_stderr", "task_trace")  # fmt: skip


def rows(found: PostResults) -> Iterator[dict[str, Any]]:
    """One a base, pre-training seed and task."""
    for outcome in found.outcomes:
        before = found.before(outcome.base, outcome.seed)
        yield {
            "base": outcome.base, "kind": found.bases[outcome.base], "seed": outcome.seed,
            "task": outcome.task, "lr": outcome.lr, "score": outcome.score,
            "retention": outcome.retention, "loss": before.loss if before else None,
            "trace": before.trace if before else None,
            "trace_stderr": before.trace_stderr if before else None,
            "task_trace": before.task_traces.get(outcome.task) if before else None,
        }  # fmt: skip


def write(study: PostStudy, out: Path, command: str) -> tuple[PostResults, list[Path]]:
    """table.csv, page.html, summary.md and figures/; a UserError where nothing was measured."""
    found = results(study)
    if not found.outcomes and not found.pretrained:
        raise UserError(f"{study.out} has no base that was fine-tuned or measured yet")
    figures.require()
    plotly = study_page.bundle()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; a directory, there or not, is valid")
    top = study_page.Top(
        found.name, "which weights become the best model?", headline(found), key_figures(found)
    )
    written = study_page.write(top, sections(found, command), out, plotly)
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows(found))
    write_atomic(out / "table.csv", text.getvalue())
    return found, [out / "table.csv", *written]
