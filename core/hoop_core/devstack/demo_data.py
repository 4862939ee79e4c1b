"""The demo world's data: made up, lifelike, and the same on every machine and at every start.

Set-based SQL over integer arithmetic, so that 270,000 rows take well under a second. No row belongs
to a person: social security numbers have area numbers above 899 and group numbers below 50, which
are neither issued nor used for tax numbers; cards are from the ranges that payment providers publish
for tests; mail goes to the reserved top-level domain `.example`, telephones to 555-01xx.
"""

from __future__ import annotations

import duckdb

Name = tuple[str, str, str]

CUSTOMERS: Name = ("PROD", "CRM", "CUSTOMERS")
ORDERS: Name = ("PROD", "CRM", "ORDERS")
SUPPORT_NOTES: Name = ("PROD", "CRM", "SUPPORT_NOTES")
SALARIES: Name = ("PROD", "HR", "SALARIES")
CHURN_STAGING: Name = ("PROD", "FEATURES", "CHURN_STAGING")

ROWS: dict[Name, int] = {
    CUSTOMERS: 50_000,
    ORDERS: 200_000,
    SUPPORT_NOTES: 20_000,
    SALARIES: 100,
    CHURN_STAGING: 500,
}
TABLES: tuple[Name, ...] = tuple(ROWS)


def _words(text: str) -> list[str]:
    return text.split()


_FIRST = _words(
    "Ada Aisha Alan Amara Ana Anders Anil Astrid Bao Beatriz Bjorn Camille Carlos Chen Chiara "
    "Daniel Diego Dina Elena Elif Emma Erik Esther Fatima Felix Fiona Gabriel Grace Hana Hugo Ines "
    "Ivan Jana Jonas Julia Kaito Karim Kofi Lars Leila Liam Lucia Maja Marco Mei Miguel Mira "
    "Nadia Nils Noah Olga Omar Paula Pedro Priya Rosa Samir Sara Sofia Tariq Tomas Uma Viktor Yuki"
)
_LAST = _words(
    "Abebe Ahmed Almeida Andersen Baker Barbosa Becker Bianchi Brown Castillo Cohen Costa Cruz "
    "Dubois Eriksen Fernandez Fischer Garcia Gomez Greco Gupta Haas Hansen Hassan Hernandez Hoffman "
    "Ibrahim Ito Ivanov Jansen Johansson Jones Kaya Keller Khan Kim Kowalski Kumar Larsen Laurent "
    "Lee Lopez Marino Martin Meyer Moreau Mueller Nakamura Ndiaye Nguyen Nielsen Novak Okafor Olsen "
    "Park Patel Petrov Ricci Rossi Schmidt Silva Singh Tanaka Weber"
)
_DOMAINS = (
    "mail.example",
    "post.example",
    "northwind.example",
    "inbox.example",
    "lakeside.example",
)
_CARD_RANGES = ("400000", "424242", "555555", "601100")
_REGIONS = ("EU", "NA", "APAC", "LATAM")
_SEGMENTS = ("consumer", "smb", "mid-market", "enterprise")
_STATUSES = ("paid", "paid", "paid", "paid", "shipped", "shipped", "refunded", "open")
_CHANNELS = ("email", "phone", "chat", "web")
_NOTES = (
    "Customer asks why the invoice of last month is higher than the one before. Explained the "
    "usage tier.",
    "Wants to cancel at the end of the term; offered a call with the account team.",
    "Password reset did not arrive. Please confirm to {email} once it is fixed.",
    "Reported slow exports since the last release, seems happy with the workaround.",
    "Called about a double charge. Call back at {phone} after 3 pm.",
    "Asked for the data processing agreement. Send it to {email}, copy to legal.",
    "Very satisfied with the new dashboards, would recommend us.",
    "Moved offices; the new number is {phone}. Billing address is updated.",
    "Feature request: scheduled reports. No date promised.",
    "Card was declined twice. Customer {name} will try another one today.",
)

_MACROS = """
CREATE OR REPLACE TEMP MACRO spread(i, salt) AS
    ((((i * 2654435761 + salt::BIGINT * 1442695040) % 4294967291 * 48271) % 2147483647)
   * (((i * 2654435761 + salt::BIGINT * 1442695040) % 4294967291 * 48271) % 2147483647) + salt * 7919)
    % 2147483647;
CREATE OR REPLACE TEMP MACRO one_of(words, i, salt) AS words[spread(i, salt) % len(words) + 1];
CREATE OR REPLACE TEMP MACRO doubled(digit) AS
    CASE WHEN digit > 4 THEN digit * 2 - 9 ELSE digit * 2 END;
CREATE OR REPLACE TEMP MACRO luhn(body) AS
    body || ((10 - list_sum(list_transform(range(1, 16), lambda k:
        CASE WHEN k % 2 = 1 THEN doubled(body[k]::INTEGER) ELSE body[k]::INTEGER END)) % 10) % 10)
    ::INTEGER::VARCHAR;
"""

