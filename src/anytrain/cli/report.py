"""Validation loss of runs side by side, at equal total tokens.

The first RUN is the trunk: it is read at 1, 2, 4, 8 … units, raw and every average. Runs with a
horizon beside it (cooldowns branched from it, cosine, linear, WSD) count once, where they ended;
runs without one are read at the same moments. With --out, DIR gets page.html (one file, works
offline), frontier.png, frontier.svg, table.md and table.csv. A study's directory is reported alone:
its page, summary.md, table.csv, table.parquet and figures/. With --live, a page on this machine
that follows runs while they train, until Ctrl-C.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytrain.compare.frontier import Frontier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, where the page goes, and the form of the answer."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the trunk, then runs beside it")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write the page and the tables")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--live", action="store_true", help="serve a page that follows the runs")
    parser.add_argument("--port", type=int, help="of the live page; 0 takes any")


def run(args: argparse.Namespace) -> int:
    """Print the table; with --out, write the page; with --live, serve it."""
    _check(args)
    if args.live:
        return live(args.runs, args.port)
    if _is_study(args.runs):
        return study(args)
    from anytrain.compare.frontier import frontier
    from anytrain.rundir import RunDir

    trunk, *beside = [RunDir.open(path) for path in dict.fromkeys(args.runs)]
    found = frontier(trunk, beside)
    written = write(found, args.out, _command(args)) if args.out is not None else []
    if args.json:
        import json

        print(json.dumps(answer(found) | {"written": [str(path) for path in written]}, indent=2))
        return 0
    print("\n".join(lines(found)))
    if written:
        print()
        print("wrote " + ", ".join(str(path) for path in written))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Say in a sentence which options do not go together."""
    from anytrain.errors import UserError

    if args.live and args.out is not None:
        raise UserError(f"--live with --out {args.out}: a page is served or written, not both")
    if args.live and args.json:
        raise UserError("--live with --json: a page or numbers, not both")
    if args.port is not None and not args.live:
        raise UserError(f"--port {args.port} is of the live page; with --live it is valid")


def _is_study(paths: list[str]) -> bool:
    """Whether what is to be reported is the directory of a study."""
    from anytrain.errors import UserError
    from anytrain.study.gather import Study

    studies = [path for path in paths if (Path(path) / Study.DESIGN).is_file()]
    if studies and len(paths) > 1:
        raise UserError(f"{studies[0]} is a study; it is reported alone, not beside other runs")
    return bool(studies)


def study(args: argparse.Namespace) -> int:
    """Print a study's answers as far as they are; with --out, write its page and tables."""
    from anytrain.compare.findings import findings, headline
    from anytrain.files import read_toml
    from anytrain.study import reporting
    from anytrain.study.gather import Study

    path = Path(args.runs[0])
    if read_toml(path / Study.DESIGN).get("kind") == "post-training":
        return post(args)
    found = reporting.opened(path)
    written: list[Path] = []
    if args.out is not None:
        results, written = reporting.write(found, args.out, _command(args))
    else:
        results = found.results()
    if args.json:
        import json

        from anytrain.study import tidy

        rows = tidy.rows(results)
        print(json.dumps({"rows": rows, "written": [str(path) for path in written]}, indent=2))
        return 0
    said = findings(results)
    print(headline(said))
    for verdict in said.verdicts:
        print(f"{verdict.question} {verdict.word}: {verdict.numbers}")
    if written:
        print(f"\nwrote {', '.join(str(path) for path in written if path.parent == args.out)}")
    return 0


def post(args: argparse.Namespace) -> int:
    """The same of a post-training study."""
    import json

    from anytrain.compare.post import answers
    from anytrain.report.post_sections import headline
    from anytrain.study.post import gather, reporting
    from anytrain.study.post.conducted import PostStudy
    from anytrain.study.post.design import Design

    path = Path(args.runs[0])
    found = PostStudy(Design(path / "study.toml"), path)
    written: list[Path] = []
    if args.out is not None:
        results, written = reporting.write(found, args.out, _command(args))
    else:
        results = gather.results(found)
    if args.json:
        rows = list(reporting.rows(results))
        print(json.dumps({"rows": rows, "written": [str(path) for path in written]}, indent=2))
        return 0
    print(headline(results))
    for answer in answers(results):
        print(f"{answer.question} {answer.word}: {answer.numbers}")
    if written:
        print(f"\nwrote {', '.join(str(path) for path in written if path.parent == args.out)}")
    return 0


def live(runs: list[str], port: int | None) -> int:
    """Serve the page of runs in progress until Ctrl-C, which is how it is meant to end."""
    import signal

    from anytrain.report.live import Watch
    from anytrain.report.live_server import server

    with server([Watch(path) for path in dict.fromkeys(runs)], port) as serving:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        try:
            print(f"{serving.url}  (Ctrl-C ends it)", flush=True)
            serving.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def _command(args: argparse.Namespace) -> str:
    import shlex

    return shlex.join(["anytrain", "report", *args.runs, "--out", str(args.out)])


def lines(found: "Frontier") -> list[str]:
    """The table, and what it says in a sentence."""
    from anytrain.report import table
    from anytrain.words import signed

    if not found.rows:
        return [f"{found.run.path} has no evaluation yet", *found.notes]
    out = [table.text(found), "", *table.caption(found)]
    for kind in found.kinds:
        gaps = [gap for row in found.rows if (gap := row.minus(kind)) is not None]
        if gaps:
            out.append(
                f"Best − {kind}: {signed(min(gaps))} to {signed(max(gaps))} over {len(gaps)} "
                f"horizon{'s' * (len(gaps) > 1)}; ahead at {sum(gap < 0 for gap in gaps)}."
            )
    gains = [gain for row in found.rows if (gain := row.minus_raw) is not None]
    if gains:
        ahead = sum(gain < 0 for gain in gains)
        out.append(
            f"Best − raw: {signed(min(gains))} to {signed(max(gains))}; "
            f"an average is ahead at {ahead} of {len(gains)}."
        )
    return out


def answer(found: "Frontier") -> dict[str, Any]:
    """The report as plain data; losses and differences in nats/token, absent is None."""
    from anytrain.report import table

    return {
        "run": str(found.run.path),
        "unit_tokens": found.unit,
        "weights": found.weights,
        "rows": table.records(found),
        "branches": [
            {
                "run": branch.name,
                "kind": branch.kind,
                "schedule": branch.schedule,
                "step": branch.end.step,
                "tokens": branch.end.tokens,
                "loss": branch.loss,
            }
            for branch in found.branches
        ],
        "notes": list(found.notes),
    }


def write(found: "Frontier", out: Path, command: str) -> list[Path]:
    """Write the five files; a missing extra or an empty run is said before anything is made."""
    from anytrain.errors import UserError
    from anytrain.files import write_atomic
    from anytrain.report import figures, table
    from anytrain.report.page import page

    figures.require()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; a directory, there or not, is valid")
    files: dict[str, str | bytes] = {
        "frontier.png": figures.png(found),
        "frontier.svg": figures.svg(found),
        "table.md": table.markdown(found),
        "table.csv": table.comma_separated(found),
        "page.html": page(found, command),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(out / name, content)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from error
    return [out / name for name in files]
