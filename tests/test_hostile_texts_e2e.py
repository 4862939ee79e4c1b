"""Texts made to stop the gateway: each is refused, and another session is served meanwhile.

Measured by counting: while hostile texts are under way, one after the other, an honest session gets
through at least half as many statements. A gateway that stood still meanwhile would serve none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import snowflake.connector.errors

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

pytestmark = pytest.mark.e2e
Connect = Callable[..., "SnowflakeConnection"]

_REFUSED = {1003, 2003, 3001, 99400}
"""Not to be read as SQL; no such object; refused; not served."""
_NOWHERE = "PROD.CRM.NO_SUCH_TABLE"
_DOUBLING = "WITH c0 AS (SELECT 1 AS x)" + "".join(
    f", c{i} AS (SELECT a.x FROM c{i - 1} a, c{i - 1} b)" for i in range(1, 90)
)
HOSTILE: dict[str, Callable[[], str]] = {
    "10,000 parentheses": lambda: "SELECT " + "(" * 10_000 + "1" + ")" * 10_000,
    "10,000 open parentheses": lambda: "SELECT " + "(" * 10_000,
    "a union of 5,000": lambda: " UNION ALL ".join(["SELECT 1"] * 5_000),
    "20 MB of text": lambda: "SELECT '" + "x" * 20_000_000 + "'",
    "20 MB of comment": lambda: "SELECT 1 /*" + "x" * 20_000_000 + "*/",
    "20 MB of words": lambda: "SELECT " + "1," * 10_000_000 + "1",
    "2,000 nested subqueries": lambda: "SELECT * FROM (" * 2_000 + "SELECT 1" + ")" * 2_000,
    "4,900 NOT LIKE": lambda: (
        "SELECT 1 WHERE 'a' " + "NOT LIKE 'b' AND 'a' " * 4_899 + "NOT LIKE 'b'"
    ),
    # these keep within the bounds: they are analysed to the end, and then name a table that is not there
    "1,300 PIVOTs": lambda: f"SELECT * FROM {_NOWHERE}" + " PIVOT (MAX(A) FOR B IN ('a'))" * 1_300,
    "10,000 casts": lambda: "SELECT 1" + "::INT" * 9_990 + f" FROM {_NOWHERE}",
    "9,500 dots": lambda: "SELECT a" + ".a" * 9_500 + f" FROM {_NOWHERE}",
    "6,000 arrows": lambda: "SELECT " + "x -> " * 6_000 + f"1 FROM {_NOWHERE}",
    "9,900 additions": lambda: "SELECT " + "1 + " * 9_900 + f"1 FROM {_NOWHERE}",
    "90 doublings": lambda: f"{_DOUBLING} SELECT a.x FROM c89 a, {_NOWHERE} b",
    "an open dollar text": lambda: "SELECT $$" + "$ " * 90_000,
    "10,000 NOTs": lambda: "SELECT " + "NOT " * 10_000 + "TRUE",
    "10,000 minus signs": lambda: "SELECT " + "- " * 10_000 + "1",
    "9,000 brackets": lambda: "SELECT a" + "[" * 9_000 + "1" + "]" * 9_000,
    "3,000 CASEs": lambda: "SELECT " + "CASE WHEN 1 = 1 THEN " * 3_000 + "1" + " END" * 3_000,
    "5,000 joins without ON": lambda: "SELECT * FROM CUSTOMERS" + " JOIN CUSTOMERS" * 5_000,
    "open quotes": lambda: "SELECT " + "'" * 9_999,
}
"""What a text looks like, and the text: each is refused for what it is, whatever the policy."""


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_text_is_refused_and_its_session_goes_on(what: str, connect: Connect) -> None:
    with connect().cursor() as cursor:
        with pytest.raises(snowflake.connector.errors.Error) as caught:
            cursor.execute(HOSTILE[what]())
        assert caught.value.errno in _REFUSED, caught.value.msg
        assert len(str(caught.value.msg)) < 2_000  # a refusal does not hand the text back
        assert cursor.execute("SELECT 1 AS STILL_HERE").fetchall() == [(1,)]


def test_other_sessions_are_served_while_hostile_texts_are_refused(connect: Connect) -> None:
    hostile, honest = connect(), connect("pia")
    honest.cursor().execute("SELECT COUNT(*) FROM CUSTOMERS").fetchall()
    texts = [make() for make in HOSTILE.values()]
    refused = threading.Event()
    outcomes: list[str] = []

    def attack() -> None:
        try:
            for text in texts:
                try:
                    hostile.cursor().execute(text)
                    outcomes.append("ran")
                except snowflake.connector.errors.Error:
                    outcomes.append("refused")
        finally:
            refused.set()

    attacking = threading.Thread(target=attack)
    attacking.start()
    served = 0
    while not refused.is_set():
        assert honest.cursor().execute("SELECT COUNT(*) FROM CUSTOMERS").fetchall() == [(50_000,)]
        served += 1
    attacking.join()
    assert outcomes == ["refused"] * len(texts)
    assert served >= len(texts) // 2


def test_a_long_dollar_text_is_only_text(connect: Connect) -> None:
    text = "x $ ' -- /* y " * 12_000
    with connect().cursor() as cursor:
        assert cursor.execute(f"SELECT $${text}$$ AS T").fetchall() == [(text,)]


def test_several_hostile_sessions_at_once_leave_room_for_an_honest_one(connect: Connect) -> None:
    """Each holds an analyst for as long as its text takes; the honest one gets its turns meanwhile."""
    attackers = [connect() for _ in range(4)]
    honest = connect("pia")
    honest.cursor().execute("SELECT 1").fetchall()
    long = "SELECT " + " + ".join(["1"] * 9_900)
    done: list[None] = []

    def attack(connection: SnowflakeConnection, number: int) -> None:
        for n in range(2):
            try:
                connection.cursor().execute(f"{long} + {number}{n} FROM {_NOWHERE}")
            except snowflake.connector.errors.Error:
                done.append(None)

    threads = [threading.Thread(target=attack, args=(c, i)) for i, c in enumerate(attackers)]
    for thread in threads:
        thread.start()
    served = 0
    while any(t.is_alive() for t in threads):
        assert honest.cursor().execute(f"SELECT {served} AS N").fetchall() == [(served,)]
        served += 1
    for thread in threads:
        thread.join()
    assert len(done) == 8
    assert served >= 3
