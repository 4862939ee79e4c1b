"""Hooks of the Hoop provider."""
