"""The pages about the policy: every example in them is read, checked and run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hoop_core.cli.root import app
from hoop_core.masking.masks import MaskName
from hoop_core.model import Detector, Kind
from hoop_core.policy.conditions import FIELDS
from hoop_core.policy.file import KEYS, parse_policy
from hoop_core.policy.reasons import CODES
from hoop_core.sql.catalog import load_catalog

ROOT = Path(__file__).parents[1]
PAGES = ("docs/policy.md", "docs/masking-exceptions.md", "README.md")
PAGE = (ROOT / "docs/policy.md").read_text(encoding="utf-8")
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _fences(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [body for name, body in _FENCE.findall(text) if name == language]


def _policies() -> list[tuple[str, str]]:
    """All policies of the pages, whole ones and parts of one; catalogs are left out."""
    found = [(page, body) for page in PAGES for body in _fences(page, "yaml")]
    return [(page, body) for page, body in found if not body.startswith(("tables:", "views:"))]


def _whole(body: str) -> str:
    """A part of a policy, with what it takes for granted: its version, and the tags that it uses."""
    text = body if "version: 1" in body else f"version: 1\n{body}"
    if "tags:" not in body:
        text += '\ntags: {email: ["PROD.CRM.CUSTOMERS.EMAIL"]}\n'
    return text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader has who copied the page's files."""
    blocks = _fences("docs/policy.md", "yaml")
    policy, catalog = blocks[0], blocks[1]
    (tmp_path / "policy.yaml").write_text(policy, encoding="utf-8")
    (tmp_path / "catalog.yaml").write_text(catalog, encoding="utf-8")
    new = policy.replace("update, delete, create_table_as]", "update, create_table_as]")
    (tmp_path / "new.yaml").write_text(new, encoding="utf-8")
    lines = _fences("docs/policy.md", "json")[0]
    (tmp_path / "statements.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(words: list[str], standard_input: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, words, input=standard_input, env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.mark.parametrize(("page", "body"), _policies())
def test_every_example_is_a_policy(page: str, body: str) -> None:
    parse_policy(_whole(body), page)


@pytest.mark.parametrize("page", ["docs/policy.md", "README.md"])
def test_a_whole_file_passes_a_strict_check(page: str, folder: Path) -> None:
    whole = next(body for body in _fences(page, "yaml") if "version: 1" in body)
    Path("policy.yaml").write_text(whole, encoding="utf-8")
    code, output = _run(["policy", "check", "--strict", "policy.yaml"])
    assert code == 0, output


@pytest.mark.parametrize(
    "body", [b for b in _fences("docs/policy.md", "yaml") if b.startswith("tables:")]
)
def test_every_catalog_is_read(body: str, tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(body, encoding="utf-8")
    load_catalog(file)


def test_the_cases_of_the_whole_file_hold(folder: Path) -> None:
    code, output = _run(["policy", "test", "policy.yaml", "--json"])
    told = json.loads(output)
    assert code == 0, told
    assert told["passed"] >= 6


def test_the_case_that_shows_every_key_holds(folder: Path) -> None:
    policy = yaml.safe_load(Path("policy.yaml").read_text(encoding="utf-8"))
    shown = next(b for b in _fences("docs/policy.md", "yaml") if b.startswith("cases:"))
    Path("policy.yaml").write_text(
        yaml.safe_dump({**policy, **yaml.safe_load(shown)}), encoding="utf-8"
    )
    code, output = _run(["policy", "test", "policy.yaml", "--json"])
    assert code == 0, json.loads(output)


def _commands() -> list[tuple[str, list[str]]]:
    """The `hoop policy` commands of the page that need no evidence bundle, and what is shown of each."""
    found: list[tuple[str, list[str]]] = []
    for body in _fences("docs/policy.md", "console"):
        for line in body.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return [(c, out) for c, out in found if c.startswith("hoop policy") and ".zip" not in c]


def _words_of(text: str) -> str:
    return " ".join(text.replace("│", " ").replace("…", " ").split())


def test_the_page_shows_commands() -> None:
    assert {line.split()[2] for line, _ in _commands()} == {
        *("check", "test", "explain", "schema", "simulate")
    }


@pytest.mark.parametrize(("line", "shown"), _commands())
def test_a_command_of_the_page_does_what_it_shows(
    line: str, shown: list[str], folder: Path
) -> None:
    words = shlex.split(line)[1:]
    given = None
    if "<" in words:
        at = words.index("<")
        given = Path(words[at + 1]).read_text(encoding="utf-8")
        del words[at : at + 2]
    if ">" in words:
        del words[words.index(">") :]
    code, output = _run(words, given)
    assert code == 0, output
    told = _words_of(output)
    assert [s for s in shown if _words_of(s) not in told] == []


def test_the_key_that_the_editor_reads_is_a_comment_of_the_whole_file() -> None:
    assert _fences("docs/policy.md", "yaml")[0].startswith("# yaml-language-server: $schema=")


@pytest.mark.parametrize(
    "words",
    [
        KEYS,
        [m.value for m in MaskName],
        [k.value for k in Kind],
        [d.value for d in Detector],
        CODES,
        FIELDS["statement"],
        FIELDS["identity"],
        FIELDS["run"],
    ],
    ids=["keys", "masks", "kinds", "detectors", "reasons", "statement", "identity", "run"],
)
def test_the_reference_has_every_word(words: list[str]) -> None:
    named = {w for span in re.findall(r"`([^`\n]+)`", PAGE) for w in re.findall(r"[\w]+", span)}
    missing = [w for w in words if w not in named and not w.startswith("VERIFY_")]
    assert missing == []
