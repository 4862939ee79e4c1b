"""`hoop policy check`: every mistake of a policy file, and what deserves a second look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from hoop_core.cli.output import AsJson, emit, failing, plain
from hoop_core.cli.policy_inputs import catalog_of
from hoop_core.errors import ConfigError
from hoop_core.policy.advice import Advice, advice
from hoop_core.policy.catalog_advice import catalog_advice
from hoop_core.policy.file import check_policy
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import load_catalog

_COUNTED = ("roles", "tags", "masks", "row_filters", "detectors", "recordings", "rules", "cases")


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy file.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are failures.")] = False,
    as_json: AsJson = False,
) -> None:
    """Whether a policy file is right; mistakes are named with line and nearest valid word.

    The catalog that the policy names is read too. Exit code 1 when something is wrong (with --strict also
    when there are warnings), 2 when the policy cannot be read.
    """
    with failing(as_json):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"The policy {file} cannot be read: {e}.") from None
        try:
            policy = check_policy(text, str(file))
            warnings = (*advice(policy), *_of_catalog(policy, file))
        except ConfigError as e:
            e.exit_code = 1  # the check itself was done: it failed
            raise
    counts = {what: len(getattr(policy, what)) for what in _COUNTED}
    ok = not (strict and warnings)
    value = {
        "ok": ok,
        "digest": policy.digest,
        **counts,
        "warnings": [{"line": w.line or None, "message": w.message} for w in sorted(warnings)],
    }
    emit(
        as_json,
        value,
        Group(*_checked(file, counts, sorted(warnings)), Text(f"digest {policy.digest}")),
    )
    raise typer.Exit(0 if ok else 1)


def _of_catalog(policy: Policy, file: Path) -> tuple[Advice, ...]:
    if policy.catalog is None:
        return ()
    return catalog_advice(policy, load_catalog(catalog_of(policy, file)), policy.catalog)


def _checked(file: Path, counts: dict[str, int], warnings: list[Advice]) -> list[Text]:
    held = ", ".join(_counted(n, what.replace("_", " ")) for what, n in counts.items() if n)
    lines = [plain(f"{file} is right: {held or 'nothing is granted'}")]
    for warning in warnings:
        place = f"{file}:{warning.line}" if warning.line else str(file)
        line = Text("warning ", style="yellow")
        lines.append(line.append_text(plain(f"{place}: {warning.message}")))
    return lines


def _counted(number: int, what: str) -> str:
    return f"{number} {what.removesuffix('s') if number == 1 else what}"
