"""The trace of a matrix from its products with random signs."""

from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from anytrain.curvature.hvp import Operator
from anytrain.errors import UserError


@dataclass(frozen=True)
class Trace:
    """tr H = E zᵀHz for independent signs z (Hutchinson 1990), and how sure it is."""

    samples: tuple[float, ...]  # zᵀHz of each probe; probe k is the same for every checkpoint

    @property
    def mean(self) -> float:
        return fmean(self.samples)

    @property
    def stderr(self) -> float:
        """Standard error over probes; the batches are part of what is measured."""
        return stdev(self.samples) / sqrt(len(self.samples))


def hutchinson(operator: Operator, probes: int, seed: int = 0) -> Trace:
    """(1/N) Σ dᵀHd over N probes, as in arXiv:2603.16127, appendix; raises UserError below 2."""
    if probes < 2:
        raise UserError(f"probes = {probes}; 2 or more are valid, or there is no standard error")
    objective = operator.objective
    return Trace(tuple(operator.forms(lambda number: objective.probe(number, seed), probes)))
