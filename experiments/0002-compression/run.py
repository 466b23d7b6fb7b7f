"""How finely should a spectrum be cut? Writes results.csv and steep.csv beside this.

python experiments/0002-compression/run.py      (about two minutes on two cores)
"""

import csv
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anytrain.rules import AnytimeEma, Polynomial, Uniform
from anytrain.schedules import WSD, InverseSqrt
from anytrain.theory import Problem, Spectrum, stability_limit
from anytrain.theory.moments import AverageMoments, Walk
from anytrain.theory.problem import Array, Regression
from anytrain.theory.quadrature import Mesh, System, compressed, exact

FOLDER = Path(__file__).parent
DIM, STEPS, NOISE = 30_000, 20_000, 0.01
RULES = {"uniform": Uniform(), "ema25": AnytimeEma(25), "window4": Polynomial(3, shift=0)}
AT = sorted({0, *np.geomspace(1, STEPS, 150).astype(int).tolist()})

SHAPES: dict[str, Callable[[int], float]] = {
    "constant": lambda t: 1.0,
    "1/√t": lambda t: t**-0.5,
    "offset 1/√t": InverseSqrt(1.0, warmup=0, offset=400),
    "WSD": WSD(horizon=STEPS, peak=1.0, decay=0.3),
}
EXPONENTS = [(1.1, 1.1), (1.1, 3.0), (1.5, 3.0), (1.9, 3.8)]
SETTINGS = [(0.05, NOISE), (0.9, NOISE), (0.9, 0.0)]  # (part of the stability limit, σ²)

MESHES = {
    "4 nodes": Mesh(4, 1.5),
    "6 nodes": Mesh(6, 2.0),
    "8 nodes": Mesh(8, 2.0),
    "8 nodes, wide": Mesh(8, 3.0),
    "10 nodes": Mesh(10, 3.0),
    "12 nodes, narrow": Mesh(12, 3.0),
    "12 nodes": Mesh(12, 4.0),
    "12 nodes, flat at 1": Mesh(12, 4.0, flat=1.0),
    "12 nodes, flat at 16": Mesh(12, 4.0, flat=16.0),
    "12 nodes, flat at 64": Mesh(12, 4.0, flat=64.0),
    "12 nodes, wide": Mesh(12, 8.0),
    "16 nodes": Mesh(16, 8.0),
    # flat at 0: bins to the smallest eigenvalue
    "two nodes, 1.1": Mesh(2, 1.1, flat=0.0),
    "two nodes, 1.04": Mesh(2, 1.04, flat=0.0),
    "two nodes, 1.02": Mesh(2, 1.02, flat=0.0),
}


class Run(NamedTuple):
    """One case: what is simulated at which rates."""

    label: str
    problem: Regression
    eta: Array  # (T,)
    batch: float
    at: Sequence[int]


def curves(run: Run, system: System) -> Array:
    """Risk of `last` and of every average, (M, 1 + K)."""
    reading = AverageMoments(RULES, {}, run.eta.size)
    at = np.array(run.at, dtype=np.int64)
    walk = Walk(run.eta, run.batch, run.problem.noise, at, np.inf)
    total, mean = np.zeros((2, len(at), reading.columns["last"].size))
    reading.run(system, walk, total, mean)
    return np.stack([total @ form for form in reading.columns.values()], axis=1)


class Outcome(NamedTuple):
    """Of one mesh in one case."""

    mesh: str
    run: Run
    states: int
    error: float  # largest, relative, of the Gauss run over steps and names
    bound: float  # largest distance of the Radau run from it


def outcomes(runs: Sequence[Run], meshes: dict[str, Mesh]) -> list[Outcome]:
    def compare(run: Run) -> list[Outcome]:
        true, found = curves(run, exact(run.problem)), []
        for name, mesh in meshes.items():
            if not mesh.flat:
                smallest = run.problem.eigenvalues.min()
                mesh = mesh._replace(flat=float(2 * run.eta.sum() * smallest))
            systems = compressed(run.problem, run.eta, mesh)
            low, high = (curves(run, system) for system in systems)
            error, bound = np.abs(low - true) / true, np.abs(high - low) / low
            states = systems[0].eigenvalues.size
            found.append(Outcome(name, run, states, float(error.max()), float(bound.max())))
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [outcome for found in pool.map(compare, runs) for outcome in found]


def power_laws() -> list[Run]:
    runs = []
    for (a, b), (label, shape), (part, noise) in product(EXPONENTS, SHAPES.items(), SETTINGS):
        problem = Problem(DIM, a, b, noise)
        peak = part * stability_limit(problem)
        eta = peak * np.array([shape(t) for t in range(1, STEPS + 1)])
        name = f"a = {a:g}, b = {b:g}, {label}, {part:g} of the limit, noise {noise:g}"
        runs.append(Run(name, problem, eta, 1.0, AT))
    return runs


def steep_spectra() -> list[Run]:
    """Dense spectra at large batches and no noise, where many ηλ lie between ½ and 2."""
    rng, runs = np.random.default_rng(0), []
    for number in range(400):
        d, batch = int(rng.integers(13, 200)), (16.0, 64.0, 256.0, 1e8)[number % 4]
        steps, lower = int(10 ** rng.uniform(1, 2.7)), rng.uniform(0.2, 0.9)
        eigenvalues = np.concatenate([rng.uniform(lower, 1, d), rng.uniform(0.1, 0.5, d)])
        problem = Spectrum(eigenvalues, rng.normal(size=2 * d))
        eta = np.full(steps, rng.uniform(0.3, 0.99) * stability_limit(problem, batch))
        runs.append(Run(f"batch {batch:g}", problem, eta, batch, range(steps + 1)))
    return runs


def write(name: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with (FOLDER / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    print(*header, sep="  ")
    for row in rows:
        print(*row, sep="  ")


def choose_a_mesh() -> None:
    found, rows = outcomes(power_laws(), MESHES), []
    for name, mesh in MESHES.items():
        own = [o for o in found if o.mesh == name]
        worst = max(own, key=lambda o: o.error)
        noisy = max(o.error for o in own if o.run.problem.noise)
        bound = max(o.bound for o in own)
        errors = [f"{value:.1e}" for value in (noisy, worst.error, bound)]
        states = max(o.states for o in own)
        rows.append([name, mesh.nodes, mesh.ratio, mesh.flat, states, *errors, worst.run.label])
    head = ["mesh", "nodes", "ratio", "flat", "states", "error with noise", "error", "bound"]
    write("results.csv", [*head, "worst case"], rows)


def choose_what_is_steep() -> None:
    """Only errors above 1e-11 are counted: below, rounding is larger than the bound."""
    meshes = {str(steep): Mesh(steep=steep) for steep in (np.inf, 1.0, 0.5, 0.25)}
    found, rows = outcomes(steep_spectra(), meshes), []
    for name in meshes:
        every = [o for o in found if o.mesh == name]
        own = [o for o in every if o.error > 1e-11]
        broken = sum(o.error > o.bound for o in own)
        worst = max(own, key=lambda o: o.error / o.bound)
        states = f"{np.mean([o.states for o in every]):.0f}"
        errors = [f"{value:.1e}" for value in (worst.error, worst.bound)]
        rows.append([name, states, len(own), broken, *errors, worst.run.label])
    head = ["steep", "states", "runs", "above the bound", "error", "bound", "worst case"]
    write("steep.csv", head, rows)


if __name__ == "__main__":
    choose_a_mesh()
    choose_what_is_steep()