_STATEMENTS = (
    """
CREATE TABLE PROD.CRM.CUSTOMERS AS
WITH people AS (
    SELECT i, one_of($first, i, 11) AS given, one_of($last, i, 12) AS family,
           spread(i, 17) % 100 AS r, spread(i, 18) % 100 AS s
    FROM range(1, $customers + 1) t(i)
)
SELECT i AS CUSTOMER_ID,
    given || ' ' || family AS FULL_NAME,
    lower(given) || '.' || lower(family) || i || '@' || one_of($domains, i, 13) AS EMAIL,
    printf('%d-%02d-%04d', 900 + spread(i, 14) % 100, 1 + spread(i, 15) % 49,
           1 + spread(i, 16) % 9999) AS SSN,
    luhn(one_of($cards, i, 19) || printf('%09d', spread(i, 20) % 1000000000)) AS CARD_NUMBER,
    $regions[CASE WHEN r < 38 THEN 1 WHEN r < 74 THEN 2 WHEN r < 90 THEN 3 ELSE 4 END] AS REGION,
    $segments[CASE WHEN s < 62 THEN 1 WHEN s < 86 THEN 2 WHEN s < 96 THEN 3 ELSE 4 END] AS SEGMENT,
    DATE '2019-01-01' + (spread(i, 21) % 2400)::INTEGER AS SIGNED_UP,
    (CASE WHEN s < 62 THEN 900 WHEN s < 86 THEN 9000 WHEN s < 96 THEN 60000 ELSE 400000 END
        * (30 + spread(i, 22) % 71) / 10000.0)::DECIMAL(12, 2) AS MRR
FROM people ORDER BY i
""",
    """
CREATE TABLE PROD.CRM.ORDERS AS
SELECT i AS ORDER_ID,
    1 + spread(i, 31) % $customers AS CUSTOMER_ID,
    TIMESTAMP '2024-01-01' + to_seconds((spread(i, 32) % 63072000)::BIGINT) AS ORDERED_AT,
    ((500 + spread(i, 33) % 49500) / 100.0)::DECIMAL(12, 2) AS AMOUNT,
    one_of($statuses, i, 34) AS STATUS
FROM range(1, $orders + 1) t(i) ORDER BY i
""",
    """
CREATE TABLE PROD.CRM.SUPPORT_NOTES AS
WITH notes AS (
    SELECT i, 1 + spread(i, 41) % $customers AS customer, one_of($notes, i, 42) AS body
    FROM range(1, $support_notes + 1) t(i)
)
SELECT n.i AS NOTE_ID,
    n.customer AS CUSTOMER_ID,
    TIMESTAMP '2024-01-01' + to_seconds((spread(n.i, 43) % 63072000)::BIGINT) AS CREATED_AT,
    one_of($channels, n.i, 44) AS CHANNEL,
    replace(replace(replace(n.body, '{email}', c.EMAIL), '{name}', c.FULL_NAME),
        '{phone}', printf('+1 %d 555 01%02d', 201 + spread(n.i, 45) % 700, spread(n.i, 46) % 100))
        AS BODY
FROM notes n JOIN PROD.CRM.CUSTOMERS c ON c.CUSTOMER_ID = n.customer ORDER BY n.i
""",
    """
CREATE TABLE PROD.HR.SALARIES AS
SELECT i AS EMPLOYEE_ID, 42000 + (spread(i, 51) % 1400) * 100 AS SALARY
FROM range(1, $salaries + 1) t(i) ORDER BY i
""",
    """
CREATE TABLE PROD.FEATURES.CHURN_STAGING AS
SELECT 1 + spread(i, 61) % $customers AS CUSTOMER_ID,
    (spread(i, 62) % 10000) / 10000.0::DOUBLE AS SCORE,
    TIMESTAMP '2023-06-01' + to_seconds((spread(i, 63) % 2592000)::BIGINT) AS COMPUTED_AT
FROM range(1, $churn_staging + 1) t(i) ORDER BY i
""",
)

_VALUES = {
    "first": _FIRST,
    "last": _LAST,
    "domains": list(_DOMAINS),
    "cards": list(_CARD_RANGES),
    "regions": list(_REGIONS),
    "segments": list(_SEGMENTS),
    "statuses": list(_STATUSES),
    "channels": list(_CHANNELS),
    "notes": list(_NOTES),
}


def load(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes and fills the tables; their databases and schemas must be there."""
    values = _VALUES | {name[2].lower(): rows for name, rows in ROWS.items()}
    connection.execute(_MACROS)
    for sql in _STATEMENTS:
        named = {key: value for key, value in values.items() if f"${key}" in sql}
        connection.execute(sql, named)
