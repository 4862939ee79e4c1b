"""Questions that a policy puts to humans, their answers, and the single-use grants that follow."""
