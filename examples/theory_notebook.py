# %% [markdown]
# # A schedule and an average of your own, tried before a run is paid for
#
# One-pass SGD on a linear regression has an exact risk: no sampling, no seeds, a few milliseconds a
# run. It is no language model, but it has the same two enemies, what has not been learned yet and
# noise, and a schedule that loses here has to say why it should win there.
#
#     pip install 'anytrain[report]'
#     python examples/theory_notebook.py          or open it as a notebook: cells begin with # %%

# %%
from dataclasses import dataclass
from math import floor, log2

import numpy as np

from anytrain import AnytimeEma, Constant, Cosine, InverseSqrt, Polynomial
from anytrain.grammar import Steps
from anytrain.testing import check_laws
from anytrain.theory import Problem, rates, simulate
from anytrain.theory.grid import peak_grid

# %% [markdown]
# ## The problem
#
# Eigenvalues fall as i^-a, the target such that λ·w*² falls as i^-b. With b = 2a theory asks for a
# rate that falls as 1/√t, and says what a constant one costs.

# %%
problem = Problem(dim=100_000, capacity=1.5, source=3.0, noise=0.01)
print(rates(problem.capacity, problem.source))

steps = 20_000
budgets = [200, 500, 1000, 2000, 5000, 10_000, 20_000]  # where somebody may want to stop
peaks = [m / problem.trace for m in (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)]

# %% [markdown]
# ## What it has to be compared with
#
# A cosine knows when it ends. Tuned for every budget by itself, it is the run you would have
# started had you known: as many runs as there are budgets, times the rates that were tried.

# %%
cosine = np.array(
    [min(peak_grid(problem, Cosine(horizon=n, peak=1.0), peaks, at=[n])["last"]) for n in budgets]
).ravel()

# %% [markdown]
# ## A schedule and a rule of your own
#
# Anything that can be called with the step. As frozen dataclasses they are what the trainer takes
# as well, and `check_laws` says whether they keep what the trainer promises. This schedule falls in
# steps, at every doubling of t, as some optimizers' learning rates are cut by hand; this rule takes
# a checkpoint into its mean now and then, and forgets the oldest at the same pace.


# %%
@dataclass(frozen=True)
class Staircase:
    """peak until `start`, then times `factor` at start, 2·start, 4·start …; it never ends."""

    peak: float
    start: Steps  # in text with a unit: start=2000-steps
    factor: float = 2**-0.5  # as 1/√t falls over a doubling

    def __call__(self, t: float, /) -> float:
        stairs = floor(log2(t / self.start)) + 1 if t >= self.start else 0
        return self.peak * self.factor**stairs


@dataclass(frozen=True)
class EveryNow:
    """ρ = share at every `every`-th step, 0 between: an average of checkpoints, not of steps."""

    every: int  # steps
    share: float = 0.2

    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        seen = floor(t / self.every)
        new = seen - floor((t - dt) / self.every)
        return max(self.share, 1 / seen) if new else 0.0


for mine in (Staircase(peak=0.1, start=500), EveryNow(every=100)):
    check_laws(mine)

# %% [markdown]
# ## One run each, read at every budget
#
# Every schedule without a horizon gets one rate for all budgets: the one of the least mean risk,
# relative to the cosine. All averages are kept in one pass.

# %%
shapes = {
    "constant": Constant(1.0),
    "inverse sqrt": InverseSqrt(1.0, warmup=0, offset=500),
    "staircase": Staircase(1.0, start=500),
}
rules = {
    "ema6.25": AnytimeEma(6.25),
    "linear": Polynomial(1),
    "every now": EveryNow(every=100),
}

print(f"\nrisk over that of a cosine tuned for each budget\n{'':>26}", end="")
print("".join(f"{n:>9,}" for n in budgets), "  worst")
worst = {}
for name, shape in shapes.items():
    found = peak_grid(problem, shape, peaks, rules, at=budgets)
    for weights, risk in found.items():
        ratio = risk / cosine
        best = ratio[np.argmin(ratio.mean(axis=1))]
        worst[name, weights] = best.max()
        row = "".join(f"{value:9.2f}" for value in best)
        print(f"{name:>14} {weights:>11}{row}  {best.max():6.2f}")

# %% [markdown]
# The last iterate pays for its noise at every budget. The stairs are as good as the smooth curve
# they imitate, once something averages over them; a constant falls behind as budgets grow, as its
# exponent said it would. The mean of checkpoints forgets at a fixed number of them, so its window
# is ever shorter compared with the run: the noise comes back.

# %%
last, linear = worst["staircase", "last"], worst["staircase", "linear"]
assert linear < 1.2 < last, (linear, last)
assert linear < worst["constant", "linear"]
assert worst["staircase", "every now"] > linear

# %% [markdown]
# ## Why: bias and variance
#
# The risk of the mean iterate is what has not been learned; the rest is noise.

# %%
print("\nat N = 20,000, rate 0.5/tr H     risk      not learned    noise")
for name, shape in shapes.items():
    eta = [0.5 / problem.trace * shape(t) for t in range(1, steps + 1)]
    run = simulate(problem, eta, rules, steps=steps)
    for weights in ("last", "linear"):
        parts = (run[weights][-1], run.bias[weights][-1], run.variance[weights][-1])
        print(f"{name:>14} {weights:>8}   " + "".join(f"{part:13.2e}" for part in parts))

# %% [markdown]
# ## And then for real
#
# What is worth a run goes in by name: with both classes in a file of their own, `mine.py`,
#
#     anytrain train demo --import mine \
#         schedule=mine.Staircase:peak=3e-3,start=2000-steps averages.now=mine.EveryNow:every=100
#
# `examples/own_rule.py` is such a file. The paper's whole experiment is `anytrain theory sweep`.
