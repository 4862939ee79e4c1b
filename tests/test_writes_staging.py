"""A session's own stages: what counts as own, and what may be read while something is written."""

from __future__ import annotations

import pytest

from hoop_core.errors import StatementRefused
from hoop_core.model import Kind, NameContext, TableName
from hoop_core.session.staging import StagedFile, Staging
from hoop_core.sql.loading import Loading, Stage
from hoop_core.sql.loading_reader import read_loading

HERE = NameContext("D", "S")
STG = TableName("D", "S", "STG")
AT = Stage(STG, ("in",))


def loading(sql: str) -> Loading:
    found = read_loading(sql, HERE)
    assert found is not None
    return found


@pytest.fixture
def staging() -> Staging:
    made = Staging()
    made.at("first", strict=True)
    run(made, "CREATE TEMP STAGE stg")
    return made


def run(staging: Staging, sql: str) -> str:
    """As the gateway does: what is sent, once it has taken effect."""
    admitted = staging.admit(loading(sql))
    staging.begins(admitted)
    staging.took_effect(admitted)
    return admitted.sql


def put(staging: Staging, name: str, content: str = "a" * 64) -> None:
    assert staging.writing(AT, name, content, 3)
    staging.wrote(AT, name, content, 3)
    staging.written(AT)


@pytest.mark.parametrize(
    "sql",
    [
        "PUT file://a @other",
        "PUT file://a @D.T.stg",
        'PUT file://a @"stg"',
        "COPY INTO t FROM @other",
        "COPY INTO t FROM (SELECT $1 FROM @other)",
        "DROP STAGE other",
        "DROP STAGE IF EXISTS other",
        "DROP FILE FORMAT IF EXISTS other",
        "SELECT * FROM TABLE(INFER_SCHEMA(LOCATION => '@stg', FILE_FORMAT => 'other'))",
        "SELECT * FROM TABLE(INFER_SCHEMA(LOCATION => '@other', FILE_FORMAT => 'stg'))",
        "ALTER TABLE others RENAME TO mine",
    ],
)
def test_what_the_session_did_not_make_is_refused(staging: Staging, sql: str) -> None:
    with pytest.raises(StatementRefused):
        staging.admit(loading(sql))


def test_if_not_exists_and_or_replace_never_reach_what_others_made(staging: Staging) -> None:
    assert (
        run(staging, "CREATE TEMP STAGE IF NOT EXISTS new")
        == 'CREATE TEMPORARY STAGE "D"."S"."NEW"'
    )
    assert (
        run(staging, "CREATE OR REPLACE TEMP STAGE new2") == 'CREATE TEMPORARY STAGE "D"."S"."NEW2"'
    )
    again = run(staging, "CREATE OR REPLACE TEMP STAGE new2")
    assert again == 'CREATE OR REPLACE TEMPORARY STAGE "D"."S"."NEW2"'
    kept = run(staging, "CREATE TEMP STAGE IF NOT EXISTS new")
    assert kept == 'CREATE TEMPORARY STAGE IF NOT EXISTS "D"."S"."NEW"'
    formatted = run(staging, "CREATE OR REPLACE TEMP FILE FORMAT f TYPE = CSV")
    assert formatted == 'CREATE TEMPORARY FILE FORMAT "D"."S"."F" TYPE = CSV'


def test_a_stage_that_is_being_dropped_is_nobodys(staging: Staging) -> None:
    staging.begins(staging.admit(loading("DROP STAGE stg")))
    with pytest.raises(StatementRefused):
        staging.admit(loading("PUT file://a @stg"))


def test_a_stage_whose_making_failed_is_not_own(staging: Staging) -> None:
    staging.begins(staging.admit(loading("CREATE TEMP STAGE failed")))
    with pytest.raises(StatementRefused):
        staging.admit(loading("PUT file://a @failed"))


def test_replacing_a_stage_empties_it_and_if_not_exists_does_not(staging: Staging) -> None:
    put(staging, "a")
    run(staging, "CREATE TEMP STAGE IF NOT EXISTS stg")
    assert len(staging.contents(AT)) == 1
    run(staging, "CREATE OR REPLACE TEMP STAGE stg")
    assert staging.contents(AT) == ()


def test_a_path_is_a_prefix_of_all_that_a_copy_may_read(staging: Staging) -> None:
    for name in ("a", "ab", "b"):
        put(staging, name)
    found = staging.contents(Stage(STG, ("in", "a")))
    assert [f.path for f in found] == ["in/a", "in/ab"]
    assert len(staging.contents(Stage(STG))) == 3


def test_an_upload_without_a_known_end_blocks_what_would_read_it(staging: Staging) -> None:
    assert staging.writing(AT, "a", "x", 1)
    with pytest.raises(StatementRefused, match="did not come to a known end"):
        staging.contents(AT)
    assert staging.contents(Stage(STG, ("other",))) == ()
    staging.wrote(AT, "a", "x", 1)
    assert staging.contents(AT) == (StagedFile("in/a", "x", 1),)


def test_nothing_is_written_while_a_statement_reads(staging: Staging) -> None:
    put(staging, "a")
    decided = staging.contents(AT)
    with staging.reading(AT, decided):
        assert not staging.writing(AT, "b", "x", 1)
        with staging.reading(AT, decided):
            pass
        assert not staging.writing(AT, "b", "x", 1)
    assert staging.writing(AT, "b", "x", 1)


