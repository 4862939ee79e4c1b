"""Telling people of what happens at the approvers' desk. The audit log is the outbox."""
