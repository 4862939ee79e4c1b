"""Replay finds every way in which a record and its decision can differ, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hoop_core.policy.file import parse_policy
from hoop_core.replay.session import Replayed, Result
from tests.replay_world import POLICY, SESSION, RecordedLog

READS = "SELECT id, email, ssn FROM c"


@pytest.fixture
def log() -> RecordedLog:
    return RecordedLog()


def only(log: RecordedLog) -> Replayed:
    [found] = log.replayed()
    return found


def differing(log: RecordedLog) -> list[str]:
    found = only(log)
    assert found.result is (Result.DIFFERS if found.differences else Result.MATCHES)
    return [d.what for d in found.differences]


@pytest.mark.parametrize(
    "sql",
    [
        READS,
        "SELECT COUNT(*) FROM c WHERE email LIKE '%x'",
        "SELECT 1 FROM DUAL",
        "SHOW TABLES",
        "DELETE FROM f WHERE id = 1",
        "SELECT * FROM nowhere.s.t",
        "SELECT * FROM d.s.missing",
        "SELECT $1 FROM @stage",
        "not SQL at all",
        "UPDATE c SET email = 'x'",
    ],
)
def test_what_is_on_record_matches_allowed_or_not(log: RecordedLog, sql: str) -> None:
    log.ask(sql)
    assert only(log).result is Result.MATCHES, only(log).differences


def test_what_a_bound_name_made_of_a_statement_is_replayed(log: RecordedLog) -> None:
    seq = log.ask("SELECT id FROM identifier(?)", bindings={"1": {"type": "TEXT", "value": "c"}})
    assert log.entries[seq]["data"]["judged_sql"] == "SELECT id FROM c"
    assert only(log).result is Result.MATCHES


def test_a_refused_load_with_bound_values_leaves_its_digest_alone_and_is_not_replayed(
    log: RecordedLog,
) -> None:
    sql = "COPY INTO F FROM @d.s.stage CREDENTIALS = (AWS_SECRET_KEY = ?)"
    seq = log.ask(sql, bindings={"1": {"type": "TEXT", "value": "canary-of-a-key"}})
    assert "canary" not in str(log.entries[seq])
    assert "judged_sql_sha256" in log.entries[seq]["data"]
    assert only(log).result is Result.NOT_DECIDED


def test_a_statement_that_needed_people_matches_with_their_grant_and_not_without(
    log: RecordedLog,
) -> None:
    seq = log.ask("DELETE FROM f", approval="apr_1")
    assert differing(log) == []
    log.change(seq, lambda d: d.update(approval=None))
    assert differing(log) == ["approval"]


def test_what_people_refused_was_decided_too(log: RecordedLog) -> None:
    log.ask("DELETE FROM f", refused="APPROVAL_REJECTED")
    assert only(log).result is Result.MATCHES


def test_what_was_refused_before_it_was_decided_is_neither(log: RecordedLog) -> None:
    log.add("statement.refused", {"statement_id": "s", "sql": "SELECT 1", "reason": "CANCELLED"})
    assert only(log).result is Result.NOT_DECIDED
    assert "CANCELLED" in only(log).why


def test_an_entry_whose_body_is_not_kept_any_more_is_neither(log: RecordedLog) -> None:
    seq = log.ask(READS)
    log.entries[seq]["data"] = None
    assert only(log).result is Result.NOT_DECIDED


def _replace(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *path, last = key.split(".")
        for part in path:
            data = data[int(part)] if part.isdigit() else data[part]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_replace("executed", READS), ["executed_sha256", "executed"]),
        (_replace("sql", READS + " "), ["sql_sha256"]),
        (_replace("decision.masked", []), ["decision.masked"]),
        (_replace("decision.masked.0.mask", "null"), ["decision.masked"]),
        (_replace("decision.rules", ["other"]), ["decision.rules"]),
        (_replace("decision.reasons.0.message", "granted: by nobody"), ["decision.reasons"]),
        (_replace("decision.filtered", [{"table": "D.S.C", "where": "x"}]), ["decision.filtered"]),
        (_replace("kind", "delete"), ["kind"]),
        (_replace("reads", []), ["reads"]),
        (_replace("lineage", None), ["lineage"]),
        (_replace("fingerprint", "0" * 64), ["fingerprint"]),
        (_replace("judged_sql", "SELECT id FROM c"), None),
        (_replace("identity.groups", ["strangers"]), None),
        (_replace("database", "OTHER"), None),
        (_replace("catalog", {"D.S.C": None}), None),
        (_replace("catalog", {}), None),
        (_replace("catalog", {"D.S.C": "0" * 64}), ["record"]),
        (_replace("decision.policy_digest", "0" * 64), ["record"]),
        (_replace("now", "yesterday"), ["record"]),
        (_replace("identity", "agent"), ["record"]),
    ],
)
def test_every_change_of_an_intent_is_named(
    log: RecordedLog, change: Callable[[dict[str, Any]], None], what: list[str] | None
) -> None:
    log.change(log.ask(READS), change)
    found = differing(log)
    assert found if what is None else set(what) <= set(found)


@pytest.mark.parametrize(
    "change",
    [
        _replace("decision.decision", "allow"),
        _replace("reason", "POLICY"),
        _replace("rewritten_sha256", "0" * 64),
        _replace("decision.reasons.0.code", "GRANTED"),
    ],
)
def test_every_change_of_a_refusal_is_named(
    log: RecordedLog, change: Callable[[dict[str, Any]], None]
) -> None:
    log.change(log.ask("UPDATE c SET email = 'x'"), change)
    assert differing(log)


def test_a_description_that_is_not_what_it_says_is_a_fault_of_the_log(log: RecordedLog) -> None:
    log.ask(READS)
    described = next(e for e in log.entries if e["kind"] == "catalog.described")
    described["data"]["object"]["columns"].append(["NEW", "DATE"])
    assert "describes nothing" in log.replay().faults[0]
    assert differing(log) == ["record"]


def test_the_order_of_columns_counts(log: RecordedLog) -> None:
    log.ask("SELECT * FROM c")
    described = next(e for e in log.entries if e["kind"] == "catalog.described")
    described["data"]["object"]["columns"].reverse()
    assert log.replay().faults


# --- recorded results -----------------------------------------------------------------------


def test_a_result_in_which_the_masks_show_matches(log: RecordedLog) -> None:
    seq = log.ask(READS)
    log.answer(seq, ["ID", "EMAIL", "SSN"], [["1", "***@x.org", None], ["2", None, None]])
    found = only(log)
    assert found.result is Result.MATCHES, found.differences
    assert (found.checked.files, found.checked.values) == (2, 4)
    assert found.checked.columns == ("EMAIL", "SSN")


@pytest.mark.parametrize("row", [["1", "anna@x.org", None], ["1", None, "078-05-1120"]])
def test_a_value_that_its_mask_cannot_give_is_found_and_not_quoted(
    log: RecordedLog, row: list[Any]
) -> None:
    log.answer(log.ask(READS), ["ID", "EMAIL", "SSN"], [["2", "***", None], row])
    found = only(log)
    assert [d.what for d in found.differences] == ["masked result"]
    told = str(found.as_json())
    assert "anna" not in told and "078" not in told and "1 values" in told


def test_what_detectors_replaced_is_left_out_and_said(log: RecordedLog) -> None:
    findings = [{"column": "EMAIL", "kind": "email", "values": 1}]
    seq = log.ask(READS)
    log.answer(seq, ["ID", "EMAIL", "SSN"], [["1", "[email]", None]], findings=findings)
    found = only(log)
    assert found.result is Result.MATCHES
    assert found.checked.columns == ("SSN",)
    assert "EMAIL: detectors found something there" in found.checked.left_out


def test_what_is_worked_out_of_masked_columns_is_said_to_be_unchecked(log: RecordedLog) -> None:
    log.answer(log.ask("SELECT UPPER(email) AS e FROM c"), ["E"], [["anything"]])
    assert only(log).checked.left_out == ["E: worked out of masked columns"]


def test_a_recorded_file_that_changed_or_is_gone_is_found(log: RecordedLog) -> None:
    log.answer(log.ask("SELECT id FROM c"), ["ID"], [["1"]])
    files = dict(log.files)
    for change in (lambda c: c + b"x", lambda c: None):
        for path in files:
            log.files = {**files, path: change(files[path])}
            assert differing(log) == ["recording"]


def test_a_recorded_file_whose_time_was_over_is_no_difference(log: RecordedLog) -> None:
    log.answer(log.ask(READS), ["ID", "EMAIL", "SSN"], [["1", "***", None]])
    gone = [
        {"path": told["path"], "sha256": told["sha256"]}
        for e in log.entries
        if e["kind"] == "statement.outcome"
        for told in e["data"]["recording"]
    ]
    log.files = {}
    log.add("log.pruned", {"recordings": gone, "entries": []}, None)
    found = only(log)
    assert found.result is Result.MATCHES
    assert "its time to be kept is over" in found.checked.left_out[0]


# --- another policy --------------------------------------------------------------------------


def otherwise(log: RecordedLog, policy: str) -> list[tuple[int, tuple[str, ...]]]:
    found = log.replay().otherwise(SESSION, parse_policy(policy, "p"))
    return [(o.entry["seq"], o.changes) for o in found]


def test_the_policy_on_record_would_have_changed_nothing(log: RecordedLog) -> None:
    for sql in (READS, "DELETE FROM f WHERE id = 1", "SELECT * FROM nowhere.s.t"):
        log.ask(sql)
    assert otherwise(log, POLICY) == []


def test_with_one_column_masked_more_exactly_the_statements_that_read_it_are_listed(
    log: RecordedLog,
) -> None:
    masked = POLICY.replace("masks:\n", 'masks:\n  - {columns: ["D.S.C.ID"], mask: constant}\n', 1)
    asked = {
        sql: log.ask(sql)
        for sql in (
            "SELECT id FROM c",
            "SELECT email FROM c",
            "SELECT * FROM c",
            "SELECT email FROM c WHERE id = 1",
            "SELECT COUNT(*) FROM c",
            "SELECT id FROM f",
            "SELECT nothing FROM nowhere.s.t",
        )
    }
    reading = ("SELECT id FROM c", "SELECT * FROM c", "SELECT email FROM c WHERE id = 1")
    assert otherwise(log, masked) == [(asked[s], ("newly_masked",)) for s in reading]


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("mask: email_domain", 'mask: "null"', ("newly_masked",)),
        ('  - {columns: ["D.S.C.SSN"], mask: "null"}\n', "", ("newly_unmasked",)),
        ("then: allow}\n  - {name: write", "then: deny}\n  - {name: write", ("newly_denied",)),
        ("groups: [agents], vault_role", "groups: [others], vault_role", ("newly_denied",)),
    ],
)
def test_each_sort_of_change_is_named(
    log: RecordedLog, old: str, new: str, changes: tuple[str, ...]
) -> None:
    seq = log.ask(READS)
    assert old in POLICY
    assert otherwise(log, POLICY.replace(old, new)) == [(seq, changes)]


def test_who_else_would_have_been_asked_is_a_change(log: RecordedLog) -> None:
    seq = log.ask("DELETE FROM f", approval="apr_1")
    assert otherwise(log, POLICY.replace("[owners]", "[others]")) == [(seq, ("other_approvers",))]


def test_what_was_denied_and_would_be_allowed_is_listed_with_what_the_log_knows_of_the_table(
    log: RecordedLog,
) -> None:
    log.ask("SELECT id FROM f WHERE v = 'x'")  # describes F before
    old = POLICY.replace('reads: ["D.S.*"]', 'reads: ["D.S.C"]')
    narrow = RecordedLog(policy=parse_policy(old, "p"))
    for entry in log.entries:
        if entry["kind"] == "catalog.described":
            narrow.add(entry["kind"], entry["data"], None)
    seq = narrow.ask("SELECT id FROM f")
    assert otherwise(narrow, POLICY) == [(seq, ("newly_allowed",))]
