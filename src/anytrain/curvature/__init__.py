"""Second derivatives of the held-out loss: traces, eigenvalues, and the loss around weights."""
