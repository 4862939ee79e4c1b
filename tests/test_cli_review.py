"""What a newcomer meets at the command line: usage is exit code 2, and lists can be read in 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from hoop_core.bench.figures import Spread
from hoop_core.cli import bench
from hoop_core.cli.output import detailed
from hoop_core.cli.root import app
from hoop_core.devstack import supervisor
from hoop_core.snowflake.setup import NO_POLICY, SetupPlan, as_text, sections
from hoop_core.snowflake.setup_grants import ReaderRole, Write

NAME = "PROD.CRM.CUSTOMERS_OF_THE_WHOLE_WORLD.THE_ADDRESS_THAT_THEY_GAVE_US"


def hoop(*arguments: object, **env: str) -> Result:
    settings = {"COLUMNS": "80", "HOOP_GATEWAY_URL": "http://127.0.0.1:9", "HOOP_TOKEN": "t"}
    return CliRunner().invoke(app, [str(a) for a in arguments], env=settings | env)


ASK = ("masking", "request", "--reason", "r")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*ASK, "--columns", "A.B.C.D", "--for", "0m"), "above 0"),
        ((*ASK, "--columns", "A.B.C.D", "--for", "soon"), "number"),
        ((*ASK, "--columns", "A.B.C.D, A.B.C", "--for", "1h"), "`A.B.C` is not"),
        ((*ASK, "--columns", "A.B.*.D", "--for", "1h"), "`A.B.*.D` is not"),
        ((*ASK, "--columns", ",", "--for", "1h"), "names no column"),
        (("approvals", "approve", "apr-1"), "--reason"),
        (("approvals", "reject", "apr-1"), "--reason"),
        (("approvals", "reject", "apr-1", "--reason", " "), "say in a sentence"),
        (("masking", "list", "--token-env", "NOPE_NOT_SET"), "NOPE_NOT_SET"),
        (("audit", "verify", "missing.zip"), "no file missing.zip"),
        (("audit", "verify", "missing.db"), "no file missing.db"),
    ],
)
def test_a_mistake_in_the_command_is_a_usage_error(arguments: tuple[str, ...], says: str) -> None:
    result = hoop(*arguments)
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert not Path("missing.db").exists()


def test_an_answer_has_to_have_a_reason_and_the_help_says_so() -> None:
    shown = hoop("approvals", "approve", "--help").stdout
    line = next(x for x in shown.splitlines() if "--reason" in x)
    assert "[required]" in shown
    assert line.lstrip("│ ").startswith("*")


@pytest.mark.parametrize(
    "command",
    [("dev", "up"), ("policy", "explain", "--sql", "SELECT 1"), ("snowflake", "setup-sql")],
)
def test_a_wrong_policy_is_a_usage_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def started(*_: object, **__: object) -> Any:
        raise AssertionError("a wrong policy must be found before anything is started")

    monkeypatch.setattr(supervisor, "launch", started)
    file = tmp_path / "mine.yaml"
    file.write_text("version: 1\nrulez: []\n")
    home = ("--home", str(tmp_path)) if command[0] == "dev" else ()
    result = hoop(*command, "--policy", file, *home)
    assert result.exit_code == 2, result.output
    assert "mine.yaml:2" in result.stderr
    assert "Did you mean `rules`?" in result.stderr


@pytest.mark.parametrize("group", ["approvals", "masking", "sessions", "audit", "snowflake", "dev"])
def test_a_group_of_commands_offers_its_own_commands_only(group: str) -> None:
    assert "completion" not in hoop(group, "--help").stdout


def shown(renderable: Any) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(renderable)
    return console.export_text()


def test_a_list_breaks_no_name_in_two() -> None:
    rows = [
        (
            ("apr-0123456789abcdef", "approved, void: policy changed", "ada"),
            f"see {NAME}, {NAME} for 2h",
        )
    ]
    text = shown(detailed(("id", "status", "who"), rows, empty="Nothing."))
    assert text.count(NAME) == 2
    assert max(map(len, text.splitlines())) <= 80


def test_a_list_paints_nothing_and_says_when_it_is_empty() -> None:
    assert "\x1b" not in shown(detailed(("id",), [(("\x1b[2J",), "\x1b[31m")], empty=""))
    assert (
        shown(detailed(("id",), [], empty="Nothing is waiting.")).strip() == "Nothing is waiting."
    )


def test_one_run_has_percentiles_too() -> None:
    spread = Spread.of([0.002])
    assert (spread.p50, spread.p99) == (2.0, 2.0)


def test_figures_stand_under_each_other() -> None:
    table = bench._table(
        "t", [{"what": "a", "ms": 1.5, "note": "x"}, {"what": "b", "ms": None, "note": "y"}]
    )
    assert [c.justify for c in table.columns] == ["left", "right", "left"]


# ------------------------------------------------------------------ setup-sql

READS = ReaderRole("v", "READS_ONLY", None, (("P", "S", "*"),))
MAKES = ReaderRole("w", "MAKES", None, (), (Write(("P", "S", "*"), ("CREATE TABLE",)),))


def script(*readers: ReaderRole, notes: tuple[str, ...] = ()) -> str:
    plan = SetupPlan(("203.0.113.7/32",), ("203.0.113.7/32",), "MIIB", readers)
    return as_text(sections(plan), notes)


def test_only_a_role_that_owns_tables_is_handed_to_the_administrators() -> None:
    text = script(READS, MAKES)
    assert "GRANT ROLE MAKES TO ROLE SYSADMIN;" in text.replace('"', "")
    assert text.count("TO ROLE SYSADMIN;") == 1


def test_the_script_says_what_it_drops_and_what_it_does_not_take_back() -> None:
    header = script().split("-- 1.")[0]
    assert "nothing is dropped" not in header
    assert "REVOKE" in header
    assert "takes no grant back" in header


def test_a_script_without_a_policy_says_that_nobody_may_read(tmp_path: Path) -> None:
    assert "so no role may read anything" in script(notes=NO_POLICY)


def test_a_wrong_key_is_an_error_on_vaults_side_too(tmp_path: Path) -> None:
    (tmp_path / "k.pem").write_text("nonsense")
    result = hoop("snowflake", "setup-sql", "--vault", "--vault-public-key", tmp_path / "k.pem")
    assert result.exit_code == 2
    assert "k.pem is no RSA public key" in result.stderr
    assert hoop("snowflake", "setup-sql", "--vault").exit_code == 0
