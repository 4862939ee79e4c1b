"""The web pages: approvals, standing grants, sessions and their evidence, for people with a browser."""
