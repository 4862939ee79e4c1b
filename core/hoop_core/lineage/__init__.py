"""OpenLineage events about the statements that went through."""
