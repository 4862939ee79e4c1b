"""Uploads by drivers that are not written in Python: Node.js and JDBC, unmodified."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.clients_world import ClientsWorld
from tests.native_world import CLIENTS, build, built, settings, tool

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1000)]
_OPENS = ["--add-opens", "java.base/java.nio=ALL-UNNAMED"]  # what Arrow asks of Java


def check(world: ClientsWorld, command: Sequence[str], folder: Path, **more: str) -> None:
    """Two files and 40,000 bound rows arrive, the rows through a stage."""
    for i in range(2):
        (folder / f"part{i}.csv").write_text(f"{i},in a file\n")
    table = f"W_{uuid.uuid4().hex[:10].upper()}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SNOWFLAKE_")}
    environment |= settings(world) | {"HOOP_TABLE": table, "HOOP_FOLDER": str(folder), **more}
    environment["SNOWFLAKE_DISABLE_PLATFORM_DETECTION"] = "true"
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    said = f"{run.stdout[-2000:]}{run.stderr[-2000:]}".replace(environment["HOOP_TOKEN"], "***")
    assert run.returncode == 0, said
    put = json.loads(run.stdout.strip().splitlines()[-1])
    assert sorted(put) == [[f"part{i}.csv.gz", "UPLOADED"] for i in range(2)]
    counted = world.behind(f"SELECT COUNT(*), SUM(ID) FROM PROD.FEATURES.{table}")
    assert counted == [(40_002, sum(range(40_000)) + 1)]
    intents = world.entries("statement.intent", f"INSERT INTO {table} ")
    assert len(intents[-1]["data"]["staged"]) >= 1


def test_nodejs_puts_files_and_binds_through_a_stage(
    native_world: ClientsWorld, tmp_path: Path
) -> None:
    node, npm = tool("node", "nodejs"), tool("npm", "npm")
    install = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
    with built(CLIENTS / "node", "package.json") as (folder, done):
        if not done:
            build([npm, "install", *install], folder)
    program = str(CLIENTS / "node" / "uploads.js")
    modules = str(folder / "node_modules")
    check(native_world, [node, "--no-warnings", program], tmp_path, NODE_PATH=modules)


def test_jdbc_puts_files_and_binds_through_a_stage(
    native_world: ClientsWorld, tmp_path: Path
) -> None:
    java, maven = tool("java", "openjdk-17-jdk-headless"), tool("mvn", "maven")
    javac = tool("javac", "openjdk-17-jdk-headless")
    with built(CLIENTS / "jdbc", "pom.xml", "Client.java") as (folder, done):
        jars = str(folder / "jars")
        if not done:
            copy = [f"-DoutputDirectory={jars}", "-f", "pom.xml"]
            build([maven, "-q", "-B", "dependency:copy-dependencies", *copy], folder)
            build([javac, "-cp", "jars/*", "-d", "classes", "Client.java"], folder)
    classes, path = tmp_path / "classes", f"{jars}/*"
    source = str(CLIENTS / "jdbc" / "Uploads.java")
    subprocess.run([javac, "-cp", path, "-d", str(classes), source], check=True, timeout=120)
    command = [java, *_OPENS, "-cp", os.pathsep.join([str(classes), path]), "Uploads"]
    check(native_world, command, tmp_path, TZ="UTC")
