"""A PUT shows nothing, so nothing of it is recorded."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import Recorder
from hoop_core.config import UploadSettings
from hoop_core.delivery import Delivery
from hoop_core.loads.staged import Staged
from hoop_core.loads.uploads import Uploads
from hoop_core.model import Identity, Json, NameContext, RoleBinding, RunContext
from hoop_core.plan import Plan
from hoop_core.session.guarded import GuardedSession, QueryRequest
from hoop_core.sql.live_catalog import LiveCatalog
from hoop_core.sql.loading_reader import read_loading


class Offering(Delivery):
    async def _execute(self, *_given: Any, **_named: Any) -> Json:
        return {"success": True, "data": {}}

    async def _ended(self, *_given: Any, **_named: Any) -> None:
        pass


async def nobody(*_given: Any, **_named: Any) -> Any:
    raise AssertionError


def test_a_put_leaves_no_files_among_the_recordings(log: AuditLog, tmp_path: Path) -> None:
    session = GuardedSession(
        id="s", identity=Identity("i", "s", "n", (), "oidc", ""), role=RoleBinding("v", "R"),
        names=NameContext(), run=RunContext(), client={}, parameters={}, opened_at=datetime.now(UTC),
        open_upstream=nobody,
    )  # fmt: skip
    delivery = Offering(
        log=log, recorder=Recorder(str(tmp_path)),
        catalog=LiveCatalog(nobody, account="a"), public_url="u",
        uploads=Uploads(UploadSettings(), log, public_url="u"),
    )  # fmt: skip
    put = read_loading("PUT file://a @~/x", NameContext())
    verdict: Any = SimpleNamespace(statement=None)
    binding: Any = SimpleNamespace(policy_digest="p")
    upstream: Any = SimpleNamespace(names=NameContext())

    async def run() -> Json:
        plan = Plan(verdict, binding, staged=Staged(loading=put))
        request = QueryRequest("q", "PUT file://a @~/x", None, {})
        return (await delivery.run(session, request, plan, upstream, 1)).answer

    assert asyncio.run(run())["data"]["command"] == "UPLOAD"
    assert list((tmp_path / "s").iterdir()) == []
