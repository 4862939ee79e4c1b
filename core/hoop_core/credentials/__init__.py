"""Minted Snowflake users: from Vault, for one session, and gone when it ends."""
