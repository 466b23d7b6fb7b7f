"""The recursions, compiled: one pass over the coordinates a step, every average in it.

Sums are reassociated so that they vectorise; nothing else about IEEE arithmetic is relaxed. Numbers
below 1e-290 are set to zero every 64 steps: a coordinate that has been learned would otherwise go
on through denormals, which cost a hundred times as much.
"""

import numpy as np
from numba import njit

from anytrain.theory.problem import Array, Integers

TINY = 1e-290
EVERY = 64  # steps between two flushes
TILE = 1024  # coordinates of which s and the averages are together in the nearest cache

_FAST = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True)
def _flush(x: Array) -> None:
    for i in range(x.shape[0]):
        x[i] = x[i] if abs(x[i]) >= TINY else 0.0  # a select, which vectorises


@njit(cache=True, nogil=True, fastmath=_FAST)
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@njit(cache=True, nogil=True, fastmath=_FAST)
def _dot3(a: Array, b: Array, c: Array) -> float:
    total = 0.0
    for i in range(c.shape[0]):
        total += a[i] * b[i] * c[i]
    return total


# --- SGD and averages ------------------------------------------------------------------------
#
# Per coordinate, e = w − w*, s = E[e²], B the batch, q = Σ r·s before the step:
#
#     s ← (1 − ηλ)² s + (η²/B) [λ² s + h (q + σ²)]
#     μ ← (1 − ηλ) μ                                       the mean of e
#
# and for w̄ ← (1 − ρ) w̄ + ρ w, with A = E[ē²], C = E[ēe], D = E[ēē'] for two averages, s after
# its update:
#
#     C' = (1 − ηλ) C
#     A  ← (1−ρ)² A + 2ρ(1−ρ) C' + ρ² s
#     D  ← (1−ρ)(1−ρ') D + (1−ρ) ρ' C' + ρ (1−ρ') C'' + ρ ρ' s      C'' of the second average
#     C  ← (1−ρ) C' + ρ s


# Arrays are cut into tiles, (tiles, …, size), so that every loop runs over whole rows.


@njit(cache=True, nogil=True, fastmath=_FAST)
def _live(
    lam: Array,
    risk: Array,
    source: Array,
    s: Array,
    rate: float,
    per: float,  # η²/B
    incoming: float,
) -> float:
    """s of one tile, in place; returns its part of q."""
    part = 0.0
    for i in range(lam.shape[0]):
        x = lam[i]
        keep = 1.0 - rate * x  # squared as it is: at ηλ = 1 and a large batch the square is all
        s[i] = (keep * keep + per * x * x) * s[i] + incoming * source[i]
        part += risk[i] * s[i]
    return part


@njit(cache=True, nogil=True, fastmath=_FAST)
def _averages(
    lam: Array,
    s: Array,
    cross: Array,
    second: Array,
    between: Array,
    pairs: Integers,
    rate: float,
    rhos: Array,
) -> None:
    """D of every pair, then A and C of every average, of one tile."""
    for p in range(pairs.shape[0]):
        k, j = pairs[p, 0], pairs[p, 1]
        a, b, d = rhos[k], rhos[j], between[p]
        one, two = cross[k], cross[j]
        for i in range(lam.shape[0]):
            crossed = (1.0 - a) * b * one[i] + a * (1.0 - b) * two[i]
            kept = (1.0 - a) * (1.0 - b) * d[i]
            d[i] = kept + crossed * (1.0 - rate * lam[i]) + a * b * s[i]
    for k in range(rhos.shape[0]):
        rho, c, own = rhos[k], cross[k], second[k]
        for i in range(lam.shape[0]):
            moved = (1.0 - rate * lam[i]) * c[i]
            own[i] = (1.0 - rho) * ((1.0 - rho) * own[i] + 2.0 * rho * moved) + rho * rho * s[i]
            c[i] = (1.0 - rho) * moved + rho * s[i]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _means(lam: Array, mu: Array, means: Array, eta: Array, rho: Array) -> None:
    """μ and the mean of every average over a few steps: no coordinate needs another one's."""
    for low in range(0, lam.shape[0], TILE):
        x, now = lam[low : low + TILE], mu[low : low + TILE]
        for t in range(eta.shape[0]):
            rate = eta[t]
            for i in range(x.shape[0]):
                now[i] *= 1.0 - rate * x[i]
            for k in range(means.shape[0]):
                mean, share = means[k, low : low + TILE], rho[t, k]
                for i in range(x.shape[0]):
                    mean[i] += share * (now[i] - mean[i])


