"""Statements over protected columns, composed at random: a grammar for hypothesis.

Every query of the grammar returns the columns K (number), T (text) and N (number), so that any query
can stand wherever another one can. Protected: EMAIL, SSN, SCORE, BORN of PEOPLE; EMAIL, PAN of CARDS.
Nothing in it is random at run time (no SAMPLE, no clock): what differs, differs by the data.
"""

from __future__ import annotations

from hypothesis import strategies as st

from hoop_core.model import TableName
from hoop_core.sql.catalog import Catalog, CatalogObject

_COLUMNS = {
    "PEOPLE": {
        "ID": "NUMBER", "NAME": "VARCHAR", "REGION": "VARCHAR", "EMAIL": "VARCHAR",
        "SSN": "VARCHAR(11)", "SCORE": "NUMBER(12,2)", "BORN": "DATE", "BALANCE": "NUMBER(12,2)",
    },
    "CARDS": {"PERSON_ID": "NUMBER", "EMAIL": "VARCHAR", "PAN": "VARCHAR", "SPENT": "NUMBER"},
    "ORDERS": {"ID": "NUMBER", "CUST_ID": "NUMBER", "REGION": "VARCHAR", "AMOUNT": "NUMBER"},
    "OUT1": {"ID": "NUMBER", "V": "VARCHAR"},
}  # fmt: skip
_VIEWS = {
    "PEOPLE_VIEW": "CREATE VIEW people_view AS SELECT * FROM people",
    "SOME_VIEW": "CREATE VIEW some_view AS SELECT id, name, region, email, ssn, score, born, balance "
    "FROM people_view WHERE score > 1 OR email LIKE 'z%'",
}
CATALOG = Catalog.of(
    {TableName("DB", "PUBLIC", t): CatalogObject(columns) for t, columns in _COLUMNS.items()}
    | {
        TableName("DB", "PUBLIC", v): CatalogObject(_COLUMNS["PEOPLE"], text)
        for v, text in _VIEWS.items()
    }
)
POLICY_YAML = """
version: 1
tags:
  pii: ["DB.PUBLIC.PEOPLE.EMAIL", "DB.PUBLIC.PEOPLE.SSN", "DB.PUBLIC.PEOPLE.SCORE",
        "DB.PUBLIC.PEOPLE.BORN", "DB.PUBLIC.CARDS.EMAIL", "DB.PUBLIC.CARDS.PAN"]
masks:
  - {tag: pii, mask: constant}
rules:
  - {name: read, groups: [agents], reads: ["DB.PUBLIC.*"], then: allow}
  - name: write
    groups: [agents]
    kinds: [insert, insert_overwrite, merge, update, delete, create_table_as]
    writes: ["DB.PUBLIC.OUT1", "DB.PUBLIC.SCRATCH"]
    then: allow
"""
ROW_FILTERS_YAML = """
row_filters:
  - {table: DB.PUBLIC.PEOPLE, where: "REGION = 'EU'"}
  - {table: DB.PUBLIC.ORDERS, where: "REGION = 'EU' OR AMOUNT IS NULL"}
"""
TABLES = (
    "CREATE TABLE people (id NUMBER, name VARCHAR, region VARCHAR, email VARCHAR, ssn VARCHAR(11), "
    "score NUMBER(12,2), born DATE, balance NUMBER(12,2))",
    "CREATE TABLE cards (person_id NUMBER, email VARCHAR, pan VARCHAR, spent NUMBER)",
    "CREATE TABLE out1 (id NUMBER, v VARCHAR)",
    "CREATE TABLE orders (id NUMBER, cust_id NUMBER, region VARCHAR, amount NUMBER)",
    *_VIEWS.values(),
)
RESET = (
    "DROP TABLE IF EXISTS scratch",
    "DELETE FROM out1",
    "INSERT INTO out1 VALUES (0, 'x'), (1, 'y'), (7, 'z')",
)
WRITTEN = ("out1", "scratch")

_PEOPLE = (
    (0, "'Alice'", "'EU'", 10), (1, "'Bob'", "'US'", 20), (2, "'Carol'", "'EU'", -3),
    (3, "'Dave'", "'US'", 0), (4, "'Erin'", "'EU'", 10), (5, "'Frank'", "'AP'", 8),
)  # fmt: skip
_ORDERS = "(1, 0, 'EU', 10), (3, 1, 'EU', 5), (4, 4, 'EU', 7), (5, NULL, 'US', NULL)"


