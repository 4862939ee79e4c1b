"""The reader of the policy's YAML; the catalog file is read by the same one."""

from hoop_core.yaml_reader import Fields, Mistakes, Value, read_document

__all__ = ["Fields", "Mistakes", "Value", "read_document"]
