"""Linear regression, exactly: try a schedule or an averaging rule before paying for a run."""

SUMMARIES: dict[str, str] = {
    "rates": "the exponents that theory gives for a capacity and a source",
    "sweep": "the synthetic experiment of arXiv:2602.03702: tables and a figure",
    "estimate": "capacity and source of a model on its data, with intervals",
    "advise": "the schedule and the average for a range of budgets, and their regret",
}
