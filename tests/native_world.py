"""What the tests of the drivers that are not written in Python share: the world, toolchains, one run of a client.

A client is a small program under `tests/clients/`. It reads where to connect from the environment and prints
one JSON object a line, `{"step": ..., ...}`; the tests then look at the steps.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients_world import MASKED_NOTE, POLICY, ClientsWorld

CLIENTS = Path(__file__).parent / "clients"
BIG = "1234567890123456789"
HUGE = "12345678901234567890123456789012345678"
HOLD_MARK = "native clients wait"
"""In the text of the statement that a person has to answer for."""
SLOW = "SELECT COUNT(*) FROM ORDERS A, ORDERS B, ORDERS C WHERE A.AMOUNT * B.AMOUNT < C.AMOUNT "
WIDE = (
    f"SELECT ID, BIG, {HUGE} AS HUGE, PRICE, RATIO, LABEL, BORN, ALARM, MADE, SEEN, SENT, OK, RAW, DOC, "
    "SECRET_BIG, SECRET_PRICE, SECRET_RATIO, SECRET_LABEL, SECRET_BORN, SECRET_ALARM, SECRET_MADE, "
    "SECRET_SEEN, SECRET_SENT, SECRET_OK, SECRET_RAW, SECRET_DOC FROM PROD.CRM.NATIVE ORDER BY ID"
)
_BUILD_SECONDS, _RUN_SECONDS = 900, 120

_COLUMNS = (
    ("BIG", "NUMBER(38,0)", BIG),
    ("PRICE", "NUMBER(18,2)", "1234567890123456.78"),
    ("RATIO", "FLOAT", "0.1"),
    ("LABEL", "VARCHAR(40)", "'Zoë 日本 🚀'"),
    ("BORN", "DATE", "'2024-02-29'::DATE"),
    ("ALARM", "TIME", "'23:59:58.123456'::TIME"),
    ("MADE", "TIMESTAMP_NTZ", "'2024-02-29 12:30:15.123456'::TIMESTAMP_NTZ"),
    ("SEEN", "TIMESTAMP_LTZ", "'2024-02-29 12:30:15.123456'::TIMESTAMP_LTZ"),
    ("SENT", "TIMESTAMP_TZ", "'1969-07-20 20:17:40.5 +0000'::TIMESTAMP_TZ"),
    ("OK", "BOOLEAN", "TRUE"),
    ("RAW", "BINARY", "TO_BINARY('00FF10', 'HEX')"),
    ("DOC", "VARIANT", """PARSE_JSON('{"a": [1, "x"]}')"""),
)


@contextmanager
def started(home: Path) -> Iterator[ClientsWorld]:
    """The clients' world with PROD.CRM.NATIVE: a row of every type, a row of NULLs, and each column once more
    under a NULL mask.
    """
    names = [c[0] for c in _COLUMNS]
    columns = ", ".join(f"{n} {t}" for n, t, _ in _COLUMNS)
    secret = ", ".join(f"SECRET_{n} {t}" for n, t, _ in _COLUMNS)
    values = ", ".join(v for _, _, v in _COLUMNS)
    masked = ", ".join(f"PROD.CRM.NATIVE.SECRET_{n}" for n in names)
    masks = f'masks:\n  - {{columns: [{masked}], mask: "null"}}\n'
    with ClientsWorld.started(home, POLICY.replace("masks:\n", masks)) as world:
        world.behind(f"CREATE TABLE PROD.CRM.NATIVE (ID NUMBER(38,0), {columns}, {secret})")
        world.behind(
            f"INSERT INTO PROD.CRM.NATIVE (ID, {', '.join(names)}, SECRET_{', SECRET_'.join(names)}) "
            f"SELECT 1, {values}, {values}"
        )
        world.behind("INSERT INTO PROD.CRM.NATIVE (ID) VALUES (2)")
        yield world


def tool(name: str, package: str) -> str:
    """The path of a program, or a skip that says what to install."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine: install {package} to test this driver")
    return found


@contextmanager
def built(sources: Path, *names: str) -> Iterator[tuple[Path, bool]]:
    """A folder outside the repository with copies of these sources, and whether its build is done already.

    It is kept between runs, and held against other processes while it is built.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(b"".join((sources / n).read_bytes() for n in names)).hexdigest()[:16]
    folder = cache / "hoop-test-clients" / f"{sources.name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in names:
            if not (folder / name).exists():
                shutil.copy(sources / name, folder / name)
        done = folder / ".built"
        yield folder, done.exists()
        done.touch()


def build(arguments: Sequence[str], folder: Path, **environment: str) -> None:
    """Run one step of a build. A package that cannot be fetched skips the test, a faulty build fails it."""
    print(
        f"building a client: {' '.join(arguments[:3])} ... (minutes the first time)",
        file=sys.stderr,
    )
    run = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    if run.returncode:
        said = (run.stdout + run.stderr)[-2000:]
        if any(sign in said for sign in _OFFLINE):
            pytest.skip(
                f"{arguments[0]} cannot fetch the driver: its package registry is not reached"
            )
        raise AssertionError(f"{arguments} failed:\n{said}")


_OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "no such host", "dial tcp", "Unknown host",
            "Could not transfer artifact", "Temporary failure in name resolution")  # fmt: skip


def run_client(
    world: ClientsWorld, command: Sequence[str], folder: Path, **more: str
) -> dict[str, dict[str, Any]]:
    """Run a client to its end and return its steps by name; somebody approves what it is held for."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("SNOWFLAKE_")},
        # Drivers ask the cloud where they run; here is no cloud.
        "SNOWFLAKE_DISABLE_PLATFORM_DETECTION": "true",
        **settings(world),
        **more,
    }
    with world.approving(HOLD_MARK):
        run = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS,
            check=False,
        )
        said = f"{run.stdout[-3000:]}{run.stderr[-3000:]}".replace(environment["HOOP_TOKEN"], "***")
        assert run.returncode == 0, f"{command[0]} ended with {run.returncode}:\n{said}"
    steps: dict[str, dict[str, Any]] = {}
    for line in run.stdout.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            step = json.loads(line)
            if isinstance(step, dict) and "step" in step:
                steps[step["step"]] = step
    return steps


def settings(world: ClientsWorld) -> Mapping[str, str]:
    """What a client is given: host, port, a token and the statements."""
    return {
        "HOOP_HOST": world.host,
        "HOOP_PORT": str(world.port),
        "HOOP_TOKEN": world.agent_token,
        "SQL_WIDE": WIDE,
        "SQL_SLOW": SLOW,
        "SQL_HELD": f"SELECT BODY, '{HOLD_MARK}' AS MARK FROM SUPPORT_NOTES WHERE NOTE_ID < 4",
    }


def check_denied(step: Mapping[str, Any]) -> None:
    assert int(step["code"]) == 3001
    assert step["sqlstate"] == "42501"
    assert "PROD.HR.SALARIES, which no rule grants" in step["message"]


def check_held(step: Mapping[str, Any]) -> None:
    assert step["rows"] == [[MASKED_NOTE, HOLD_MARK]] * 3


def check_large(step: Mapping[str, Any]) -> None:
    """All 50,000 customers in several parts, and no address in the clear."""
    assert step["rows"] == 50_000
    assert step["sum"] == 50_000 * 50_001 // 2
    assert step["clear"] == 0
