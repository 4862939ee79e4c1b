"""The command's outer shape: what is there, how errors leave, and what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def hoop(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hoop_core.cli", *arguments],
        capture_output=True, text=True, check=False, timeout=60, cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd or "/"), "COLUMNS": "200"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "dev",
        "serve",
        "policy",
        "approvals",
        "masking",
        "sessions",
        "credentials",
        "vault",
        "audit",
        "snowflake",
        "bench",
    ],
)
def test_every_command_of_the_contract_explains_itself(command: str) -> None:
    done = hoop(command, "--help")
    assert done.returncode == 0 and "Usage" in done.stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    assert hoop("nonsense").returncode == 2


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    done = hoop("serve", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 2 and "none.toml" in done.stderr


def test_a_wrong_key_in_the_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "hoop.toml").write_text("[gateway]\nprot = 1\n")
    done = hoop("serve", "--config", str(tmp_path / "hoop.toml"))
    assert done.returncode == 2 and "gateway.prot" in done.stderr
    assert "did you mean `port`?" in done.stderr


def test_a_section_that_comes_several_times_is_said_to_need_two_brackets(tmp_path: Path) -> None:
    (tmp_path / "hoop.toml").write_text('[identity]\nissuer = "https://i.example"\n')
    done = hoop("serve", "--config", str(tmp_path / "hoop.toml"))
    assert done.returncode == 2 and "write [[identity]]" in done.stderr


def test_a_command_without_a_gateway_says_so_in_json(tmp_path: Path) -> None:
    done = hoop("approvals", "list", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert "HOOP_GATEWAY_URL" in json.loads(done.stdout)["error"]["hint"]


def test_something_that_is_no_bundle_fails_verification(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("x")
    done = hoop("audit", "verify", str(tmp_path / "x.zip"), "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["error"]["reason"] == "EVIDENCE"


def test_a_mistyped_key_does_not_look_like_a_forged_log(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("x")
    done = hoop("audit", "verify", str(tmp_path / "x.zip"), "--key", "bogus")
    assert done.returncode == 2 and "not a verifier key" in done.stderr


def test_a_store_address_that_is_none_is_a_configuration_error(tmp_path: Path) -> None:
    assert hoop("audit", "verify", "nonsense://x").returncode == 2


def test_the_embedded_gateway_is_found_under_the_packages_name() -> None:
    import hoop_core

    assert callable(hoop_core.connect)
    with pytest.raises(AttributeError):
        _ = hoop_core.nothing
