"""Entries as the guard writes them, and what OpenLineage's own package says that events look like."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from typing import Any

import attr
from jsonschema import Draft202012Validator, FormatChecker
from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde
from referencing import Registry, Resource

from hoop_core.audit.log import AuditLog
from hoop_core.config.records import LineageParents
from hoop_core.lineage.events import Events
from hoop_core.lineage.facets import OWN, schema
from hoop_core.lineage.place import Place
from hoop_core.store import Store

PLACE = Place(
    "hoop",
    "test.example/log",
    "https://hoop.example.com/lineage/schemas",
    LineageParents(),
    "acme-prod",
    {"ACME-PROD": "acme-prod"},
)
AIRFLOW = {
    "orchestrator": "airflow",
    "fields": {
        "dag_id": "churn",
        "run_id": "manual__1",
        "task_id": "build",
        "map_index": "-1",
        "try_number": "1",
        "purpose": "weekly model",
        "logical_date": "2026-11-23T19:51:43.251819+00:00",
        "clear_number": "0",
    },
}
WHO = {
    "issuer": "https://idp",
    "subject": "s-1",
    "name": "agent",
    "groups": ["ml-agents"],
    "actors": [],
    "method": "oidc",
    "token_sha256": "f" * 64,
    "claims": {},
}
READS, WRITES = ["PROD.CRM.CUSTOMERS"], ["PROD.FEATURES.CHURN"]
LINEAGE = [
    {"output": "ID", "sources": ["PROD.CRM.CUSTOMERS.ID"], "unknown": False},
    {"output": "MAIL", "sources": ["PROD.CRM.CUSTOMERS.EMAIL"], "unknown": False},
    {"output": "ONE", "sources": [], "unknown": False},
]
DECISION = {
    "decision": "require_approval",
    "reasons": [{"code": "GRANTED", "message": "granted"}],
    "rules": ["agents-read"],
    "masked": [{"table": "PROD.CRM.CUSTOMERS", "column": "EMAIL", "mask": "email_domain"}],
    "exposed": [
        {"table": "PROD.CRM.CUSTOMERS", "column": "SSN", "mask": "null", "exception": None}
    ],
    "filtered": [{"table": "PROD.CRM.CUSTOMERS", "where": "REGION = 'EU'"}],
    "policy_digest": "a" * 64,
}


def intent(**changed: Any) -> dict[str, Any]:
    return {
        "statement_id": "st-1",
        "identity": WHO,
        "run_asserted": AIRFLOW,
        "account": "ACME-PROD",
        "snowflake_role": "ML_READER",
        "database": "PROD",
        "schema": "CRM",
        "sql": "create table churn as select ...",
        "sql_sha256": "b" * 64,
        "describe_only": False,
        "kind": "create_table_as",
        "reads": READS,
        "writes": WRITES,
        "decision": DECISION,
        "executed": 'CREATE TABLE "PROD"."FEATURES"."CHURN" AS SELECT 1',
        "executed_sha256": "c" * 64,
        "approval": "apr_1",
        "snowflake_user": "V_TOKEN_1",
        "snowflake_version": "9.1.0",
        "catalog": {"PROD.CRM.CUSTOMERS": "d" * 64},
        "lineage": LINEAGE,
        **changed,
    }


def outcome(seq: int, status: str = "succeeded", **more: Any) -> dict[str, Any]:
    return {"statement_id": "st-1", "intent": seq, "status": status, **more}


DESCRIBED = {
    "account": "ACME-PROD",
    "name": "PROD.CRM.CUSTOMERS",
    "sha256": "d" * 64,
    "object": {
        "columns": [["ID", "NUMBER(38,0)"], ["EMAIL", "VARCHAR(200)"]],
        "definition": None,
        "refused": None,
        "temporary": False,
    },
}


class World:
    """A log and the events that it tells."""

    def __init__(self, store: Store, log: AuditLog) -> None:
        self.store, self.log = store, log

    def add(self, kind: str, data: dict[str, Any], session: str | None = "ses_1") -> int:
        return self.log.append(kind, data, session_id=session)

    def statement(self, status: str = "succeeded", **changed: Any) -> tuple[int, int]:
        begun = self.add("statement.intent", intent(**changed))
        ended = {"query_id": "q-1"} if status == "succeeded" else {"reason": "X", "errno": 1}
        return begun, self.add("statement.outcome", outcome(begun, status, **ended))

    def events(self, events: Events | None = None) -> list[dict[str, Any]]:
        made = events or Events(self.store, PLACE)
        found = [e for x in self.log.entries() for e in made.of(x.seq, x.kind, x.text)]
        return [json.loads(Serde.to_json(e)) for e in found]


# ---------------------------------------------------------------------- what an event must look like


def faults(event: dict[str, Any]) -> list[str]:
    """Where an event is not as OpenLineage's classes, and our published schemas, say."""
    found = list(_faults(event_v2.RunEvent, event, "event"))
    for where, facets in _facets(event):
        for name, facet in facets.items():
            found += _facet_faults(name, facet, f"{where}.{name}")
    return found


