"""Analysis of hostile texts in worker processes that are killed at a deadline, and the decision cache."""
