"""Which of many averages to release: widths and combinations, by held-out loss."""
