"""Numbers as a person reads them: tokens, bytes, time. For text that is read, not parsed."""


def tokens(amount: float) -> str:
    """8192000 -> 8.19M: three digits and a decimal suffix."""
    for suffix, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if amount >= 0.9995 * scale:
            return f"{_three(amount / scale)}{suffix}"
    return f"{amount:.0f}"


def size(amount: float) -> str:
    """Bytes with a decimal unit: 2500000 -> 2.50 MB."""
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= 0.9995 * scale:
            return f"{_three(amount / scale)} {unit}"
    return f"{amount:.0f} B"


def _three(value: float) -> str:
    return (
        f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    )


def span(seconds: float) -> str:
    """A time in its two largest units: 11700 -> 3h 15min."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    days, rest = divmod(minutes, 1440)
    hours, minutes = divmod(rest, 60)
    if days > 3650:
        return "over 10 years"
    if days > 99:
        return f"{days}d"
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}min" if hours else f"{minutes}min"


def signed(value: float | None, digits: int = 4) -> str:
    """+0.0123, −0.0123 with a true minus, — where there is none."""
    if value is None:
        return "—"
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'−' if value < 0 else '+'}{text}"


def chance(p: float) -> str:
    """The probability of a test: p = 0.042, p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
