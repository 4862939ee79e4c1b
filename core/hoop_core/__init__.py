"""Hoop: the control surface between autonomous or scheduled jobs and Snowflake."""

__version__ = "0.1.0"
