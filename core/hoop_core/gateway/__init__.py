"""Snowflake's client protocol, served: any driver that knows host and token comes in here."""