def filling(secrets: str, hidden: str = "some") -> tuple[str, ...]:
    """What only the protected values tell apart, and the rows that a row filter hides.

    NULLs stay where they are, for masks keep them. The hidden rows may differ in everything.
    """
    email, ssn, score, born, pan = _SECRETS[secrets]
    people = [
        f"({i}, {name}, {region}, {email[i]}, {ssn[i]}, {score[i]}, {born[i]}, {balance})"
        for i, name, region, balance in _PEOPLE
        if hidden == "some" or region == "'EU'"
    ]
    orders = f"{_ORDERS}, (2, 1, 'US', 20)"
    if hidden == "others":
        born_today = "'2026-01-01'"
        people += [
            f"(0, 'Alice', 'US', 'zz@x', '0', 777, {born_today}, 99)",
            f"(7, 'Grace', NULL, {email[1]}, {ssn[1]}, -5, {born_today}, -1)",
            "(9, 'Ivan', 'US', NULL, NULL, NULL, NULL, NULL)",
            f"(8, 'Heidi', 'eu', {email[0]}, {ssn[0]}, 31, {born_today}, 1)",
        ]
        orders = f"{_ORDERS}, (0, 0, 'AP', 1), (9, 2, NULL, 3), (6, 4, 'US', 40)"
    cards = ", ".join(f"({i % 5}, {email[i % 5]}, {pan[i]}, {i * 7 % 4})" for i in range(len(pan)))
    return (
        f"INSERT INTO people VALUES {', '.join(people)}",
        f"INSERT INTO orders VALUES {orders}",
        f"INSERT INTO cards VALUES {cards}",
    )


_SECRETS = {
    # all distinct, ordered one way
    "one": (
        ("'alice@corp.example'", "'bob@mail.example'", "NULL", "'d.ave@corp.example'",
         "'erin@x.example'", "'zed@corp.example'"),
        ("'111-22-3333'", "'211-00-0001'", "'311-00-0002'", "NULL", "'511-00-0003'", "'611-00-0004'"),
        ("1.5", "2", "30", "-4", "55", "NULL"),
        ("'1950-01-31'", "'1961-02-28'", "'1972-03-01'", "'1983-04-30'", "NULL", "'2004-12-31'"),
        ("'4000006849234884'", "'4111111111111111'", "'5500005555555559'", "NULL", "'340000000000009'"),
    ),
    # doubled, ordered the other way, of other lengths, kinds and character sets
    "other": (
        ("'zoe@corp.example'", "'Mallory'", "NULL", "''", "'Mallory'", "'it''s % _ \u00fc@'"),
        ("'9'", "'9'", "'8'", "NULL", "'12'", "'007'"),
        ("900", "900", "-1", "900.01", "0", "NULL"),
        ("'2020-02-29'", "'1999-12-31'", "'1999-12-31'", "'1930-06-01'", "NULL", "'1930-06-01'"),
        ("'1'", "'1'", "'2'", "NULL", "''"),
    ),
}  # fmt: skip

# --- leaves -----------------------------------------------------------------------------------------

