"""Views in a statement: what is read beneath them, what is denied, and which text runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoop_core.judge import judge_text, judging
from hoop_core.model import Identity, NameContext, Outcome, RunContext, TableName, Verdict
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.names import parse_table
from hoop_core.views import DEEPEST

PLAIN = """
version: 1
rules:
  - {name: read, groups: [agents], reads: ["DB.PUBLIC.*", "DB.RAW.*"], then: allow}
  - name: write
    groups: [agents]
    kinds: [insert, update, delete, merge, truncate, create_table, create_table_as, drop_table, alter_table]
    writes: ["DB.PUBLIC.*"]
    then: allow
"""
MASKED = f"""{PLAIN}
masks:
  - {{columns: ["DB.RAW.PEOPLE.EMAIL"], mask: constant}}
"""
PEOPLE = {"ID": "NUMBER(38,0)", "NAME": "VARCHAR", "EMAIL": "VARCHAR"}
MAIL = {"ID": "NUMBER(38,0)", "MAIL": "VARCHAR"}


def table(name: str) -> TableName:
    found = parse_table(name)
    assert found is not None
    return found


def catalog(**views: tuple[Mapping[str, str], str | None]) -> Catalog:
    """Views in DB.PUBLIC by name: their columns, and their text."""
    objects = {
        table("DB.RAW.PEOPLE"): CatalogObject(PEOPLE),
        table("DB.RAW.OTHER"): CatalogObject({"ID": "NUMBER"}),
        table("DB.PUBLIC.OUT1"): CatalogObject({"ID": "NUMBER", "V": "VARCHAR"}),
    }
    for name, (columns, text) in views.items():
        objects[TableName("DB", "PUBLIC", name)] = CatalogObject(columns, text)
    return Catalog.of(objects)


def ask(
    sql: str,
    known: Catalog,
    policy: str = MASKED,
    groups: tuple[str, ...] = ("agents",),
    names: NameContext = NameContext("DB", "PUBLIC"),  # noqa: B008  frozen
) -> Verdict:
    return judge_text(
        sql,
        names,
        identity=Identity("i", "s", "agent", groups, "oidc", "d"),
        policy=parse_policy(policy, "p.yaml"),
        catalog=known,
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
    )


def reads(verdict: Verdict) -> list[str]:
    assert verdict.statement is not None
    return [str(t) for t in verdict.statement.reads]


def denied(verdict: Verdict) -> list[tuple[str, str]]:
    assert verdict.decision.outcome is Outcome.DENY and verdict.rewritten is None
    return [(r.code, r.message) for r in verdict.decision.reasons]


def allowed(verdict: Verdict) -> str:
    assert verdict.decision.outcome is Outcome.ALLOW, verdict.decision.reasons
    assert verdict.rewritten is not None
    return verdict.rewritten


V = (MAIL, "CREATE OR REPLACE VIEW V (ID, MAIL) AS SELECT id, email FROM raw.people")

# ------------------------------------------------------------------ which text runs


def test_the_query_of_a_view_takes_its_place_without_a_mask_too() -> None:
    """A view that is made anew while its text is believed must not run in the place of that text."""
    verdict = ask("SELECT mail FROM v", catalog(V=V), PLAIN)
    assert allowed(verdict) == (
        'SELECT mail FROM (WITH _view1 ("ID", "MAIL") AS (SELECT id, email FROM "DB"."RAW"."PEOPLE") '
        'SELECT "ID", "MAIL" FROM _view1) AS "V"'
    )
    assert reads(verdict) == ["DB.PUBLIC.V", "DB.RAW.PEOPLE"]


def test_with_a_mask_beneath_the_query_of_the_view_takes_its_place() -> None:
    verdict = ask("SELECT mail FROM v WHERE id = 1", catalog(V=V))
    text = allowed(verdict)
    assert text.startswith(
        'SELECT mail FROM (WITH _view1 ("ID", "MAIL") AS (SELECT id, email FROM ('
    )
    assert text.endswith('SELECT "ID", "MAIL" FROM _view1) AS "V" WHERE id = 1')
    assert '"DB"."PUBLIC"."V"' not in text
    assert text.count('"DB"."RAW"."PEOPLE" AS _g') == 1
    assert [(str(m.table), m.column) for m in verdict.decision.masked] == [
        ("DB.RAW.PEOPLE", "EMAIL")
    ]


def test_what_the_caller_sent_stays_the_statement() -> None:
    sql = "SELECT mail FROM v -- mine"
    verdict = ask(sql, catalog(V=V))
    other = ask(sql, catalog(), PLAIN)
    assert verdict.statement is not None and other.statement is not None
    assert verdict.statement.sql == sql
    assert verdict.statement.fingerprint == other.statement.fingerprint


def test_a_mask_on_the_views_own_column_binds_without_one_beneath() -> None:
    policy = f'{PLAIN}masks:\n  - {{columns: ["DB.PUBLIC.V.MAIL"], mask: constant}}\n'
    text = allowed(ask("SELECT mail FROM v", catalog(V=V), policy))
    assert 'IFF(_g."MAIL" IS NULL' in text and 'FROM _view1) AS _g) AS "V"' in text


def test_masks_on_the_view_and_beneath_it_both_bind() -> None:
    policy = MASKED + '  - {columns: ["DB.PUBLIC.V.MAIL"], mask: email_domain}\n'
    text = allowed(ask("SELECT mail FROM v", catalog(V=V), policy))
    assert 'SPLIT_PART(_g."MAIL"' in text and 'IFF(_g."EMAIL" IS NULL' in text
    assert 'FROM _view1) AS _g) AS "V"' in text


def test_a_mask_on_an_inner_view_binds_through_the_outer_one() -> None:
    policy = f'{PLAIN}masks:\n  - {{columns: ["DB.PUBLIC.V.MAIL"], mask: constant}}\n'
    known = catalog(V=V, W=({"M": "VARCHAR"}, "SELECT mail FROM v"))
    text = allowed(ask("SELECT m FROM w", known, policy))
    assert '"DB"."PUBLIC"."W"' not in text and '"DB"."PUBLIC"."V"' not in text
    assert 'IFF(_g."MAIL" IS NULL' in text and "FROM _view1) AS _g" in text


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT * FROM v JOIN "V" AS x ON v.id = x.id',
        'SELECT V.mail FROM "DB".public."V"',
        "SELECT v.mail, public.v.id, DB.PUBLIC.v.id FROM v",
        "SELECT a.x FROM v AS a(y, x)",
        "SELECT * FROM v PIVOT(MAX(mail) FOR id IN (1, 2))",
        "SELECT (SELECT MAX(mail) FROM v) AS m",
        "SELECT 1 FROM raw.other o WHERE EXISTS (SELECT 1 FROM v WHERE v.id = o.id)",
        "SELECT * FROM v, LATERAL (SELECT 1 AS one) l",
        "SELECT mail FROM v UNION ALL SELECT name FROM raw.people",
        "INSERT INTO out1 SELECT id, mail FROM v",
        "CREATE TABLE made AS SELECT * FROM v",
        "MERGE INTO out1 USING v ON out1.id = v.id WHEN MATCHED THEN UPDATE SET v = v.mail",
        "DELETE FROM out1 USING v WHERE out1.id = v.id",
        "UPDATE out1 SET v = v.mail FROM v WHERE out1.id = v.id",
        "SELECT * FROM (SELECT * FROM v) SAMPLE (10)",
        "SELECT * FROM v SAMPLE (10)",
        "SELECT x.mail FROM v AS x TABLESAMPLE BERNOULLI (10) JOIN v ON v.id = x.id",
        "SELECT $2 FROM v",
    ],
)
def test_wherever_a_view_is_read_its_base_table_is_masked(sql: str) -> None:
    text = allowed(ask(sql, catalog(V=V)))
    assert '"DB"."PUBLIC"."V"' not in text
    assert text.count('"DB"."RAW"."PEOPLE"') == text.count('"DB"."RAW"."PEOPLE" AS _g')


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM v AT(OFFSET => -60)",
        "SELECT * FROM v BEFORE(OFFSET => -60) AS x",
    ],
)
def test_the_past_of_a_view_is_denied(sql: str) -> None:
    for policy in (PLAIN, MASKED):
        assert denied(ask(sql, catalog(V=V), policy))[0][0] == "VIEW_NOT_UNDERSTOOD"


def test_the_callers_ctes_reach_nothing_inside_a_view() -> None:
    known = catalog(V=(MAIL, "SELECT id, email FROM people"))
    known = known.but({table("DB.PUBLIC.PEOPLE"): CatalogObject(PEOPLE)})
    sql = "WITH people AS (SELECT 1 AS id, 'x' AS email) SELECT v.mail, people.email FROM v, people"
    policy = MASKED.replace("DB.RAW.PEOPLE.EMAIL", "DB.PUBLIC.PEOPLE.NAME")
    verdict = ask(sql, known, policy, names=NameContext("DB", "RAW"))
    assert denied(verdict)[0][0] in {"UNKNOWN_OBJECT", "CTE_SHADOWS_PROTECTED"}
    text = allowed(
        ask(sql.replace("FROM v", "FROM public.v").replace("people", "mine"), known, policy)
    )
    assert 'FROM "DB"."PUBLIC"."PEOPLE" AS _g' in text


def test_a_views_ctes_and_unqualified_names_stay_the_views_own() -> None:
    known = catalog(
        V=(MAIL, "WITH people AS (SELECT * FROM raw.people) SELECT id, email FROM people")
    )
    text = allowed(ask("SELECT mail FROM db.public.v", known, names=NameContext("ELSE", "WHERE")))
    assert text.count('"DB"."RAW"."PEOPLE" AS _g') == 1
    qualified = catalog(
        V=(MAIL, "SELECT raw.people.id, raw.people.email FROM raw.people WHERE raw.people.id > 0"),
        W=({"M": "VARCHAR"}, "SELECT public.v.mail FROM v"),
    )
    text = allowed(ask("SELECT m FROM db.public.w", qualified, names=NameContext("ELSE", "WHERE")))
    assert "WHERE people.id > 0" in text and "SELECT v.mail FROM (WITH" in text


def test_a_column_of_an_unmasked_table_in_a_view_is_qualified_in_the_views_own_database() -> None:
    known = catalog(
        V=(
            {"ID": "NUMBER"},
            "SELECT raw.other.id FROM raw.other JOIN raw.people p ON p.id = raw.other.id",
        )
    )
    text = allowed(ask("SELECT id FROM db.public.v", known, names=NameContext("ELSE", "WHERE")))
    assert 'SELECT "DB"."RAW".other.id FROM "DB"."RAW"."OTHER"' in text


def test_the_name_of_the_inner_query_is_one_that_nobody_uses() -> None:
    known = catalog(V=V)
    text = allowed(ask("WITH _view1 AS (SELECT 1 AS a) SELECT mail FROM v, _view1", known))
    assert '(WITH __view1 ("ID", "MAIL") AS' in text


def test_columns_are_those_that_the_view_lists_whatever_the_query_calls_them() -> None:
    known = catalog(V=({"we ird": "NUMBER", 'q"q': "VARCHAR"}, "SELECT id, email FROM raw.people"))
    text = allowed(ask('SELECT "q""q" FROM v', known))
    assert '_view1 ("we ird", "q""q") AS' in text


def test_lineage_goes_through_the_view() -> None:
    known = catalog(V=V, W=({"M": "VARCHAR"}, "SELECT upper(mail) FROM v"))
    (column,) = ask("SELECT m FROM w", known).lineage
    assert (table("DB.RAW.PEOPLE"), "EMAIL") in column.sources
    assert (table("DB.PUBLIC.W"), "M") in column.sources and not column.unknown


# ------------------------------------------------------------------ who may read it


def test_the_view_and_every_table_beneath_must_be_granted() -> None:
    only_view = PLAIN.replace(', "DB.RAW.*"', "")
    assert denied(ask("SELECT * FROM v", catalog(V=V), only_view)) == [
        ("NOT_GRANTED", "denied: reads DB.RAW.PEOPLE, which no rule grants to groups agents")
    ]
    only_base = PLAIN.replace('"DB.PUBLIC.*", ', "")
    assert denied(ask("SELECT * FROM v", catalog(V=V), only_base))[0][0] == "NOT_GRANTED"


def test_deny_and_approval_rules_see_what_is_beneath_a_view() -> None:
    deny = f'{PLAIN}  - {{name: never, reads: ["DB.RAW.PEOPLE"], then: deny}}\n'
    assert denied(ask("SELECT * FROM v", catalog(V=V), deny))[0][0] == "DENIED_BY_RULE"
    hold = (
        f'{PLAIN}  - name: hold\n    reads: ["DB.RAW.PEOPLE"]\n    then: require_approval\n'
        "    approval: {approvers: [owners], quorum: 1}\n"
    )
    verdict = ask("SELECT * FROM v", catalog(V=V), hold)
    assert verdict.decision.outcome is Outcome.REQUIRE_APPROVAL and verdict.rewritten


def test_an_ungranted_caller_does_not_learn_that_it_is_a_view() -> None:
    known = catalog().but({table("DB.PUBLIC.V"): CatalogObject({}, refused="is a secure view")})
    assert denied(ask("SELECT * FROM v", known, groups=("others",)))[0][0] == "NOT_GRANTED"
    assert denied(ask("SELECT * FROM v", known)) == [
        ("VIEW_NOT_UNDERSTOOD", "denied: DB.PUBLIC.V is a secure view")
    ]


def test_functions_and_facts_of_a_view_count_for_the_policy() -> None:
    policy = f"{PLAIN}  - {{name: never, when: 'statement.cross_database', then: deny}}\n"
    known = catalog(V=({"ID": "NUMBER"}, "SELECT id FROM elsewhere.s.t"))
    known = known.but({table("ELSEWHERE.S.T"): CatalogObject({"ID": "NUMBER"})})
    assert denied(ask("SELECT * FROM v", known, policy))[0][0] == "DENIED_BY_RULE"


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO v VALUES (1, 'x')",
        "UPDATE v SET mail = 'x' WHERE id = 1",
        "DELETE FROM v WHERE id = 1",
        "TRUNCATE TABLE v",
        "DROP TABLE v",
        "DROP TABLE IF EXISTS v",
        "ALTER TABLE v ADD COLUMN a NUMBER",
        "CREATE OR REPLACE TABLE v AS SELECT 1 AS a",
        "MERGE INTO v USING out1 ON v.id = out1.id WHEN MATCHED THEN DELETE",
    ],
)
def test_a_view_is_never_written(sql: str) -> None:
    assert (
        "VIEW_NOT_UNDERSTOOD",
        "denied: DB.PUBLIC.V is a view, and views cannot be written to",
    ) in denied(ask(sql, catalog(V=V), PLAIN))


def test_describing_a_view_needs_the_grant_for_it_alone() -> None:
    only_view = PLAIN.replace(', "DB.RAW.*"', "")
    assert (
        allowed(ask("DESCRIBE VIEW v", catalog(V=V), only_view))
        == 'DESCRIBE VIEW "DB"."PUBLIC"."V"'
    )


# ------------------------------------------------------------------ texts that are not understood

ID = {"ID": "NUMBER"}


@pytest.mark.parametrize(
    ("columns", "text", "why"),
    [
        (ID, "CREATE SECURE VIEW v AS SELECT id FROM raw.people", "secure"),
        (ID, "CREATE MATERIALIZED VIEW v AS SELECT id FROM raw.people", "not an ordinary view"),
        (ID, "CREATE TABLE v AS SELECT id FROM raw.people", "not an ordinary view"),
        (ID, "CREATE TEMPORARY VIEW v AS SELECT id FROM raw.people", "not an ordinary view"),
        (ID, "CREATE VIEW w AS SELECT id FROM raw.people", "defines another view"),
        (ID, 'CREATE VIEW "v" AS SELECT id FROM raw.people', "defines another view"),
        (ID, "CREATE VIEW other.v AS SELECT id FROM raw.people", "defines another view"),
        (
            ID,
            "CREATE VIEW v (id WITH MASKING POLICY p) AS SELECT id FROM raw.people",
            "policies or tags",
        ),
        (
            ID,
            "CREATE VIEW v (id) WITH ROW ACCESS POLICY p ON (id) AS SELECT id FROM raw.people",
            "policies or tags",
        ),
        (
            ID,
            "CREATE VIEW v (id) WITH TAG (a = 'b') AS SELECT id FROM raw.people",
            "policies or tags",
        ),
        (
            ID,
            "CREATE VIEW v (id) SOMETHING = NEW AS SELECT id FROM raw.people",
            "ordinary CREATE VIEW",
        ),
        (ID, "CREATE VIEW v", "ordinary CREATE VIEW"),
        (ID, "CREATE VIEW v AS", "no query"),
        (ID, "", "no query"),
        (ID, "CREATE VIEW v (other) AS SELECT id FROM raw.people", "other columns"),
        (ID, "SELECT id, name FROM raw.people", "shows 1 columns, but its query gives 2"),
        (ID, "SELECT * FROM raw.people", "shows 1 columns, but its query gives 3"),
        (ID, "SELECT * FROM raw.unknown", "an unknown number"),
        (ID, "SELECT id FROM raw.people; SELECT email FROM raw.people", "does not serve"),
        (ID, "SELECT id FROM raw.people WHERE id = ?", "bind variable"),
        (
            ID,
            "SELECT id FROM raw.people WHERE name = CURRENT_SCHEMA()",
            "current database or schema",
        ),
        (ID, "SELECT id FROM TABLE(RESULT_SCAN(LAST_QUERY_ID()))", "does not serve"),
        (ID, "SELECT id FROM IDENTIFIER('raw.people')", "does not serve"),
        (ID, "SELECT secret_udf(id) FROM raw.people", "does not serve"),
        (ID, "SELECT id FROM @stage", "does not serve"),
        (ID, "SELECT table_name FROM information_schema.tables", "INFORMATION_SCHEMA"),
        (ID, "SHOW TABLES", "not a query"),
        (ID, "DELETE FROM raw.people WHERE id = 1", "not a query"),
        (
            ID,
            "SELECT id FROM raw.people -- \r UNION SELECT email FROM raw.people",
            "more than one way",
        ),
        (ID, "SELECT id FROM raw.people /* a /* b */ */", "more than one way"),
        (ID, "SELECT id FROM v", "refers to itself"),
        (ID, "SELECT 'unclosed FROM raw.people", "split into words"),
        (ID, "SELECT id FROM raw.people" + " " * 200_000, "too long"),
    ],
)
def test_a_text_that_is_not_understood_denies_the_view(
    columns: Mapping[str, str], text: str, why: str
) -> None:
    for policy in (PLAIN, MASKED):
        reasons = denied(ask("SELECT * FROM v", catalog(V=(columns, text)), policy))
        assert reasons[0][0] in {"VIEW_NOT_UNDERSTOOD", "NOT_GRANTED"}
        assert any(c == "VIEW_NOT_UNDERSTOOD" and why in m for c, m in reasons), reasons


@pytest.mark.parametrize(
    "text",
    [
        "create or replace view V(\n\tID\n) as select id from raw.people;",
        'CREATE VIEW IF NOT EXISTS "DB"."PUBLIC"."V" ("ID" COMMENT \'it\'\'s\') COMMENT = \'x\' '
        "COPY GRANTS CHANGE_TRACKING = TRUE AS SELECT id FROM raw.people",
        "CREATE VIEW public.v AS (SELECT id FROM raw.people ORDER BY 1)",
        "-- who\nCREATE VIEW v /* what */ AS // why\r\nSELECT id FROM raw.people -- end",
        "CREATE RECURSIVE VIEW v (id) AS SELECT id FROM raw.people",
        "CREATE VIEW v AS WITH RECURSIVE r AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM r WHERE id < 3) "
        "SELECT p.id FROM r JOIN raw.people p ON p.id = r.id",
    ],
)
def test_texts_as_snowflake_shows_them_are_understood(text: str) -> None:
    assert reads(ask("SELECT * FROM v", catalog(V=(ID, text)))) == ["DB.PUBLIC.V", "DB.RAW.PEOPLE"]
    assert '"DB"."RAW"."PEOPLE" AS _g' in allowed(ask("SELECT * FROM v", catalog(V=(ID, text))))


def test_a_star_in_a_view_is_counted_against_what_the_view_shows() -> None:
    fits = catalog(V=(PEOPLE, "SELECT * FROM raw.people"))
    assert allowed(ask("SELECT * FROM v", fits))
    grown = fits.but({table("DB.RAW.PEOPLE"): CatalogObject({**PEOPLE, "SSN": "VARCHAR"})})
    assert "its query gives 4" in denied(ask("SELECT * FROM v", grown))[0][1]


def test_views_that_refer_to_each_other_are_denied() -> None:
    known = catalog(V=(ID, "SELECT id FROM w"), W=(ID, "SELECT id FROM v"))
    assert any(c == "VIEW_NOT_UNDERSTOOD" for c, _ in denied(ask("SELECT * FROM v", known)))


def test_views_upon_views_are_followed_up_to_a_cap() -> None:
    def tower(height: int) -> Catalog:
        views = {f"V{i}": (ID, f"SELECT id FROM v{i - 1}") for i in range(1, height)}
        return catalog(V0=(ID, "SELECT id FROM raw.people"), **views)

    top = DEEPEST - 1
    text = allowed(ask(f"SELECT id FROM v{top}", tower(DEEPEST)))
    assert text.count('"DB"."RAW"."PEOPLE" AS _g') == 1
    over = denied(ask(f"SELECT id FROM v{DEEPEST}", tower(DEEPEST + 1)))
    assert any(c == "VIEW_NOT_UNDERSTOOD" and "one upon the other" in m for c, m in over)


def test_views_that_multiply_are_stopped_by_the_bounds_of_a_statement() -> None:
    wide = ", ".join(f"v0 AS a{i}" for i in range(20))
    views = {
        f"V{j}": (ID, f"SELECT a1.id FROM {wide.replace('v0', f'v{j - 1}')}") for j in range(1, 5)
    }
    known = catalog(V0=(ID, "SELECT id FROM raw.people"), **views)
    codes = [c for c, _ in denied(ask("SELECT id FROM v4", known))]
    assert codes[0] in {"TOO_LONG", "TOO_MANY_READS", "TOO_MANY_TOKENS"}


def test_a_table_beneath_that_is_unknown_denies() -> None:
    known = catalog(V=(ID, "SELECT id FROM raw.dynamic_table"))
    assert denied(ask("SELECT * FROM v", known))[0][0] == "UNKNOWN_OBJECT"


def test_a_secure_view_beneath_a_view_denies() -> None:
    known = catalog(W=(ID, "SELECT id FROM v")).but(
        {table("DB.PUBLIC.V"): CatalogObject({}, refused="is a secure view")}
    )
    assert denied(ask("SELECT * FROM w", known)) == [
        ("VIEW_NOT_UNDERSTOOD", "denied: DB.PUBLIC.V is a secure view")
    ]


# ------------------------------------------------------------------ the conversation


def test_what_is_beneath_is_asked_for_step_by_step_and_once() -> None:
    known = catalog(
        V=V, W=({"M": "VARCHAR"}, "SELECT v.mail FROM v JOIN raw.people p ON p.id = v.id")
    )
    conversation = judging(
        "SELECT * FROM w",
        NameContext("DB", "PUBLIC"),
        identity=Identity("i", "s", "agent", ("agents",), "oidc", "d"),
        policy=parse_policy(MASKED, "p.yaml"),
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
    )
    asked = [[str(t) for t in next(conversation)]]
    with pytest.raises(StopIteration) as done:
        while True:
            only = {t: o for t in map(table, asked[-1]) if (o := known.get(t)) is not None}
            asked.append([str(t) for t in conversation.send(Catalog.of(only))])
    assert asked == [["DB.PUBLIC.W"], ["DB.PUBLIC.V", "DB.RAW.PEOPLE"]]
    assert done.value.value.decision.outcome is Outcome.ALLOW


def test_the_digest_of_the_reads_follows_the_text_of_a_view() -> None:
    one, other = catalog(V=V), catalog(V=(MAIL, str(V[1]) + " WHERE id > 0"))
    tables = [table(t) for t in reads(ask("SELECT * FROM v", one))]
    assert one.digest(tables) != other.digest(tables)


# ------------------------------------------------------------------ composed

QUERY = st.recursive(
    st.sampled_from(
        ["SELECT id, email AS m FROM raw.people", "SELECT id, name AS m FROM raw.people"]
    ),
    lambda inner: st.one_of(
        inner.map(lambda q: f"SELECT id, m FROM ({q}) AS s WHERE id > 0"),
        inner.map(lambda q: f"WITH c AS ({q}) SELECT id, m FROM c"),
        inner.map(lambda q: f"WITH people AS ({q}) SELECT people.id, people.m FROM people"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]}) UNION ALL ({p[1]})"),
        st.tuples(inner, inner).map(
            lambda p: f"SELECT a.id, b.m FROM ({p[0]}) AS a JOIN ({p[1]}) AS b ON a.id = b.id"
        ),
        inner.map(lambda q: f"SELECT MAX(id) AS id, MIN(m) AS m FROM ({q}) AS g"),
    ),
    max_leaves=4,
)


@settings(max_examples=12, deadline=None)
@given(QUERY, QUERY)
def test_no_composition_of_views_reads_a_protected_table_outside_a_wrapper(
    inner: str, outer: str
) -> None:
    shown = {"ID": "NUMBER", "M": "VARCHAR"}
    known = catalog(
        V=(shown, inner),
        W=(shown, outer.replace("raw.people", "v").replace("email", "m").replace("name", "m")),
    )
    verdict = ask("SELECT id, m FROM w UNION SELECT id, m FROM v", known)
    if verdict.decision.outcome is Outcome.DENY:
        # a bound of the statement, never a failure of our own
        assert verdict.decision.reasons[0].code in {"TOO_DEEP", "TOO_MANY_READS", "TOO_LONG"}
        return
    text = allowed(verdict)
    assert text.count('"PEOPLE"') >= 2
    assert text.count('"DB"."RAW"."PEOPLE"') == text.count('"DB"."RAW"."PEOPLE" AS _g')
