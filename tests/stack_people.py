"""Who asks and answers on the shared stack, and what its log says of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hoop_core.audit.stored import stored_entries
from hoop_core.client import HoopClient, token_source
from hoop_core.store import Store

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack


def as_person(stack: DevStack, who: str) -> HoopClient:
    return HoopClient(stack.info.gateway_url, token_source(stack.token(who)))


def log_entries(stack: DevStack, kind: str) -> list[dict[str, Any]]:
    """The data of all entries of a kind, and of each its number as `seq`."""
    store = Store(stack.store_url)
    store.attach()
    try:
        found = [e for e in stored_entries(store) if e.kind == kind]
        return [json.loads(e.text)["data"] | {"seq": e.seq} for e in found]
    finally:
        store.close()