_SOURCES = (
    "people p", "people AS p", "DB.PUBLIC.PEOPLE p", '"PEOPLE" p', "public.people p",
    "(SELECT * FROM people) p", "people_view p", "some_view AS p", "DB.PUBLIC.SOME_VIEW p", "(people p)", "(SELECT * EXCLUDE (balance), balance FROM people) p",
    "people p (id, name, region, email, ssn, score, born, balance)",
    "(orders o JOIN people p ON p.id = o.cust_id)", "people p -- FROM people\n",
    "(SELECT ssn AS email, email AS ssn, * EXCLUDE (email, ssn) FROM db.public.people) p",
)  # fmt: skip
_TEXTS = (
    "p.email", "p.ssn", "UPPER(p.email)", "p.email || p.ssn", "SUBSTR(p.ssn, 1, 1)",
    "CASE WHEN p.email LIKE 'a%' THEN 'y' ELSE 'n' END", "COALESCE(p.email, p.name)", "MD5(p.email)",
    "TO_VARCHAR(p.score)", "TO_VARCHAR(p.born)", "SPLIT_PART(p.email, '@', 2)", "p.name",
    "IFF(CONTAINS(p.email, 'o'), p.name, p.region)", "REGEXP_REPLACE(p.ssn, '[0-3]', 'x')",
    "DECODE(p.ssn, '9', 'nine', '8', 'eight', p.region)", "LEFT(p.email, 2)::VARCHAR(5)",
    "NULLIF(p.email, 'Mallory')", "GREATEST(p.email, p.ssn)", "CONCAT_WS('-', p.name, p.ssn)",
    "(SELECT MAX(c.pan) FROM cards c WHERE c.person_id = p.id)",
    "(SELECT MIN(name) FROM people q WHERE q.ssn > p.ssn)",
)  # fmt: skip
_NUMBERS = (
    "p.score", "LENGTH(p.email)", "p.balance", "p.score * 2 - p.balance", "ROUND(p.score)",
    "YEAR(p.born)", "DATEDIFF('day', p.born, '2020-01-01'::DATE)", "IFF(p.ssn < '5', 1, 0)",
    "ROW_NUMBER() OVER (ORDER BY p.ssn, p.id)", "RANK() OVER (PARTITION BY p.region ORDER BY p.score DESC)",
    "LAG(p.score) OVER (ORDER BY p.id)", "SUM(p.score) OVER (PARTITION BY p.region)",
    "TRY_TO_NUMBER(p.ssn)", "POSITION('@', p.email)", "CASE p.email WHEN 'Mallory' THEN 1 ELSE p.balance END",
    "(SELECT COUNT(*) FROM cards c WHERE c.email = p.email)", "ZEROIFNULL(p.score) / 4",
    "COUNT(p.email) OVER (PARTITION BY p.ssn)", "TO_NUMBER(p.ssn)", "DATE_PART('month', p.born)",
    "(SELECT COUNT(*) FROM people q WHERE q.score < p.score)",
)  # fmt: skip
_CONDITIONS = (
    "TRUE", "p.id >= 0", "p.ssn LIKE '1%'", "p.email > 'm'", "p.score BETWEEN 0 AND 50", "p.name <> 'Bob'",
    "p.born < '1980-01-01'", "p.email IS NOT NULL", "p.email IN ('Mallory', 'bob@mail.example')",
    "EXISTS (SELECT 1 FROM cards c WHERE c.email = p.email AND c.person_id <> p.id)",
    "p.id IN (SELECT c.person_id FROM cards c WHERE c.pan LIKE '4%')", "NOT p.email ILIKE '%CORP%'",
    "p.score > (SELECT AVG(score) FROM people)", "p.ssn = ANY (SELECT ssn FROM people WHERE id > 0)",
    "LENGTH(p.ssn) = 11", "(p.region, p.ssn) IN (SELECT region, ssn FROM people WHERE score > 1)",
    "REGEXP_LIKE(p.ssn, '[0-9]+')", "p.score >= ALL (SELECT score FROM people WHERE score IS NOT NULL)",
)  # fmt: skip
_LEAF_TAILS = ("", "", "", " ORDER BY p.ssn, p.id LIMIT 3", " QUALIFY ROW_NUMBER() OVER (PARTITION BY "
               "p.region ORDER BY p.email, p.id) = 1")  # fmt: skip
_OTHER_LEAVES = (
    "SELECT c.person_id AS k, c.pan AS t, c.spent AS n FROM cards c WHERE c.pan > '4'",
    "SELECT o.id AS k, o.region AS t, o.amount AS n FROM orders o",
    "SELECT id AS k, v AS t, id * 2 AS n FROM out1",
    "SELECT v.k, v.t, v.n FROM (VALUES (1, 'x', 1), (2, 'Mallory', 2)) AS v (k, t, n)",
    "SELECT MAX(spent) AS k, email AS t, COUNT(*) AS n FROM cards GROUP BY email",
    "SELECT k, t, n FROM (SELECT id AS k, email, ssn, score AS n FROM people) "
    "UNPIVOT (t FOR which IN (email, ssn))",
    "SELECT p.id AS k, c.pan AS t, p.score AS n FROM people p JOIN cards c USING (email)",
    "SELECT p.id AS k, c.pan AS t, p.score AS n FROM people p NATURAL JOIN cards c",
    "SELECT a.id AS k, b.email AS t, a.score AS n FROM people a JOIN people b ON a.ssn < b.ssn",
    "SELECT p.id AS k, f.value::VARCHAR AS t, f.index AS n FROM people p, "
    "LATERAL FLATTEN(input => ARRAY_CONSTRUCT(p.email, p.ssn)) f",
    "SELECT p.id AS k, l.pan AS t, p.score AS n FROM people p, "
    "LATERAL (SELECT pan FROM cards c WHERE c.email = p.email) l",
    "SELECT id AS k, OBJECT_CONSTRUCT('e', email)::VARCHAR AS t, score AS n FROM people",
    "SELECT COUNT_IF(ssn LIKE '9%') AS k, LISTAGG(email, ',') WITHIN GROUP (ORDER BY id) AS t, "
    "MEDIAN(score) AS n FROM people GROUP BY region",
    'SELECT "\'EU\'" AS k, \'p\' AS t, "\'US\'" AS n FROM (SELECT region, score FROM people) '
    "PIVOT (SUM(score) FOR region IN ('EU', 'US'))",
)  # fmt: skip


