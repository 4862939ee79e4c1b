"""Snowpark for Python, unmodified: a session by host, port and token, and nothing of Hoop's own around it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from snowflake.snowpark import Session
from snowflake.snowpark.exceptions import SnowparkSQLException
from snowflake.snowpark.functions import avg, col, lit
from snowflake.snowpark.types import LongType

from tests.clients_world import DENIED, HELD, MASKED_NOTE, ClientsWorld

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def session(clients: ClientsWorld) -> Iterator[Session]:
    made = Session.builder.configs(clients.options(schema="FEATURES")).create()
    yield made
    made.close()


def new_name() -> str:
    return f"PROD.FEATURES.PARK_{uuid.uuid4().hex[:8].upper()}"


def test_a_data_frame_shows_masked_rows(clients: ClientsWorld, session: Session) -> None:
    sql = "SELECT CUSTOMER_ID, EMAIL, SSN FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= 3 ORDER BY 1"
    frame = session.table("PROD.CRM.CUSTOMERS").filter(col("CUSTOMER_ID") <= 3)
    seen = frame.select("CUSTOMER_ID", "EMAIL", "SSN").sort("CUSTOMER_ID").collect()
    for row, (true_id, true_email, _) in zip(seen, clients.behind(sql), strict=True):
        assert tuple(row) == (true_id, "***@" + true_email.split("@")[1], None)


def test_what_is_derived_is_derived_from_masks(session: Session) -> None:
    frame = session.table("PROD.CRM.CUSTOMERS")
    assert frame.filter(col("SSN").is_not_null()).count() == 0
    domains = frame.group_by("EMAIL").agg(avg("MRR").alias("MRR")).collect()
    assert 0 < len(domains) < 20 and all(r["EMAIL"].startswith("***@") for r in domains)
    joined = frame.join(session.table("PROD.CRM.ORDERS"), "CUSTOMER_ID").limit(5).to_pandas()
    assert joined["SSN"].isna().all()


def test_pandas_batches_and_rows_one_by_one(session: Session) -> None:
    frame = session.table("PROD.CRM.CUSTOMERS").select("CUSTOMER_ID", "SSN")
    batches = list(frame.to_pandas_batches())
    assert sum(map(len, batches)) == 50_000 and all(b["SSN"].isna().all() for b in batches)
    assert sum(1 for _ in frame.to_local_iterator()) == 50_000


def test_values_are_bound(session: Session) -> None:
    asked = session.sql("SELECT CUSTOMER_ID FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = ?", [7])
    assert asked.collect() == [(7,)]


def test_local_rows_become_a_data_frame(session: Session) -> None:
    frame = session.create_dataframe([[1, "a"], [2, "b"]], schema=["ID", "LABEL"])
    assert frame.filter(col("ID") > 1).collect() == [(2, "b")]


def test_a_frame_is_cached_in_a_temporary_table(session: Session) -> None:
    frame = session.table("PROD.CRM.CUSTOMERS").filter(col("CUSTOMER_ID") <= 4)
    cached = frame.select("CUSTOMER_ID", "SSN").cache_result()
    assert sorted(cached.collect()) == [(1, None), (2, None), (3, None), (4, None)]
    many = session.create_dataframe([[i, "x"] for i in range(700)], schema=["ID", "LABEL"])
    assert many.count() == 700  # local rows beyond a few hundred go into a temporary table too


def test_a_schema_is_known_and_a_session_tells_where_it_is(session: Session) -> None:
    fields = {f.name: f.datatype for f in session.table("PROD.CRM.CUSTOMERS").schema.fields}
    assert fields["CUSTOMER_ID"] == LongType()
    assert session.get_current_role() == '"ML_READER"'
    assert session.get_fully_qualified_current_schema() == '"PROD"."FEATURES"'


def test_results_are_saved_masked(clients: ClientsWorld, session: Session) -> None:
    name = new_name()
    frame = session.table("PROD.CRM.CUSTOMERS").select("CUSTOMER_ID", "EMAIL", "SSN").limit(20)
    frame.write.mode("overwrite").save_as_table(name)
    frame.write.mode("append").save_as_table(name)
    hidden = "COUNT_IF(SSN IS NULL AND EMAIL LIKE '***@%')"
    assert clients.behind(f"SELECT COUNT(*), {hidden} FROM {name}") == [(40, 40)]
    updated = session.table(name).update({"SSN": lit("none")}, col("CUSTOMER_ID") > 0)
    assert updated.rows_updated == 40
    session.sql(f"DROP TABLE {name}").collect()


def test_a_frame_that_is_not_waited_for(session: Session) -> None:
    job = session.table("PROD.CRM.ORDERS").filter(col("ORDER_ID") <= 2).collect_nowait()
    assert len(job.result()) == 2 and job.is_done()


def test_a_query_tag_is_set_and_seen(session: Session) -> None:
    session.query_tag = "park-tag"
    assert session.query_tag == "park-tag"
    session.query_tag = None


def test_a_denial_is_snowparks_own_error(session: Session) -> None:
    with pytest.raises(SnowparkSQLException, match="no rule grants"):
        session.table(DENIED).collect()
    assert session.sql("SELECT 1 AS A").collect() == [(1,)]


def test_a_held_frame_waits_and_gets_its_rows(clients: ClientsWorld, session: Session) -> None:
    held = f"SELECT BODY AS PARK_MARK FROM {HELD} WHERE NOTE_ID = 1"
    with clients.approving("PARK_MARK"):
        assert session.sql(held).collect() == [(MASKED_NOTE,)]
