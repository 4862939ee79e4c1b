"""What real clients were shown through the gateway, asked for again in the Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import snowflake.connector

from hoop_core.audit.recording import Recorder
from hoop_core.config import LakeSettings, load_settings
from hoop_core.devstack.stack import DevStack
from hoop_core.lake.query import LakeQuery
from hoop_core.lake.rows import value_text
from hoop_core.lake.writer import LakeWriter
from hoop_core.store import Store

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("form", ["ARROW", "JSON"])
def test_a_recorded_result_says_what_the_client_saw(
    stack: DevStack,
    connect: Callable[..., snowflake.connector.SnowflakeConnection],
    tmp_path: Path,
    form: str,
) -> None:
    chosen = {"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": form}
    with connect(session_parameters=chosen) as connection:
        cursor = connection.cursor()
        columns = [r[0] for r in cursor.execute("DESCRIBE TABLE CUSTOMERS").fetchall()]
        sql = f"SELECT {', '.join(columns)} FROM CUSTOMERS ORDER BY {columns[0]} LIMIT 20"
        shown = cursor.execute(sql).fetchall()
    settings = load_settings(stack.info.config_file)
    lake = LakeSettings(root=str(tmp_path / "lake"))
    store = Store.of(settings.store)
    store.attach()
    with closing(store):
        with store.write() as connection_:
            connection_.exec_driver_sql("DELETE FROM lake_progress")
        writer = LakeWriter(lake, store, Recorder(settings.store.recordings), owner=form)
        while writer.step():
            pass
    with closing(LakeQuery(lake.root)) as asking:
        found = asking.ask(
            "SELECT r.values FROM results r JOIN statements s USING (statement_id) "
            f"WHERE s.sql = '{sql}' AND s.session_id = (SELECT max_by(session_id, seq) FROM statements "
            f"WHERE sql = '{sql}') ORDER BY r.part, r.row"
        )
        rows: list[dict[str, Any]] = [dict(values) for (values,) in found.rows]
    assert [list(r) for r in rows] == [columns] * 20
    assert [_texts(r.values()) for r in rows] == [_texts(r) for r in shown]


def _texts(values: Any) -> list[str | None]:
    """Numbers by their value: a driver gives an int where Snowflake says NUMBER(38, 0)."""
    return [value_text(v) for v in values]
