"""The loss on a plane through weights, as lines of equal loss."""

import io
import textwrap
from collections.abc import Mapping
from typing import Any, Literal

from anytrain.report.axes import INK, MUTED, STYLE
from anytrain.report.figures import require


def picture(record: Mapping[str, Any], format: Literal["png", "pdf"]) -> bytes:
    """The plane of one record of `anytrain sharpness --slice 2`; nats/token above the middle."""
    require()
    import matplotlib
    from matplotlib.figure import Figure

    at = record["plane"]["at"]
    rises = [[loss - record["loss"] for loss in row] for row in record["plane"]["losses"]]
    out = io.BytesIO()
    undated: Any = {"CreationDate": None} if format == "pdf" else {"Software": None}
    with matplotlib.rc_context({**STYLE, "pdf.fonttype": 42}):
        figure = Figure(figsize=(4.8, 5.2))
        ax = figure.add_axes((0.14, 0.1, 0.8, 0.74))
        lines = ax.contour(at, at, rises, levels=12, cmap="viridis", linewidths=1.2)
        ax.clabel(lines, fmt="%.2g", fontsize=8)
        ax.plot([0], [0], "o", color=INK, ms=4)
        ax.set_xlabel("first direction, in lengths of the weights", size=8.5)
        ax.set_ylabel("second direction", size=8.5)
        ax.set_aspect("equal")
        title = "\n".join(textwrap.wrap(f"{record['weights']} on {record['data']}", 52))
        figure.text(0.03, 0.975, title, va="top", weight="bold", size=10)
        figure.text(0.03, 0.885, "rise of the loss, nats/token", va="top", color=MUTED, size=8.5)
        figure.savefig(out, format=format, dpi=200, facecolor="white", metadata=undated)
    return out.getvalue()
