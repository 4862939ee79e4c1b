"""fakesnow's own server tests, pointed at fakesnow, at our emulator, and at Hoop with an allow-all policy.

The tests are read from a checkout of fakesnow that HOOP_FAKESNOW_CHECKOUT names; nothing of it is kept here. What differs
between the emulator and the same emulator behind Hoop is listed, with reasons, in data/fakesnow_differences.yaml.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hoop_core.model import Kind
from tests.clients_world import ClientsWorld
from tests.native_world import CLIENTS, build, built

CHECKOUT = "HOOP_FAKESNOW_CHECKOUT"
SUITE = ("test_server.py",)
LISTED = Path(__file__).parent / "data" / "fakesnow_differences.yaml"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.nightly,
    pytest.mark.skipif(CHECKOUT not in os.environ, reason=f"{CHECKOUT} names no checkout"),
]

_KINDS = ", ".join(k.value for k in Kind if k is not Kind.OTHER)
ALLOW_ALL = f"""
version: 1
roles:
  - {{groups: [ml-agents], vault_role: ml-reader, snowflake_role: ML_READER, warehouse: ML_WH}}
rules:
  - {{name: all, kinds: [{_KINDS}], reads: ["*.*.*"], writes: ["*.*.*"], then: allow}}
"""
Outcomes = dict[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientsWorld]:
    with ClientsWorld.started(tmp_path_factory.mktemp("allow-all"), ALLOW_ALL) as running:
        yield running


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of fakesnow's tests with our fixtures in place of its own."""
    folder = tmp_path_factory.mktemp("suite")
    tests = folder / "tests"
    tests.mkdir()
    checkout = Path(os.environ[CHECKOUT]) / "tests"
    for name in (*SUITE, "utils.py", "matchers.py", "__init__.py"):
        shutil.copy(checkout / name, tests / name)
    shutil.copy(CLIENTS / "fakesnow" / "suite_conftest.py", tests / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


@pytest.fixture(scope="module")
def packages() -> Path:
    """What the suite imports and we do not have."""
    with built(CLIENTS / "fakesnow", "requirements.txt") as (folder, done):
        if not done:
            uv = str(Path(sys.executable).with_name("uv"))
            target = ("--target", "packages", "-r", "requirements.txt")
            build([uv, "pip", "install", "--quiet", "--python", sys.executable, *target], folder)
    return folder / "packages"


def outcomes(suite: Path, packages: Path, report: Path, **settings: dict[str, Any]) -> Outcomes:
    """Each test of the suite and how it ended."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("--junitxml", str(report), "--timeout", "120", "tests"),
        ],
        cwd=suite,
        env={
            **os.environ,
            "PYTHONPATH": str(packages),
            **{k: json.dumps(v) for k, v in settings.items()},
        },
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    found = {
        f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}": "passed"
        if case.find("failure") is None and case.find("error") is None
        else "failed"
        for case in ET.parse(report).getroot().iter("testcase")  # our own pytest wrote it
    }
    assert len(found) > 20, done.stdout[-2000:]
    return found


@pytest.fixture(scope="module")
def results(
    suite: Path, packages: Path, world: ClientsWorld, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcomes]:
    folder = tmp_path_factory.mktemp("reports")
    info = world.stack.info
    admin = {
        "host": info.snowflake_host,
        "port": info.snowflake_port,
        "protocol": "http",
        "account": info.snowflake_account,
        "user": info.admin_user,
        "password": info.admin_password,
        "warehouse": "ML_WH",
    }
    hoop = {k: v for k, v in world.options().items() if k not in {"database", "schema"}}
    return {
        "fakesnow": outcomes(suite, packages, folder / "fakesnow.xml"),
        "emulator": outcomes(
            suite, packages, folder / "emulator.xml", SUITE_SERVER=admin, SUITE_ADMIN=admin
        ),
        "hoop": outcomes(
            suite, packages, folder / "hoop.xml", SUITE_SERVER=hoop, SUITE_ADMIN=admin
        ),
    }


def test_hoop_changes_nothing_but_what_is_listed(results: dict[str, Outcomes]) -> None:
    direct, through = results["emulator"], results["hoop"]
    differing = {t for t, how in direct.items() if through[t] != how}
    assert differing - set(listed()["varying"]) == set(listed()["behind_hoop"])


def test_the_emulator_differs_from_fakesnow_where_it_is_listed(
    results: dict[str, Outcomes],
) -> None:
    differing = {t for t, how in results["fakesnow"].items() if results["emulator"][t] != how}
    assert differing - set(listed()["varying"]) == set(listed()["emulator"])


def listed() -> dict[str, dict[str, str]]:
    found = yaml.safe_load(LISTED.read_text())
    assert set(found) == {"varying", "emulator", "behind_hoop"}
    return found  # type: ignore[no-any-return]
