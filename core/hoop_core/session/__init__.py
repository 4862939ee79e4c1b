"""One client's session, and what is known of it: its Snowflake session, settings, stages and temporary tables."""
