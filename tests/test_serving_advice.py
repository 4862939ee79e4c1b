"""What the gateway says about its settings when it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hoop_core.config import IssuerSettings, SamlSettings, Settings, StoreSettings
from hoop_core.server.advice import advice


def issuer(name: str, **more: Any) -> IssuerSettings:
    return IssuerSettings(issuer=f"https://{name}.example.com", audience="hoop", **more)


def saml(**more: Any) -> SamlSettings:
    return SamlSettings(entity_id="idp", certificates=(Path("idp.pem"),), audience="hoop", **more)


@pytest.mark.parametrize(
    ("issuers", "samls", "said"),
    [
        ([issuer("a")], [], False),
        ([issuer("a"), issuer("b")], [], True),
        ([issuer("a")], [saml()], True),
        ([issuer("a", group_prefix="a:"), issuer("b")], [], False),
        ([issuer("a", group_names={"x": "agents"}), issuer("b")], [], False),
        ([issuer("a", group_prefix="a:"), issuer("b"), issuer("c")], [], True),
    ],
)
def test_groups_of_several_providers_should_be_told_apart(
    issuers: list[IssuerSettings], samls: list[SamlSettings], said: bool
) -> None:
    told = list(advice(Settings(identity=tuple(issuers), saml=tuple(samls))))
    assert bool(told) is said
    assert all("group_prefix" in t for t in told)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///hoop.db", False),
        ("postgresql://hoop@/hoop?host=/run/postgresql", False),
        ("postgresql://hoop@127.0.0.1/hoop", False),
        ("postgresql://hoop@[::1]/hoop", False),
        ("postgresql://hoop@db.example.com/hoop", True),
        ("postgresql://hoop@/hoop?host=db.example.com", True),
        ("postgresql://hoop@/hoop?host=localhost,db.example.com", True),
        ("postgresql://hoop@localhost/hoop?hostaddr=10.0.0.7", True),
        ("postgres://hoop@10.0.0.7/hoop?sslmode=require", True),
        ("postgresql://hoop@db.example.com/hoop?sslmode=verify-full", False),
    ],
)
def test_a_store_on_another_host_should_prove_who_it_is(url: str, said: bool) -> None:
    told = list(advice(Settings(store=StoreSettings(url=url))))
    assert bool(told) is said
    assert all("verify-full" in t and "hoop@" not in t for t in told)
