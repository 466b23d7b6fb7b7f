"""How fast the excess risk falls with N, the number of samples: exponents and their theorems."""

from dataclasses import dataclass

from anytrain.theory.problem import check_exponents


@dataclass(frozen=True)
class Exponent:
    """The excess risk falls as N^(−value), and where that is proved."""

    value: float
    source: str

    def __str__(self) -> str:
        return f"N^-{self.value:.4g} ({self.source})"


@dataclass(frozen=True)
class Rates:
    """The exponents of one pair (a, b); `print` shows them as a table."""

    capacity: float  # a
    source: float  # b
    gamma: float  # γ*
    minimax: Exponent
    power: Exponent  # t^(−γ*) with averaging, as the corollary has it
    power_exact: Exponent  # the same by the exact recursion: less where γ* > 1/2
    inverse_sqrt: Exponent  # 1/√t with averaging
    constant: Exponent  # a constant rate that knows no horizon, with averaging
    wsd: Exponent  # warmup, hold a fixed fraction, decay linearly to 0

    def __str__(self) -> str:
        rows = (
            ("minimax", self.minimax),
            (f"t^-{self.gamma:.4g} + averaging", self.power),
            *([("  by the exact risk", self.power_exact)] if self._disputed else []),
            ("1/√t + averaging", self.inverse_sqrt),
            ("constant + averaging", self.constant),
            ("WSD", self.wsd),
        )
        head = f"capacity a = {self.capacity:g}, source b = {self.source:g}"
        return "\n".join([head, *(f"  {name:<21} {exponent}" for name, exponent in rows)])

    @property
    def _disputed(self) -> bool:
        return abs(self.power.value - self.power_exact.value) > 1e-12


def averaged_exponent(capacity: float, source: float, gamma: float) -> float:
    """The exponent of the tail average at η ∝ t^(−γ), 0 <= γ <= 1, by the exact recursion.

    Σ η ≍ N^(1−γ) learns the first k ≍ N^(l) directions, l = (1 − γ)/a. What is left of the target
    is Σ_{i>k} i^(−b) ≍ k^(−(b−1)); the learned ones cost a variance of σ²k/N. The others forget
    nothing, so they hold the noise of every step, σ² Σ_{i>k} λ_i² Σ η² ≍ k^(−(2a−1)) Σ η². That is
    σ²k/N again below γ = ½, where Σ η² ≍ N^(1−2γ); above it Σ η² is bounded, and it is more:

        min(l·(b − 1), min(1, 2(1 − γ)) − l)

    Above γ = ½ that is less than the corollary of arXiv:2602.03702 says; see
    `experiments/0003-figure3` for slopes measured there.
    """
    check_exponents(capacity, source)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma = {gamma}; 0 to 1 is valid")
    learned = (1.0 - gamma) / capacity
    return min(learned * (source - 1.0), min(1.0, 2.0 * (1.0 - gamma)) - learned)


def rates(capacity: float, source: float) -> Rates:
    """γ* = max(1 − a/b, 0) and every exponent of arXiv:2602.03702, section 3, for this (a, b).

    Raises ValueError unless a > 1 and b > 1. Up to logarithms, and for ηλ below stability.
    """
    check_exponents(capacity, source)
    gamma = max(1.0 - capacity / source, 0.0)
    derived = "the balance of bias and variance at η ∝ t^(−γ)"
    hold = averaged_exponent(capacity, source, 0.0)
    bound = "Theorem 2" if capacity < 2 else "Theorem 2's rate, which is proved for a < 2"
    return Rates(
        capacity,
        source,
        gamma,
        minimax=Exponent(1.0 - 1.0 / source, "lower bound over the source class"),
        power=Exponent(
            1.0 - 1.0 / source if source >= capacity else hold,
            "Corollary 1" + ("" if source >= capacity else ": b < a, limited by the bias"),
        ),
        power_exact=Exponent(averaged_exponent(capacity, source, gamma), derived + ", γ = γ*"),
        inverse_sqrt=Exponent(averaged_exponent(capacity, source, 0.5), derived + ", γ = 1/2"),
        constant=Exponent(hold, derived + ", γ = 0"),
        wsd=Exponent(hold, bound),
    )
