"""How fast the excess risk falls with the number of samples, and the theorem that says so.

anytrain theory rates --capacity 1.5 --source 3
"""

import argparse

from anytrain.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--capacity", type=float, required=True, metavar="a",
                        help="eigenvalues fall as i^-a; above 1")  # fmt: skip
    parser.add_argument("--source", type=float, required=True, metavar="b",
                        help="eigenvalue times squared target falls as i^-b; above 1")  # fmt: skip
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    from anytrain.theory.rates import rates

    try:
        found = rates(args.capacity, args.source)
    except ValueError as error:
        raise UserError(str(error)) from error
    if args.json:
        import dataclasses
        import json

        print(json.dumps(dataclasses.asdict(found)))
    else:
        print(found)
    return 0
