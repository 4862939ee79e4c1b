"""Understanding Snowflake SQL: limits, names, kinds, tables, functions, lineage. No I/O, no policy."""
