"""Writers that are killed in the middle lose nothing that was acknowledged, and leave no gap."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hoop_core.audit.checkpoint import LogKey, load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.audit.stored import stored_entries
from hoop_core.audit.verify import verify_store
from hoop_core.errors import StoreUnavailable
from hoop_core.store import Store
from tests.postgres_server import BOTH

DATABASES = BOTH
_WRITERS, _THREADS = 4, 4
WRITER = """
import pathlib, sys, threading
from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.errors import StoreUnavailable
from hoop_core.store import Store
store = Store(sys.argv[1], busy_seconds=60)
log = AuditLog(store, load_or_create_key(pathlib.Path(sys.argv[2]), "test/log"))
log.claim()
said = threading.Lock()
def write(thread):
    while True:
        mark = f"{sys.argv[3]}/{thread}/{next(numbers)}"
        seq = log.append("test", {"mark": mark})
        if thread == 0 and seq % 7 == 0:
            log.append_at_once("test", {"mark": "at once"})
        with said:
            sys.stdout.write(f"{seq} {mark}\\n"); sys.stdout.flush()
import itertools
numbers = itertools.count()
for thread in range(int(sys.argv[4])):
    threading.Thread(target=write, args=(thread,)).start()
"""


class Writers:
    """Processes that append until they are killed; what they acknowledged is what they printed."""

    def __init__(self, url: str, key: Path) -> None:
        self._url, self._key, self._names = url, key, 0
        self.acknowledged: dict[int, str] = {}
        self._lock = threading.Lock()

    def start(self) -> tuple[subprocess.Popen[str], threading.Thread]:
        self._names += 1
        command = [
            sys.executable,
            "-c",
            WRITER,
            self._url,
            str(self._key),
            f"w{self._names}",
            str(_THREADS),
        ]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        reader = threading.Thread(target=self._read, args=(process,))
        reader.start()
        return process, reader

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                return  # killed while it told
            seq, mark = line.split()
            with self._lock:
                assert int(seq) not in self.acknowledged
                self.acknowledged[int(seq)] = mark

    def run(self, entries: int, moods: random.Random) -> int:
        """Kill one of them now and then, in the middle of whatever it does, until so many were acknowledged."""
        running, kills = [self.start() for _ in range(_WRITERS)], 0
        try:
            while len(self.acknowledged) < entries:
                threading.Event().wait(moods.uniform(0.3, 1.2))
                victim = moods.randrange(_WRITERS)
                before = len(self.acknowledged)
                process, reader = running[victim]
                os.kill(process.pid, signal.SIGKILL)
                process.wait(20)
                reader.join(20)
                kills += 1 if before else 0
                running[victim] = self.start()
        finally:
            for process, reader in running:
                process.kill()
                process.wait(20)
                reader.join(20)
        return kills


def killed(store: Store, key: Path, entries: int) -> None:
    url = store.url.render_as_string(hide_password=False)
    log = AuditLog(store, load_or_create_key(key, "test/log"))
    log.claim()
    writers = Writers(url, key)
    kills = writers.run(entries, random.Random(7))
    assert kills >= 2
    late = AuditLog(store, load_or_create_key(key, "test/log"))
    late.claim()
    late.checkpoint()
    found = {e.seq: e.text for e in stored_entries(store)}
    assert sorted(found) == list(range(len(found)))
    lost = [s for s, mark in writers.acknowledged.items() if f'"{mark}"' not in found.get(s, "")]
    assert lost == []
    report = verify_store(url, verifier_key=late.key.verifier_key)
    assert (report.faults, report.entries) == ((), len(found))


def test_killed_writers_leave_a_whole_log(store: Store, tmp_path: Path) -> None:
    killed(store, tmp_path / "log.key", 600)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_killed_writers_leave_a_whole_log_of_ten_thousand(store: Store, tmp_path: Path) -> None:
    killed(store, tmp_path / "log.key", 10_000)


FULL = """
import pathlib, resource, signal, sys
from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.errors import StoreUnavailable
from hoop_core.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
store = Store(sys.argv[1])
log = AuditLog(store, load_or_create_key(pathlib.Path(sys.argv[2]), "test/log"))
log.claim()
done = 0
try:
    while done < 10_000:
        log.append("test", {"text": "x" * 1000})
        done += 1
except StoreUnavailable as e:
    print(done, e.text)
"""


def test_a_full_disk_refuses_and_leaves_nothing_half_written(
    tmp_path: Path, log_key: LogKey
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'full.db'}")
    store.migrate()
    store.close()
    key = tmp_path / "log.key"
    command = [sys.executable, "-c", FULL, str(store.url), str(key)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    done, said = ran.stdout.split(" ", 1)
    assert "cannot be written" in said
    assert 0 < int(done) < 10_000
    assert len(list(stored_entries(store))) == int(done)
    log = AuditLog(store, load_or_create_key(key, "test/log"))
    log.claim()
    assert log.append("test", {}) == int(done)
    assert verify_store(str(store.url), verifier_key=log.key.verifier_key).faults == ()
    store.close()


def test_a_head_that_cannot_be_signed_for_takes_its_entry_along(
    tmp_path: Path, log_key: LogKey
) -> None:
    """The last thing that is written fails: nothing of the transaction stays."""
    store = Store(f"sqlite:///{tmp_path / 'ro.db'}")
    store.migrate()
    log = AuditLog(store, log_key)
    log.claim()
    log.append("test", {})
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER ro BEFORE INSERT ON log_head BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(StoreUnavailable):
        log.append("test", {})
    assert len(list(stored_entries(store))) == 1
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER ro")
    assert log.append("test", {}) == 1
    assert verify_store(str(store.url)).faults == ()
    store.close()
