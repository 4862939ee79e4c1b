"""The embedded stack: OpenBao, its Snowflake plugin, the Snowflake emulator and the demo data.

For one host, for trying Hoop out and for tests. Everything listens on the loopback address only and
is gone when the supervisor ends. Nothing in here takes part in a production installation.
"""
