"""Signing in: one door for drivers, SQL API, REST and browsers."""
