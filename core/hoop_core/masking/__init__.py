"""Masking inside Snowflake: what stands for a column, the rewriter, and a verifier apart from it."""
