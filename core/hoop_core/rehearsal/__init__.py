"""Trying a policy out before it counts: its own cases, and the statements of a history."""