@njit(cache=True, nogil=True)
def _tiled(x: Array, tiles: int, size: int) -> Array:
    """(n,) -> (tiles, size), with coordinates of zeros at the end where it does not fit."""
    if tiles == 1:
        return x.reshape(1, size)
    padded = np.zeros(tiles * size)
    padded[: x.shape[0]] = x
    return padded.reshape(tiles, size)


@njit(cache=True, nogil=True)
def _report(
    risk: Array,
    s: Array,
    mu: Array,
    cross: Array,
    second: Array,
    between: Array,
    means: Array,
    pairs: Integers,
    total: Array,
    mean: Array,
) -> None:
    """Add one tile's Σ r·m of every second moment m, and of the means, in the order of `sgd`."""
    count = cross.shape[0]
    total[0] += _dot(risk, s)
    mean[0] += _dot3(risk, mu, mu)
    for k in range(count):
        total[1 + k] += _dot(risk, cross[k])
        mean[1 + k] += _dot3(risk, means[k], mu)
        total[1 + count + k] += _dot(risk, second[k])
        mean[1 + count + k] += _dot3(risk, means[k], means[k])
    for p in range(between.shape[0]):
        total[1 + 2 * count + p] += _dot(risk, between[p])
        mean[1 + 2 * count + p] += _dot3(risk, means[pairs[p, 0]], means[pairs[p, 1]])


@njit(cache=True, nogil=True)
def sgd(
    eigenvalues: Array,  # λ (n,)
    weight: Array,  # r (n,)
    incoming_weight: Array,  # h (n,)
    start: Array,  # s₀ (n,)
    eta: Array,  # η of every step (T,)
    rho: Array,  # ρ of every step and average (T, K)
    pairs: Integers,  # averages whose cross moment is asked for (P, 2)
    batch: float,
    noise: float,  # σ²
    at: Integers,  # steps to report, rising (M,)
    limit: float,  # a Σ r·s that is not below it is a divergence
    total: Array,  # out, of zeros: Σ r·[s, C_k…, A_k…, D_p…] (M, 1 + 2K + P)
    mean: Array,  # out, of zeros: the same of the means' products
) -> int:
    """Run the recursion above; returns 0, or the step at which Σ r·s reached `limit`."""
    n, count, p_count = eigenvalues.shape[0], rho.shape[1], pairs.shape[0]
    size = min(n, TILE) if count else n  # alone, s streams through in one piece
    tiles = (n + size - 1) // size
    lam, risk = _tiled(eigenvalues, tiles, size), _tiled(weight, tiles, size)
    source = _tiled(incoming_weight, tiles, size)
    s = _tiled(start.copy(), tiles, size)
    mu = np.sqrt(s)
    cross, second = np.empty((tiles, count, size)), np.empty((tiles, count, size))
    between, means = np.empty((tiles, p_count, size)), np.empty((tiles, count, size))
    for j in range(tiles):
        cross[j], second[j], between[j], means[j] = s[j], s[j], s[j], mu[j]
    q, row, behind = _dot(weight, start), 0, 0  # `behind`: the step that the means are at
    for t in range(eta.shape[0] + 1):
        if t > 0:
            rate, rhos = eta[t - 1], rho[t - 1]
            per = rate * rate / batch
            incoming = per * (q + noise)
            q = 0.0
            for j in range(tiles):
                q += _live(lam[j], risk[j], source[j], s[j], rate, per, incoming)
                if count:
                    _averages(lam[j], s[j], cross[j], second[j], between[j], pairs, rate, rhos)
            if not q < limit:
                return t
            if t % EVERY == 0 or (row < len(at) and at[row] == t):
                for j in range(tiles):
                    _means(lam[j], mu[j], means[j], eta[behind:t], rho[behind:t])
                behind = t
            if t % EVERY == 0:
                _flush(s.reshape(-1))
                _flush(mu.reshape(-1))
                for moments in (cross, second, between, means):
                    _flush(moments.reshape(-1))
        while row < len(at) and at[row] == t:
            for j in range(tiles):
                _report(
                    risk[j], s[j], mu[j], cross[j], second[j], between[j], means[j], pairs,
                    total[row], mean[row],
                )  # fmt: skip
            row += 1
    return 0


