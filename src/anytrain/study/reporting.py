"""A study's results, written: the tidy table, the page, its figures, the summary."""

from pathlib import Path

from anytrain.compare.results import Results
from anytrain.errors import UserError
from anytrain.report.prediction_sections import sections
from anytrain.report.study_page import write_page
from anytrain.study import tidy
from anytrain.study.design import Design
from anytrain.study.gather import Study


def opened(out: Path) -> Study:
    """The study of a directory, by the design it was last conducted by."""
    return Study(Design(out / Study.DESIGN), out)


def write(study: Study, out: Path, command: str) -> tuple[Results, list[Path]]:
    """Write table.parquet, table.csv, page.html, summary.md and figures/ of what is there so far.

    A missing extra is said before anything is written; a UserError where nothing was measured.
    """
    results = study.results()
    if not results.observations:
        raise UserError(f"{study.out} has no run that reached a horizon yet")
    out.mkdir(parents=True, exist_ok=True)
    written = write_page(results, sections(results, study.out), out, command)
    return results, [*tidy.write(results, out), *written]
