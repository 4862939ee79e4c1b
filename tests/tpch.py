"""Small TPC-H data: the tables of the benchmark, filled so that its queries find something."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

_N, _D, _V = "NUMBER", "NUMBER(12,2)", "VARCHAR"
TABLES: Mapping[str, Mapping[str, str]] = {
    "REGION": {"R_REGIONKEY": _N, "R_NAME": _V, "R_COMMENT": _V},
    "NATION": {"N_NATIONKEY": _N, "N_NAME": _V, "N_REGIONKEY": _N, "N_COMMENT": _V},
    "SUPPLIER": {
        "S_SUPPKEY": _N, "S_NAME": _V, "S_ADDRESS": _V, "S_NATIONKEY": _N, "S_PHONE": _V,
        "S_ACCTBAL": _D, "S_COMMENT": _V,
    },
    "PART": {
        "P_PARTKEY": _N, "P_NAME": _V, "P_MFGR": _V, "P_BRAND": _V, "P_TYPE": _V, "P_SIZE": _N,
        "P_CONTAINER": _V, "P_RETAILPRICE": _D, "P_COMMENT": _V,
    },
    "PARTSUPP": {
        "PS_PARTKEY": _N, "PS_SUPPKEY": _N, "PS_AVAILQTY": _N, "PS_SUPPLYCOST": _D, "PS_COMMENT": _V,
    },
    "CUSTOMER": {
        "C_CUSTKEY": _N, "C_NAME": _V, "C_ADDRESS": _V, "C_NATIONKEY": _N, "C_PHONE": _V,
        "C_ACCTBAL": _D, "C_MKTSEGMENT": _V, "C_COMMENT": _V,
    },
    "ORDERS": {
        "O_ORDERKEY": _N, "O_CUSTKEY": _N, "O_ORDERSTATUS": _V, "O_TOTALPRICE": _D,
        "O_ORDERDATE": "DATE", "O_ORDERPRIORITY": _V, "O_CLERK": _V, "O_SHIPPRIORITY": _N,
        "O_COMMENT": _V,
    },
    "LINEITEM": {
        "L_ORDERKEY": _N, "L_PARTKEY": _N, "L_SUPPKEY": _N, "L_LINENUMBER": _N, "L_QUANTITY": _D,
        "L_EXTENDEDPRICE": _D, "L_DISCOUNT": _D, "L_TAX": _D, "L_RETURNFLAG": _V, "L_LINESTATUS": _V,
        "L_SHIPDATE": "DATE", "L_COMMITDATE": "DATE", "L_RECEIPTDATE": "DATE", "L_SHIPINSTRUCT": _V,
        "L_SHIPMODE": _V, "L_COMMENT": _V,
    },
}  # fmt: skip

# The values that the queries ask for come up far more often than in the benchmark's own data.
_REGIONS = ("AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST")
_NATIONS = (
    ("BRAZIL", 1), ("CANADA", 1), ("INDIA", 2), ("CHINA", 2), ("FRANCE", 3), ("GERMANY", 3),
    ("RUSSIA", 3), ("SAUDI ARABIA", 4), ("EGYPT", 4), ("KENYA", 0),
)  # fmt: skip
_TYPES = ("STANDARD POLISHED BRASS", "ECONOMY ANODIZED STEEL", "PROMO BURNISHED BRASS",
          "MEDIUM POLISHED TIN")  # fmt: skip
_SIZES = (15, 49, 14, 23, 45, 19, 3, 36, 9, 1, 5, 10)
_CONTAINERS = ("MED BOX", "SM CASE", "SM BOX", "MED BAG", "LG CASE", "LG BOX")
_COLOURS = ("forest green", "green apple", "forest honey", "plum puff")
_CODES = ("13", "31", "23", "29", "30", "18", "17", "11")
_WORDS = ("express pinto beans", "special packages among requests", "quickly final deposits")


def fill(connection: Any, rng: random.Random) -> None:
    """Create and fill the tables in the current schema of a DuckDB connection."""
    for table, columns in TABLES.items():
        kinds = {_N: "BIGINT", _D: "DECIMAL(12,2)"}
        listed = ", ".join(f"{c} {kinds.get(t, t)}" for c, t in columns.items())
        connection.execute(f"CREATE TABLE {table} ({listed})")
    for table, rows in _rows(rng).items():
        marks = ", ".join("?" * len(TABLES[table]))
        for at in range(0, len(rows), 500):
            part = rows[at : at + 500]
            connection.execute(
                f"INSERT INTO {table} VALUES " + ", ".join([f"({marks})"] * len(part)),
                [value for row in part for value in row],
            )


def _rows(rng: random.Random) -> dict[str, list[tuple[Any, ...]]]:
    def money(low: float, high: float) -> float:
        return round(rng.uniform(low, high), 2)

    def phone() -> str:
        return f"{rng.choice(_CODES)}-{rng.randrange(100, 999)}-{rng.randrange(1000, 9999)}"

    def comment() -> str:
        return rng.choice(_WORDS)

    suppliers, parts, customers, orders = 40, 120, 60, 400
    rows: dict[str, list[tuple[Any, ...]]] = {
        "REGION": [(i, n, comment()) for i, n in enumerate(_REGIONS)],
        "NATION": [(i, n, r, comment()) for i, (n, r) in enumerate(_NATIONS)],
        "SUPPLIER": [
            (i, f"Supplier#{i:09d}", f"street {i}", i % len(_NATIONS), phone(), money(-900, 9000),
             "wake Customer slow Complaints" if i == 7 else comment())
            for i in range(suppliers)
        ],
        "PART": [
            (i, rng.choice(_COLOURS), f"Manufacturer#{i % 5 + 1}",
             f"Brand#{rng.choice((12, 23, 34, 45, 51))}", rng.choice(_TYPES), rng.choice(_SIZES),
             rng.choice(_CONTAINERS), money(900, 2000), comment())
            for i in range(parts)
        ],
        "CUSTOMER": [
            (i, f"Customer#{i:09d}", f"road {i}", i % len(_NATIONS), phone(), money(-900, 9000),
             rng.choice(("BUILDING", "AUTOMOBILE", "MACHINERY")), comment())
            for i in range(customers)
        ],
    }  # fmt: skip
    stock = [(p, (p * 7 + k * 11) % suppliers) for p in range(parts) for k in range(4)]
    rows["PARTSUPP"] = [
        (p, s, rng.randrange(5000, 9999), money(1, 1000), comment()) for p, s in stock
    ]
    rows["ORDERS"], rows["LINEITEM"] = [], []
    for order in range(orders):
        day = date(1992, 1, 1) + timedelta(days=rng.randrange(2400))
        large = order % 50 == 0
        customer = rng.randrange(customers * 2 // 3)  # a third of the customers order nothing
        done = rng.random() < 0.6
        rows["ORDERS"].append(
            (order, customer, "F" if done else "O", money(1000, 400000), day,
             rng.choice(("1-URGENT", "2-HIGH", "3-MEDIUM")), f"Clerk#{order % 9}", 0, comment())
        )  # fmt: skip
        for line in range(7 if large else rng.randrange(1, 6)):
            part, supplier = rng.choice(stock)
            shipped = day + timedelta(days=rng.randrange(1, 90))
            rows["LINEITEM"].append(
                (order, part, supplier, line, 50 if large else rng.choice((1, 2, 5, 11, 15, 20, 30)),
                 money(900, 90000), rng.choice((0.02, 0.05, 0.06, 0.07)), rng.choice((0.0, 0.04, 0.08)),
                 rng.choice("RAN"), "F" if done else "O", shipped,
                 day + timedelta(days=rng.randrange(10, 80)),
                 shipped + timedelta(days=rng.randrange(1, 30)),
                 rng.choice(("DELIVER IN PERSON", "COLLECT COD")),
                 rng.choice(("MAIL", "SHIP", "AIR", "REG AIR")), comment())
            )  # fmt: skip
    return rows
