"""The reader of the policy's YAML; the catalog file is read by the same one."""

from hoop_core.yaml_reader import Fields, Value, read_document

__all__ = ["Fields", "Value", "read_document"]
