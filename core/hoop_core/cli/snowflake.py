"""`hoop snowflake`: what Snowflake's and Vault's administrators run once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hoop_core.cli.output import AsJson, failing
from hoop_core.errors import ConfigError
from hoop_core.masking.masks import HASH_FUNCTION
from hoop_core.policy.file import load_policy
from hoop_core.policy.model import Policy
from hoop_core.policy.setup_roles import reader_roles
from hoop_core.snowflake.setup import NO_POLICY, SetupNames, SetupPlan, as_text, sections
from hoop_core.snowflake.setup_inputs import addresses, public_key
from hoop_core.snowflake.vault_roles import as_commands, vault_bodies
from hoop_core.sql.names import parse_parts, stored

app = typer.Typer(help="Set Snowflake up for Hoop.", no_args_is_help=True, add_completion=False)

_DEFAULT = SetupNames()
_Names = Annotated[str, typer.Option(metavar="NAME")]


@app.callback()
def _group() -> None:
    """Set Snowflake up for Hoop."""


@app.command("setup-sql")
def setup_sql(  # noqa: PLR0917  options of a command
    hoop_address: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="From where Hoop reaches Snowflake. Repeat it."),
    ] = None,
    vault_public_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="The public key of Vault's own user.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Roles and what they may read come from here.")
    ] = None,
    vault_address: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="From where Vault does; Hoop's addresses if not given."),
    ] = None,
    vault: Annotated[bool, typer.Option("--vault", help="Print Vault's side instead.")] = False,
    unsafe_any_address: Annotated[
        bool, typer.Option("--unsafe-any-address", help="Accept networks that bound nothing.")
    ] = False,
    hash_function: Annotated[
        str | None,
        typer.Option(
            metavar="DB.SCHEMA.NAME", help="Default: the policy's, else GOVERNANCE.HOOP.*"
        ),
    ] = None,
    warehouse: _Names = _DEFAULT.warehouse,
    governance_role: _Names = _DEFAULT.governance_role,
    minter_role: _Names = _DEFAULT.minter_role,
    minter_user: _Names = _DEFAULT.minter_user,
    observer_role: _Names = _DEFAULT.observer_role,
    network_policy: _Names = _DEFAULT.network_policy,
    vault_network_policy: _Names = _DEFAULT.vault_network_policy,
    vault_connection: _Names = "snowflake",
    vault_observer_role: _Names = "hoop-observer",
    as_json: AsJson = False,
) -> None:
    """Print the SQL that an account administrator runs once, or Vault's side of it (--vault).

    Nothing is executed. The text may be run again: it keeps the hash key, and takes no grant back.
    """
    with failing(as_json):
        rules = None if policy is None else load_policy(policy)
        names = SetupNames(
            hash_function=_function(hash_function, rules),
            governance_role=stored(governance_role),
            minter_role=stored(minter_role),
            minter_user=stored(minter_user),
            observer_role=stored(observer_role),
            network_policy=stored(network_policy),
            vault_network_policy=stored(vault_network_policy),
            warehouse=stored(warehouse),
        )
        readers = () if rules is None else reader_roles(rules)
        if vault:
            if vault_public_key is not None:
                _key(vault_public_key)  # not printed, and wrong all the same
            bodies = vault_bodies(names, readers, vault_observer_role, vault_connection)
            typer.echo(json.dumps(bodies) if as_json else as_commands(bodies), nl=as_json)
            return
        hoop = addresses(hoop_address or (), "--hoop-address", any_address=unsafe_any_address)
        plan = SetupPlan(
            hoop_addresses=hoop,
            vault_addresses=addresses(
                vault_address, "--vault-address", any_address=unsafe_any_address
            )
            if vault_address
            else hoop,
            vault_key=_key(vault_public_key),
            readers=readers,
            names=names,
        )
        parts = sections(plan)
    value: list[dict[str, Any]] = [{"title": p.title, "sql": p.sql} for p in parts]
    notes = () if rules is not None else NO_POLICY
    if notes:
        typer.echo(" ".join(notes), err=True)
    # as it is: a script is not to be wrapped at the terminal's width
    typer.echo(json.dumps(value) if as_json else as_text(parts, notes), nl=as_json)


def _function(option: str | None, policy: Policy | None) -> tuple[str, str, str]:
    """What is made must be what the policy's masks will call. Raises ConfigError."""
    named = None
    if policy is not None and policy.hash_function != HASH_FUNCTION:
        named = policy.hash_function
    if option is None and named is None:
        return _DEFAULT.hash_function
    parts = parse_parts(option or named or "")
    if parts is None or len(parts) != 3 or "*" in parts:
        raise ConfigError(
            "--hash-function must be DATABASE.SCHEMA.FUNCTION.",
            "For example GOVERNANCE.HOOP.MASK_HASH.",
        )
    if option is not None and named is not None and parts != parse_parts(named):
        raise ConfigError(
            f"The policy's masks call {named}, and --hash-function names another.",
            "Leave the option out, or change `hash_function` in the policy.",
        )
    return parts[0], parts[1], parts[2]


def _key(path: Path | None) -> str:
    if path is None:
        raise ConfigError(
            "--vault-public-key is missing: Vault signs in to Snowflake with a key pair.",
            "Give the public key of Vault's user as a PEM file.",
        )
    try:
        pem = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"The public key {path} cannot be read: {e.strerror}.") from None
    return public_key(pem, str(path))
