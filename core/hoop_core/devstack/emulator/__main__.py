"""`python -m hoop_core.devstack.emulator`: the stand-in for the Snowflake service, on loopback."""

from __future__ import annotations

import logging
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec


class _Without(MetaPathFinder):
    """Hides packages that the connector, which fakesnow builds on, loads for its own clients.

    A server has no use for them, and without them the process starts two seconds sooner.
    """

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname in ("pandas", "boto3", "botocore"):
            raise ModuleNotFoundError(f"{fullname} is left out of the stand-in", name=fullname)
        return None


if __name__ == "__main__":
    sys.meta_path.insert(0, _Without())
    from hoop_core.devstack.emulator.cli import main

    code = main()
    logging.shutdown()
    # DuckDB's bindings complain at length about objects that live on at the interpreter's end.
    os._exit(code)
