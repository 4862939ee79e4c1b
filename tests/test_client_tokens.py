"""Where a job's token comes from, and that it is shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from hoop_core.client import EnvironmentToken, FileToken, GivenToken, token_source
from hoop_core.errors import ConfigError, IdentityError
from hoop_core.identity import tokens as module

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def bare_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HOOP_TOKEN", raising=False)
    monkeypatch.delenv("HOOP_TOKEN_FILE", raising=False)
    monkeypatch.setattr(module, "DEFAULT_TOKEN_FILE", tmp_path / "none-here")


def test_the_representation_of_a_given_token_does_not_show_it() -> None:
    source = GivenToken(TOKEN)
    assert source.token() == TOKEN
    assert TOKEN not in f"{source!r} {source}"


def test_a_token_file_is_read_again_at_each_use(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    source = FileToken(file)
    assert source.token() == TOKEN
    file.write_text("a.b.c")
    assert source.token() == "a.b.c"


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="nowhere"):
        FileToken(tmp_path / "nowhere").token()


@pytest.mark.parametrize("content", ["", " \n", '{"token": "a b"}', "a.b.c\na.b.c", "a" * 70_000])
def test_a_file_that_holds_no_bare_token_is_refused_without_showing_it(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(IdentityError) as caught:
        FileToken(file).token()
    assert '{"token"' not in str(caught.value)
    assert "a.b.c" not in str(caught.value)


def test_an_unset_variable_is_named() -> None:
    with pytest.raises(IdentityError, match="HOOP_TOKEN_NOT_THERE"):
        EnvironmentToken("HOOP_TOKEN_NOT_THERE").token()


def test_two_named_sources_are_an_error() -> None:
    with pytest.raises(ConfigError, match="token_env and token_file"):
        token_source(env="A", file="b")


def test_surroundings_are_asked_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="no identity token"):
        token_source()
    default = tmp_path / "default"
    default.write_text("default")
    monkeypatch.setattr(module, "DEFAULT_TOKEN_FILE", default)
    assert token_source().token() == "default"
    monkeypatch.setenv("HOOP_TOKEN", "from-variable")
    assert token_source().token() == "from-variable"
    (tmp_path / "projected").write_text("from-file")
    monkeypatch.setenv("HOOP_TOKEN_FILE", str(tmp_path / "projected"))
    assert token_source().token() == "from-file"
    assert token_source("given").token() == "given"