@st.composite
def _leaf(draw: st.DrawFn) -> str:
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(_OTHER_LEAVES))
    source, text, number, condition, tail = (
        draw(st.sampled_from(s)) for s in (_SOURCES, _TEXTS, _NUMBERS, _CONDITIONS, _LEAF_TAILS)
    )
    return f"SELECT p.id AS k, {text} AS t, {number} AS n FROM {source} WHERE {condition}{tail}"


# --- compositions: {0} and {1} are queries with the columns K, T, N ---------------------------------

_FORMS = (
    "SELECT k, t, n FROM ({0}) q",
    "SELECT q.* FROM ({0}) AS q WHERE q.t < 'm' OR q.n > 1",
    "WITH w AS ({0}) SELECT k, t, n FROM w",
    "WITH w (a, b, c) AS ({0}) SELECT a AS k, b AS t, c AS n FROM w WHERE b IS NOT NULL",
    "WITH w AS ({0}), v AS (SELECT k, MAX(t) AS t, SUM(n) AS n FROM w GROUP BY k) SELECT * FROM v",
    "WITH w AS ({0}), v AS ({1}) SELECT w.k, v.t, w.n FROM w JOIN v ON v.k = w.k",
    "WITH RECURSIVE r AS (SELECT k, t, n, 1 AS d FROM ({0}) b UNION ALL SELECT k + 1, t, n, d + 1 "
    "FROM r WHERE d < 2) SELECT k, t, n FROM r",
    "({0}) UNION ALL ({1})",
    "({0}) UNION ({1})",
    "({0}) EXCEPT ({1})",
    "({0}) MINUS ({1})",
    "({0}) INTERSECT ({1})",
    "SELECT a.k, (SELECT MAX(b.t) FROM ({1}) b) AS t, a.n FROM ({0}) a",
    "SELECT a.k, a.t, (SELECT COUNT(*) FROM ({1}) b WHERE b.t = a.t) AS n FROM ({0}) a",
    "SELECT a.k, a.t, a.n FROM ({0}) a WHERE EXISTS (SELECT 1 FROM ({1}) b WHERE b.t = a.t)",
    "SELECT a.k, a.t, a.n FROM ({0}) a WHERE a.t IN (SELECT b.t FROM ({1}) b)",
    "SELECT a.k, a.t, a.n FROM ({0}) a WHERE a.n >= ALL (SELECT b.n FROM ({1}) b)",
    "SELECT a.k, a.t, a.n FROM ({0}) a WHERE a.k NOT IN (SELECT b.k FROM ({1}) b WHERE b.n > 1)",
    "SELECT a.k, b.t, a.n FROM ({0}) a LEFT JOIN ({1}) b ON a.t = b.t",
    "SELECT COALESCE(a.k, b.k) AS k, a.t, b.n FROM ({0}) a FULL OUTER JOIN ({1}) b ON a.n < b.n",
    "SELECT a.k, b.t, a.n FROM ({0}) a CROSS JOIN ({1}) b",
    "SELECT k, a.t, b.n FROM ({0}) a JOIN ({1}) b USING (k)",
    "SELECT k, t, n FROM ({0}) a NATURAL JOIN ({1}) b",
    "SELECT a.k, l.t, a.n FROM ({0}) a, LATERAL (SELECT MAX(b.t) AS t FROM ({1}) b WHERE b.k = a.k) l",
    "SELECT COUNT(*) AS k, MIN(t) AS t, SUM(n) AS n FROM ({0}) a",
    "SELECT COUNT(DISTINCT t) AS k, t, AVG(n) AS n FROM ({0}) a GROUP BY t HAVING COUNT(*) >= 1",
    "SELECT k, MAX(t) AS t, COUNT(*) AS n FROM ({0}) a GROUP BY ROLLUP (k)",
    "SELECT MIN(k) AS k, t, COUNT(DISTINCT n) AS n FROM ({0}) a GROUP BY GROUPING SETS ((t), ())",
    "SELECT DISTINCT 1 AS k, t, n FROM ({0}) a",
    "SELECT MIN(k) AS k, LISTAGG(t, ',') WITHIN GROUP (ORDER BY k, n, t) AS t, "
    "STDDEV(n) AS n FROM ({0}) a",
    "SELECT k, t, DENSE_RANK() OVER (ORDER BY t, n) AS n FROM ({0}) a",
    "SELECT k, FIRST_VALUE(t) OVER (PARTITION BY k ORDER BY n, t) AS t, n FROM ({0}) a",
    "SELECT k, t, n FROM ({0}) a QUALIFY ROW_NUMBER() OVER (PARTITION BY t ORDER BY n, k) = 1",
    "SELECT k, t, n FROM ({0}) a ORDER BY t, n, k LIMIT 2",
    "SELECT k, t, n FROM ({0}) a ORDER BY t DESC NULLS LAST, n, k LIMIT 3 OFFSET 1",
    "SELECT k, CASE WHEN t > 'm' THEN 'high' WHEN n > 3 THEN t ELSE 'low' END AS t, n FROM ({0}) a",
    "SELECT a.k, f.value::VARCHAR AS t, a.n FROM ({0}) a, LATERAL FLATTEN(input => ARRAY_CONSTRUCT(a.t)) f",
    "SELECT k, t, n FROM (SELECT k, t AS u, n::VARCHAR AS v, n FROM ({0}) a) UNPIVOT (t FOR w IN (u, v))",
    'SELECT "1" AS k, \'p\' AS t, "2" AS n FROM (SELECT k, n FROM ({0}) a) PIVOT (MAX(n) FOR k IN (1, 2))',
    "SELECT a.k, v.y AS t, a.n FROM ({0}) a JOIN (VALUES ('Mallory', 'm'), ('***', 's')) v (x, y) "
    "ON v.x = a.t",
    "SELECT a.k, a.t, a.n FROM ({0}) a JOIN people p ON p.email = a.t",
    "SELECT a.k, p.name AS t, a.n FROM ({0}) a, people p WHERE p.score > a.n /* people */",
)
_STATEMENTS = (
    ("{0}", 5),
    ("SELECT * FROM ({0}) z ORDER BY t, k, n", 2),
    ("SELECT COUNT(*), COUNT(t), MD5(MAX(t)) FROM ({0}) z", 1),
    ("CREATE TABLE scratch AS {0}", 1),
    ("CREATE TABLE scratch (a NUMBER, b VARCHAR, c FLOAT) AS SELECT k, t, n FROM ({0}) z", 1),
    ("INSERT INTO out1 SELECT k, t FROM ({0}) z", 2),
    ("INSERT INTO out1 (v, id) SELECT t, k FROM ({0}) z WHERE n > 0", 1),
    ("INSERT OVERWRITE INTO out1 SELECT k, t FROM ({0}) z", 1),
    (
        "UPDATE out1 SET v = z.t FROM (SELECT k, MAX(t) AS t FROM ({0}) y GROUP BY k) z WHERE z.k = out1.id",
        1,
    ),
    ("UPDATE out1 SET v = (SELECT MAX(t) FROM ({0}) z) WHERE id > 0", 1),
    ("DELETE FROM out1 WHERE id IN (SELECT k FROM ({0}) z WHERE z.t < 'm' OR z.n > 2)", 1),
    ("DELETE FROM out1 USING ({0}) z WHERE z.k = out1.id AND z.n > 1", 1),
    (
        "MERGE INTO out1 USING (SELECT k, MAX(t) AS t FROM ({0}) y GROUP BY k) z ON z.k = out1.id "
        "WHEN MATCHED AND z.t > 'm' THEN DELETE WHEN MATCHED THEN UPDATE SET v = z.t "
        "WHEN NOT MATCHED THEN INSERT (id, v) VALUES (z.k, z.t)",
        2,
    ),
)


def _clean(query: str) -> str:
    return query.rstrip("\n ")


def _composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def build(form: str, a: str, b: str) -> str:
        # a comment at the end of a query would swallow the parenthesis after it
        return form.replace("{0}", a + "\n").replace("{1}", b + "\n")

    return st.builds(build, st.sampled_from(_FORMS), inner, inner)


QUERIES = st.recursive(_leaf().map(_clean), _composed, max_leaves=3)
STATEMENTS = st.builds(
    lambda form, query: form.replace("{0}", query + "\n"),
    st.sampled_from([form for form, weight in _STATEMENTS for _ in range(weight)]),
    QUERIES,
)
