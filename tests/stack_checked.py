"""What must hold of everything that a stack has recorded, whatever the tests did on it.

Run when the stack of a test run ends: each session is replayed under what is on record, and what it left on
disk is searched for what must never be there.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hoop_core.audit.recording import Recorder
from hoop_core.config import load_settings
from hoop_core.devstack.demo_data import _CARD_RANGES
from hoop_core.replay.evidence import StoreSource
from hoop_core.replay.session import Replay, Result
from hoop_core.replay.unsealing import Unsealer
from hoop_core.store import Store

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

SECRETS = re.compile(
    rb"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\."  # a JWT
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY"
    rb"|X-Amz-Signature|[?&]sig=[A-Za-z0-9%]{16}"  # presigned addresses
    rb"|\b(?:hvs|hvb|s)\.[A-Za-z0-9]{24,}"  # tokens of Vault and OpenBao
)
VALUES = re.compile(
    b"(?=(9\\d\\d-\\d\\d-\\d{4}|(?:%s)\\d{10}))" % "|".join(r[:6] for r in _CARD_RANGES).encode()
)
"""SSNs and card numbers of the demo data wherever one may begin: in Arrow nothing lies between values."""


def replayed(source: StoreSource) -> list[str]:
    """What differs from the record, in words for a failing test; nothing when all of it matches."""
    replay = Replay(source, Unsealer())
    wrong = list(replay.faults)
    for session in source.sessions():
        for found in replay.session(session):
            if found.result is Result.DIFFERS:
                told = "; ".join(str(d.as_json())[:600] for d in found.differences)
                data = found.entry["data"]
                wrong.append(
                    f"{session}, entry {found.entry['seq']}: {data['sql'][:200]!r}: {told}"
                )
    return wrong


def protected(rows: Iterable[tuple[str, str]]) -> frozenset[bytes]:
    """Raw values of columns that nobody may see: SSN and card number."""
    return frozenset(value.encode() for row in rows for value in row)


def leaks(folder: Path, values: frozenset[bytes]) -> list[str]:
    """Files with a secret, and recorded results with a protected value. No value is in the text."""
    found = []
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        if SECRETS.search(content):
            found.append(f"{file.name}: a secret")
        result = "-part-" in file.name  # what was asked may hold what its caller wrote
        if result and any(m[1] in values for m in VALUES.finditer(content)):
            found.append(f"{file.name}: a protected value")
    return found


def check(stack: DevStack) -> None:
    """Raises AssertionError."""
    settings = load_settings(stack.config_file)
    store = Store(settings.store.url)
    store.attach()
    try:
        wrong = replayed(StoreSource(store, Recorder(settings.store.recordings)))
        values = protected(_rows(stack))
    finally:
        store.close()
    wrong += leaks(Path(settings.store.recordings), values)
    assert not wrong, f"{len(wrong)} of what is on record is wrong:\n" + "\n".join(wrong[:20])


def _rows(stack: DevStack) -> list[tuple[str, str]]:
    import snowflake.connector

    with snowflake.connector.connect(
        host=stack.info.snowflake_host,
        port=stack.info.snowflake_port,
        protocol="http",
        account=stack.info.snowflake_account,
        user=stack.info.admin_user,
        password=stack.info.admin_password,
    ) as connection:
        sql = "SELECT SSN, CARD_NUMBER FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= 5000"
        return [(str(a), str(b)) for a, b in connection.cursor().execute(sql).fetchall()]
