"""The policy: its file, its conditions, and how it decides."""
