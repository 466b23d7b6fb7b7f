"""How much each input of a merge weighs: by hand, or by a rule and the steps they are at."""

from collections.abc import Sequence
from math import isfinite

from anytrain.averaging.mass import Mass, weigh
from anytrain.errors import UserError
from anytrain.merging.inputs import Input
from anytrain.rundir import RunDir


def weights_by_hand(inputs: Sequence[Input], given: Sequence[float], any_sum: bool) -> list[float]:
    """Weights that were given, one an input; they sum to one unless `any_sum`."""
    if len(given) != len(inputs):
        raise UserError(f"{len(given)} weights for {len(inputs)} inputs; one each is valid")
    if not all(isfinite(weight) for weight in given) or not any(given):
        raise UserError(f"the weights are {list(given)}; finite ones, not all 0, are valid")
    total = sum(given)
    if not any_sum and abs(total - 1.0) > 1e-6:
        raise UserError(f"the weights sum to {total:.6g}; 1 is valid (or --any-sum)")
    return list(given)


def reference_tokens(run: RunDir) -> float:
    """Tokens of a step at the reference batch, by which t counts."""
    train = run.recipe["train"]
    return float((train.get("reference_batch") or train["batch"]) * train["context"])


def weights_by_rule(
    inputs: Sequence[Input], rule: Mass, at: Sequence[float] | None = None
) -> list[float]:
    """The weights that a rule gives the inputs; `at` are their steps, where they do not say."""
    return [float(w) for w in weigh(rule, moments(inputs, rule, at))]


def moments(inputs: Sequence[Input], rule: Mass, given: Sequence[float] | None) -> list[float]:
    """Progress of each input in steps: given, its own, or 1, 2, 3 … where none has one.

    A rule that is not `timed` needs their order alone.
    """
    if given is not None:
        if len(given) != len(inputs):
            raise UserError(
                f"--at has {len(given)} steps for {len(inputs)} inputs; one each is valid"
            )
        if not all(isfinite(t) and t >= 0 for t in given):
            raise UserError(f"--at has the steps {list(given)}; 0 or more is valid")
        return list(given)
    known = [found.t for found in inputs if found.t is not None]
    if not (known and rule.timed):
        return [float(i + 1) for i in range(len(inputs))]
    if len(known) < len(inputs):
        raise UserError(
            "some inputs say at which step they are and some do not; --at says it for all"
        )
    return known