def test_what_changed_since_the_decision_is_not_read(staging: Staging) -> None:
    put(staging, "a")
    decided = staging.contents(AT)
    put(staging, "a", "b" * 64)
    with pytest.raises(StatementRefused, match="have changed"), staging.reading(AT, decided):
        pass


def test_another_session_at_snowflake_has_none_of_it(staging: Staging) -> None:
    put(staging, "a")
    with pytest.raises(StatementRefused, match="has ended"):
        staging.at("second", strict=True)
    assert not staging.is_at("first")
    staging.at("second", strict=True)
    with pytest.raises(StatementRefused):
        staging.admit(loading("PUT file://a @stg"))


def test_other_statements_go_on_when_the_stages_are_gone(staging: Staging) -> None:
    staging.at("second", strict=False)
    assert list(staging.stages) == [None]


def test_the_schema_stays_while_values_are_bound_through_a_stage() -> None:
    staging = Staging()
    with staging.placed(bound=True, moves=False):
        with pytest.raises(StatementRefused), staging.placed(bound=False, moves=True):
            pass
        with staging.placed(bound=True, moves=False):
            pass
    moving = staging.placed(bound=False, moves=True)
    binding = staging.placed(bound=True, moves=False)
    with moving, pytest.raises(StatementRefused), binding:
        pass


@pytest.mark.parametrize(
    ("status", "made"),
    [("Table T successfully created.", True), ("T already exists, statement succeeded.", False)],
)
def test_only_a_table_that_was_really_made_can_be_renamed(
    staging: Staging, status: str, made: bool
) -> None:
    table = TableName("D", "S", "T")
    answer = {"data": {"rowset": [[status]]}}
    staging.made_table(Kind.CREATE_TABLE, (table,), answer)
    if not made:
        with pytest.raises(StatementRefused, match="was not made by this session"):
            staging.admit(loading("ALTER TABLE t RENAME TO u"))
        return
    run(staging, "ALTER TABLE t RENAME TO u")
    with pytest.raises(StatementRefused):
        staging.admit(loading("ALTER TABLE t RENAME TO v"))
    run(staging, "ALTER TABLE u RENAME TO w")
    staging.made_table(Kind.DROP_TABLE, (TableName("D", "S", "W"),), answer)
    with pytest.raises(StatementRefused):
        staging.admit(loading("ALTER TABLE w RENAME TO x"))


@pytest.mark.parametrize("sql", ["CREATE OR REPLACE TEMP STAGE stg", "DROP STAGE stg"])
def test_a_stage_with_a_file_on_its_way_is_neither_replaced_nor_dropped(
    staging: Staging, sql: str
) -> None:
    """The file would come to lie in the new stage, of which the record says that it is empty."""
    assert staging.writing(AT, "late.csv", "a" * 64, 3)
    with pytest.raises(StatementRefused, match="being read or written"):
        run(staging, sql)
    staging.wrote(AT, "late.csv", "a" * 64, 3)
    staging.written(AT)
    assert run(staging, sql).startswith(sql[:4])


@pytest.mark.parametrize("sql", ["CREATE OR REPLACE TEMP STAGE stg", "DROP STAGE stg"])
def test_a_stage_that_is_being_read_is_neither_replaced_nor_dropped(
    staging: Staging, sql: str
) -> None:
    with (
        staging.reading(AT, staging.contents(AT)),
        pytest.raises(StatementRefused, match="being read or written"),
    ):
        run(staging, sql)


def test_a_load_from_a_stage_that_was_dropped_since_the_decision_does_not_begin(
    staging: Staging,
) -> None:
    """Under the name there may be a permanent stage of others; empty was empty on both sides."""
    copying = staging.admit(loading("COPY INTO t FROM @stg"))
    decided = staging.contents(AT)
    run(staging, "DROP STAGE stg")
    with pytest.raises(StatementRefused, match="was not created"), staging.reading(AT, decided):
        pass
    with pytest.raises(StatementRefused, match="was not created"):
        staging.begins(copying)


def test_the_second_of_two_drops_that_were_decided_together_does_not_begin(
    staging: Staging,
) -> None:
    first, second = (staging.admit(loading("DROP STAGE IF EXISTS stg")) for _ in range(2))
    staging.begins(first)
    with pytest.raises(StatementRefused):
        staging.begins(second)


@pytest.mark.parametrize("sql", ["CREATE OR REPLACE TEMP STAGE stg", "CREATE TEMP STAGE IF NOT EXISTS stg"])  # fmt: skip
def test_what_was_decided_on_an_own_stage_does_not_begin_without_it(
    staging: Staging, sql: str
) -> None:
    decided = staging.admit(loading(sql))
    run(staging, "DROP STAGE stg")
    with pytest.raises(StatementRefused, match="dropped it meanwhile"):
        staging.begins(decided)


def test_if_not_exists_that_finds_the_stage_of_others_makes_it_nobodys_own(
    staging: Staging,
) -> None:
    """It was own when the statement began, and was dropped before Snowflake looked."""
    found = staging.admit(loading("CREATE TEMP STAGE IF NOT EXISTS stg"))
    staging.begins(found)
    run(staging, "DROP STAGE stg")
    staging.took_effect(found)
    with pytest.raises(StatementRefused, match="was not created"):
        staging.check_own(AT)
