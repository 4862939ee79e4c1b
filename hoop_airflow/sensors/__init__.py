"""Sensors of the Hoop provider."""