# --- Schedule-Free SGD -----------------------------------------------------------------------
#
# y = (1 − β) z + β x,    z ← z − η ∇(y),    x ← (1 − c) x + c z      (arXiv:2405.15682, eq. 3–5)
#
# With Z = E[z²], X = E[x²], W = E[zx] of the errors, Y = E[y²], V = E[zy], U = E[xy]:
#
#     Z ← Z − 2ηλ V + η² λ² Y + (η²/B) [λ² Y + h (q + σ²)],    q = Σ r·Y
#     W' = W − ηλ U,    X ← (1−c)² X + 2c(1−c) W' + c² Z,    W ← (1−c) W' + c Z
#
# with Z after its update. At β = 0 it is SGD with the average of ρ = c.


@njit(cache=True, nogil=True, fastmath=_FAST)
def _free(
    lam: Array,
    risk: Array,
    source: Array,
    moments: Array,  # Z, W, X (3, n), in place
    rate: float,
    square: float,
    incoming: float,
    beta: float,
    c: float,
) -> float:
    """One step; returns q."""
    q, left, kept = 0.0, 1.0 - beta, 1.0 - c
    zz, zx, xx = moments[0], moments[1], moments[2]
    for i in range(lam.shape[0]):
        x = lam[i]
        zy, xy = left * zz[i] + beta * zx[i], left * zx[i] + beta * xx[i]
        yy = left * zy + beta * xy
        zz[i] += x * (square * x * yy - 2.0 * rate * zy) + incoming * source[i]
        moved = zx[i] - rate * x * xy
        xx[i] = kept * (kept * xx[i] + 2.0 * c * moved) + c * c * zz[i]
        zx[i] = kept * moved + c * zz[i]
        q += risk[i] * (left * (left * zz[i] + 2.0 * beta * zx[i]) + beta * beta * xx[i])
    return q


@njit(cache=True, nogil=True)
def schedule_free(
    lam: Array,  # λ (n,)
    risk: Array,  # r (n,)
    source: Array,  # h (n,)
    start: Array,  # s₀ (n,)
    eta: Array,  # η of every step (T,)
    weight: Array,  # c of every step (T,)
    beta: float,
    batch: float,
    noise: float,  # σ²
    at: Integers,  # steps to report, rising (M,)
    limit: float,  # a Σ r·Y that is not below it is a divergence
    total: Array,  # out: Σ r·E[e²] of y, z and x (M, 3)
    mean: Array,  # out: the same of the means
) -> int:
    """Run the recursion above; returns 0, or the step at which Σ r·Y reached `limit`."""
    moments, mu = np.empty((3, lam.shape[0])), np.empty((2, lam.shape[0]))
    moments[:], mu[:] = start, np.sqrt(start)
    q, row = _dot(risk, start), 0
    for t in range(eta.shape[0] + 1):
        if t > 0:
            rate, c = eta[t - 1], weight[t - 1]
            per = rate * rate / batch
            incoming = per * (q + noise)
            q = _free(lam, risk, source, moments, rate, rate * rate + per, incoming, beta, c)
            for i in range(lam.shape[0]):
                mu[0, i] -= rate * lam[i] * ((1.0 - beta) * mu[0, i] + beta * mu[1, i])
                mu[1, i] += c * (mu[0, i] - mu[1, i])
            if not q < limit:
                return t
            if t % EVERY == 0:
                _flush(moments.reshape(-1))
                _flush(mu.reshape(-1))
        while row < len(at) and at[row] == t:
            y = (1.0 - beta) * mu[0] + beta * mu[1]
            total[row, 0], mean[row, 0] = q, _dot3(risk, y, y)
            total[row, 1], mean[row, 1] = _dot(risk, moments[0]), _dot3(risk, mu[0], mu[0])
            total[row, 2], mean[row, 2] = _dot(risk, moments[2]), _dot3(risk, mu[1], mu[1])
            row += 1
    return 0
