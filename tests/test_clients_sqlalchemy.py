"""SQLAlchemy with snowflake-sqlalchemy, and pandas over it, unmodified."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from decimal import Decimal

import pandas as pd
import pytest
from sqlalchemy import (
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.clients_world import DENIED, HELD, MASKED_NOTE, ClientsWorld

pytestmark = pytest.mark.e2e


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    customer_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    email: Mapped[str] = mapped_column(String)
    ssn: Mapped[str | None] = mapped_column(String)


@pytest.fixture(scope="module")
def engine(clients: ClientsWorld) -> Iterator[Engine]:
    options = clients.options()
    made = create_engine(
        "snowflake://whoever@hoopdev/PROD/CRM",
        connect_args={k: v for k, v in options.items() if k not in {"user", "account"}},
        pool_pre_ping=True,
        pool_size=2,
    )
    yield made
    made.dispose()


def true_email(clients: ClientsWorld, customer: int) -> str:
    [(email,)] = clients.behind(
        f"SELECT EMAIL FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = {customer}"
    )
    return str(email)


def test_masked_rows_and_named_binds(clients: ClientsWorld, engine: Engine) -> None:
    with engine.connect() as connection:
        asked = text("SELECT customer_id, email, ssn FROM customers WHERE customer_id = :id")
        row = connection.execute(asked, {"id": 3}).one()
    assert row.customer_id == 3 and row.ssn is None
    assert row.email == "***@" + true_email(clients, 3).split("@")[1]


def test_the_orm_reads_masked_objects(clients: ClientsWorld, engine: Engine) -> None:
    with Session(engine) as session:
        query = (
            select(Customer).where(Customer.customer_id.in_([1, 2])).order_by(Customer.customer_id)
        )
        found = session.scalars(query).all()
        assert [c.customer_id for c in found] == [1, 2]
        assert all(c.ssn is None and c.email.startswith("***@") for c in found)
        assert session.scalar(select(func.count()).select_from(Customer)) == 50_000
        assert session.get_one(Customer, 5).ssn is None


def test_a_database_is_reflected(engine: Engine) -> None:
    seen = inspect(engine)
    assert {"customers", "orders", "typed"} <= set(seen.get_table_names())
    assert set(seen.get_schema_names()) == {"crm", "features"}
    columns = {c["name"]: c for c in seen.get_columns("customers", schema="crm")}
    assert list(columns)[:3] == ["customer_id", "full_name", "email"]
    assert columns["mrr"]["type"].python_type is Decimal
    assert seen.has_table("orders") and not seen.has_table("nowhere")
    assert seen.get_pk_constraint("customers")["constrained_columns"] == []
    assert seen.get_foreign_keys("customers") == [] and seen.get_indexes("customers") == []


def test_a_reflected_table_is_queried(engine: Engine) -> None:
    metadata = MetaData()
    metadata.reflect(engine, only=["customers", "orders"])
    orders = metadata.tables["orders"]
    with engine.connect() as connection:
        found = connection.execute(select(orders.c.order_id).where(orders.c.order_id < 3))
        assert sorted(r.order_id for r in found) == [1, 2]


def test_reflection_shows_nothing_that_no_rule_grants(engine: Engine) -> None:
    with engine.connect() as connection:
        asked = text(
            "SELECT DISTINCT table_schema FROM PROD.information_schema.{}".format("columns")
        )
        assert {r[0] for r in connection.execute(asked)} == {"CRM", "FEATURES"}
    assert not inspect(engine).has_table("salaries", schema="hr")


def test_pandas_reads_queries_and_tables(engine: Engine) -> None:
    frame = pd.read_sql("SELECT customer_id, email, ssn FROM customers ORDER BY 1 LIMIT 10", engine)
    assert list(frame.columns) == ["customer_id", "email", "ssn"] and frame["ssn"].isna().all()
    one = pd.read_sql_query(
        text("SELECT amount FROM orders WHERE order_id = :id"), engine, params={"id": 4}
    )
    assert len(one) == 1
    assert len(pd.read_sql_table("typed", engine, columns=["id", "label"])) == 1


def test_transactions_and_many_rows(clients: ClientsWorld, engine: Engine) -> None:
    name = f"alchemy_{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE features.{name} (id INT, label VARCHAR)"))
    table = Table(name, MetaData(), schema="features", autoload_with=engine)
    with engine.begin() as connection:
        connection.execute(insert(table), [{"id": i, "label": f"n{i}"} for i in range(5)])
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        connection.execute(delete(table))
        raise ZeroDivisionError
    assert clients.behind(f"SELECT COUNT(*) FROM PROD.FEATURES.{name}") == [(5,)]
    table.drop(engine)
    assert not inspect(engine).has_table(name, schema="features")


def test_a_denial_is_sqlalchemys_own_error(engine: Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(ProgrammingError, match="no rule grants"):
            connection.execute(text(f"SELECT * FROM {DENIED}"))
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_a_held_statement_waits_and_gets_its_rows(clients: ClientsWorld, engine: Engine) -> None:
    with clients.approving("alchemy_mark"), engine.connect() as connection:
        asked = text(f"SELECT body AS alchemy_mark FROM {HELD} WHERE note_id = :id")
        assert connection.execute(asked, {"id": 1}).scalar() == MASKED_NOTE
