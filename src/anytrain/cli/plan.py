"""What a recipe costs, before anything is allocated.

anytrain plan wso-8b --devices 64
anytrain plan demo train.batch=64 --json
anytrain plan wso-8b --devices 64 --memory 80GB      whether it fits, and with which sharding
"""

import argparse
import dataclasses
import json

from anytrain.grammar import import_user_module


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a shipped recipe or a TOML file")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--devices", type=int, default=1, help="that share the state equally")
    parser.add_argument("--speed", type=float, default=4e14, metavar="FLOPS",
                        help="FLOP/s of a device; 4e14, an H100 at 40%%, if absent")  # fmt: skip
    parser.add_argument("--memory", metavar="BYTES",
                        help="of a device, such as 80GB; exit code 1 if too little")  # fmt: skip
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    for module in args.imports:
        import_user_module(module)

    from anytrain.training import recipes
    from anytrain.training.fitting import byte_count, fitting
    from anytrain.training.plan import lines, optimizer_bytes, plan, size, with_known_vocab

    recipe = with_known_vocab(recipes.load(args.recipe, args.settings))
    made = plan(recipe, args.devices, args.speed)
    room = byte_count(args.memory, what="--memory") if args.memory else None
    fits, way = True, None
    if room is not None:
        fits, way = fitting(recipe, args.devices, room, optimizer_bytes(recipe))
    if args.json:
        more = {"fits": fits, "way": dataclasses.asdict(way), "needs": way.total} if way else {}
        print(json.dumps(dataclasses.asdict(made) | {"memory": made.memory} | more))
        return 0 if fits else 1
    print(f"{recipe.name}: {recipe.schedule}")
    for label, text in lines(made):
        print(f"  {label:<27} {text}")
    if way is not None:
        verdict = "fits" if fits else "does NOT fit, even"
        print(f"  {f'in {args.memory} a device':<27} {verdict} with {way}: {size(way.total)}")
    return 0 if fits else 1