def _facets(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in ("run", "job"):
        yield part, event[part]["facets"]
    for part in ("inputs", "outputs"):
        for dataset in event[part]:
            yield part, dataset["facets"]


def _facet_faults(name: str, facet: dict[str, Any], where: str) -> list[str]:
    kind = facet["_schemaURL"].rsplit("/", 1)[1]
    if name in OWN:
        found = schema(f"{kind}.json")
        if found is None or not facet["_schemaURL"].startswith(PLACE.schemas):
            return [f"{where}: no schema is published at {facet['_schemaURL']}"]
        validator = Draft202012Validator(
            {"$ref": f"{found['$id']}#/$defs/{kind}"},
            registry=Registry().with_resources(
                [(r["$id"], Resource.from_contents(r)) for r in (found, _BASE)]
            ),
            format_checker=FormatChecker(),
        )
        return [f"{where}: {e.message}" for e in validator.iter_errors(facet)]
    modules = [m for m in vars(facet_v2).values() if isinstance(m, types.ModuleType)]
    (known,) = {getattr(m, kind) for m in modules if hasattr(m, kind)}
    if known._get_schema() != facet["_schemaURL"]:
        return [f"{where}: another version of the facet"]
    return list(_faults(known, facet, where))


_BASE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://openlineage.io/spec/2-0-2/OpenLineage.json",
    "$defs": {
        "RunFacet": {
            "type": "object",
            "properties": {
                "_producer": {"type": "string", "format": "uri"},
                "_schemaURL": {"type": "string", "format": "uri"},
            },
            "required": ["_producer", "_schemaURL"],
        }
    },
}


def _faults(kind: Any, value: Any, where: str) -> Iterator[str]:
    """By the fields and annotations of the generated classes: names, what is required, types."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        options = [list(_faults(a, value, where)) for a in args if a is not type(None)]
        if value is not None and all(options):
            yield from min(options, key=len)
    elif origin is list:
        if not isinstance(value, list):
            yield f"{where}: no list"
            return
        for n, item in enumerate(value):
            yield from _faults(args[0], item, f"{where}[{n}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{where}: no object"
            return
        for key, item in value.items():
            if not where.endswith("facets"):
                yield from _faults(args[1], item, f"{where}.{key}")
    elif attr.has(kind):
        yield from _object_faults(kind, value, where)
    elif kind in {str, int, bool, float} and not isinstance(value, kind):
        yield f"{where}: {value!r} is no {kind.__name__}"


def _object_faults(kind: Any, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: no object"
        return
    named = typing.get_type_hints(kind)
    fields = {a.name: a for a in attr.fields(kind)}
    yield from (f"{where}: unknown {k}" for k in value.keys() - fields.keys())
    for name, field in fields.items():
        if name in value:
            yield from _faults(named[name], value[name], f"{where}.{name}")
        elif field.default is attr.NOTHING:
            yield f"{where}: {name} is missing"
