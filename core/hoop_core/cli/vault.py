"""`hoop vault setup`: what Vault must hold for Hoop, shown, compared or written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from hoop_core.cli.output import AsJson, emit, failing, plain
from hoop_core.config import load_settings
from hoop_core.credentials.vault_admin import VaultAdmin, check_keys
from hoop_core.credentials.vault_plan import Wanted, Workload, as_commands, plan
from hoop_core.errors import ConfigError
from hoop_core.policy.file import load_policy
from hoop_core.snowflake.setup import SetupNames
from hoop_core.sql.names import stored

app = typer.Typer(help="Set Vault up for Hoop.", no_args_is_help=True, add_completion=False)
_DEFAULT = SetupNames()
_Name = Annotated[str, typer.Option(metavar="NAME")]


@app.callback()
def _group() -> None:
    """Set Vault up for Hoop."""


@app.command()
def setup(  # noqa: PLR0917  options of a command
    config: Annotated[
        Path | None, typer.Option("--config", help="The gateway's hoop.toml.", dir_okay=False)
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write it, with VAULT_ADDR and VAULT_TOKEN.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare only; exit 1 if something differs.")
    ] = False,
    bound_audience: Annotated[
        list[str] | None, typer.Option(help="Audience of Hoop's own token. Repeat it.")
    ] = None,
    bound_subject: Annotated[str, typer.Option(help="`sub` of Hoop's own token.")] = "",
    bound_claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What else it must say.")
    ] = None,
    issuer: Annotated[
        str, typer.Option(help="OIDC issuer of Hoop's own token; left as it is when not given.")
    ] = "",
    private_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Private key of Vault's Snowflake user.")
    ] = None,
    connection_url: Annotated[str, typer.Option(help="Instead of the account's own.")] = "",
    connection: _Name = "snowflake",
    warehouse: _Name = _DEFAULT.warehouse,
    minter_role: _Name = _DEFAULT.minter_role,
    minter_user: _Name = _DEFAULT.minter_user,
    observer_role: _Name = _DEFAULT.observer_role,
    network_policy: _Name = _DEFAULT.network_policy,
    as_json: AsJson = False,
) -> None:
    """Print the commands for Vault's administrator; --diff compares, --apply writes what differs.

    The policy of hoop.toml says which roles there are. Running it again changes nothing.
    """
    with failing(as_json):
        settings = load_settings(config)
        wanted = plan(
            settings,
            load_policy(settings.policy.file),
            Workload(
                tuple(bound_audience or ("vault",)), bound_subject, _claims(bound_claim), issuer
            ),
            SetupNames(
                warehouse=stored(warehouse),
                minter_role=stored(minter_role),
                minter_user=stored(minter_user),
                observer_role=stored(observer_role),
                network_policy=stored(network_policy),
            ),
            connection=connection,
            connection_url=connection_url,
            private_key=_key(private_key),
        )
        if not (apply or diff):
            _print(wanted, as_json)
            return
        admin = VaultAdmin(_variable("VAULT_ADDR"), _variable("VAULT_TOKEN"))
        found = admin.compare(wanted)
        if apply:
            check_keys(found)
            admin.apply(found)
    lines = [line for d in found for line in d.lines()]
    changed = sum(d.any for d in found)
    lines.append(
        f"{changed} {'written' if apply else 'differ'}, {len(found) - changed} as they are"
    )
    value = {"applied": apply, "differences": [d.as_json() for d in found]}
    emit(as_json, value, plain("\n".join(lines)))
    raise typer.Exit(1 if changed and not apply else 0)


def _print(wanted: list[Wanted], as_json: bool) -> None:
    bodies = {w.path: {"type": w.mount} if w.mount else dict(w.body) for w in wanted}
    typer.echo(json.dumps(bodies) if as_json else as_commands(wanted), nl=as_json)


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(
            f"{name} is not set.", "Set it to your Vault, and an administrator's token."
        )
    return value


def _claims(given: list[str] | None) -> dict[str, str]:
    claims = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"--bound-claim {text!r} is not NAME=VALUE.")
        claims[name] = value
    return claims


def _key(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"The private key {path} cannot be read: {type(e).__name__}.") from None
