"""Snowflake's own client protocol, as far as the gateway needs it to work upstream."""
