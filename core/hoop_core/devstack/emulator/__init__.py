"""A stand-in for the Snowflake service: see docs/emulator.md for what it models."""
