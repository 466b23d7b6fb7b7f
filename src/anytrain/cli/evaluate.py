"""Measure any weights on tasks of lm-evaluation-harness, and compare them document by document.

anytrain evaluate runs/a runs/a:raw --tasks wso-pretrain --out results
anytrain evaluate models/sft --tasks mmlu:5,gsm8k:1 --chat --limit 200
anytrain evaluate models/a models/b --tasks my/task.yaml --offline
anytrain evaluate models/sft --instructions alpaca.json --chat --out results

The same command goes on where it was stopped. See docs/evaluate.md for suites and files.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from anytrain.errors import UserError, missing_extra


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", nargs="+",
                        help="RUN[@WHEN][:WEIGHTS] or a Hugging Face directory")  # fmt: skip
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK",
                        help="suite, NAME, NAME:SHOTS, FILE.yaml, FOLDER/; or commas")  # fmt: skip
    parser.add_argument("--out", type=Path, help="a directory for records; absent: none are kept")
    parser.add_argument("--shots", type=int, help="of tasks that are named without a number")
    parser.add_argument("--limit", type=int, help="the first documents of each task only")
    parser.add_argument("--chat", action="store_true", help="apply the chat template")
    parser.add_argument("--offline", action="store_true", help="data on this machine only")
    parser.add_argument("--instructions", type=Path, metavar="FILE",
                        help="answer these in AlpacaEval's format; bring a judge")  # fmt: skip
    parser.add_argument("--batch", type=int, help="requests at a time; default: by memory")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: the GPU where there is one")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    if not args.tasks and args.instructions is None:
        raise UserError("evaluate: --tasks or --instructions is needed; --tasks wso-pretrain, say")
    if args.instructions is not None and args.out is None:
        raise UserError("evaluate: --instructions writes answers, so --out DIR is needed")
    for package in ("lm_eval", "transformers", "accelerate"):
        if find_spec(package) is None:
            raise missing_extra(package, "evaluate", "evaluate")
    from anytrain.compare.task_scores import task_scores
    from anytrain.compare.task_table import lines, summary
    from anytrain.posttrain.instructions import Instructions
    from anytrain.posttrain.tasks import Settings, evaluate

    settings = Settings(
        args.limit, args.chat, args.offline, args.batch, shots=args.shots, device=args.device
    )
    with _folder(args.out) as out:
        also = args.instructions and Instructions.read(args.instructions, out, args.chat)
        records = evaluate(args.weights, args.tasks, out, settings, _say, also)
        found = task_scores(records, out)
        if args.json:
            print(json.dumps(summary(found)))
        elif found.tasks:
            print("\n".join(lines(found)))
    if also:
        _say(f"answers are in {out}/answers-*/model_outputs.json; judge them with alpaca_eval")
    return 0


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file; a directory, old or new, is valid")
        yield out
    else:
        with tempfile.TemporaryDirectory(prefix="anytrain-") as folder:
            yield Path(folder)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
