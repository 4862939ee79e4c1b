"""The log and what was recorded as Parquet files: for questions over years, here and in other engines."""
