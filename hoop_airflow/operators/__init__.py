"""Operators of the Hoop provider."""
