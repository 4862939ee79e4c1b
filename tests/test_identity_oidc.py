"""OIDC tokens: whatever is not proven is refused."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from hoop_core.config import IssuerSettings
from hoop_core.errors import ConfigError, IdentityError, Unavailable
from hoop_core.identity.oidc import TokenVerifier

ISSUER = "https://idp.example"
SETTINGS = IssuerSettings(issuer=ISSUER, audience="hoop")
KEY = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"}, private=True)
OTHER = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"}, private=True)


class Provider:
    """An identity provider's two documents, served to the verifier's own HTTP client."""

    def __init__(self, *keys: Any, issuer: str = ISSUER) -> None:
        self.keys, self.issuer, self.fetched, self.down = list(keys), issuer, 0, False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("down")
        if request.url.path.endswith("openid-configuration"):
            return httpx.Response(200, json={"issuer": self.issuer, "jwks_uri": f"{ISSUER}/keys"})
        self.fetched += 1
        keys = [k.as_dict(private=False) for k in self.keys]
        return httpx.Response(200, json={"keys": keys})

    def verifier(self, settings: IssuerSettings = SETTINGS) -> TokenVerifier:
        return TokenVerifier([settings], httpx.Client(transport=httpx.MockTransport(self)))


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    base = {"iss": ISSUER, "aud": "hoop", "sub": "u1", "iat": now, "exp": now + 300,
            "groups": ["b", "a"], "preferred_username": "una"}  # fmt: skip
    return {k: v for k, v in {**base, **changes}.items() if v is not ...}


def token(key: Any = KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
    head = {"alg": "RS256", "kid": "k1", **(header or {})}
    head = {k: v for k, v in head.items() if v is not None}
    return jwt.encode(head, claims(**changes), key, algorithms=[head["alg"]])


def test_a_good_token_gives_the_identity() -> None:
    who = Provider(KEY).verifier().verify(token(aud=["x", "hoop"]))
    assert (who.issuer, who.subject, who.name, who.groups) == (ISSUER, "u1", "una", ("a", "b"))
    assert who.expires_at is not None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exp": int(time.time()) - 300}, "expired"),
        ({"exp": ...}, "never expires"),
        ({"exp": "tomorrow"}, "not a time"),
        ({"exp": True}, "not a time"),
        ({"nbf": int(time.time()) + 300}, "not valid yet"),
        ({"iat": int(time.time()) + 300}, "not valid yet"),
        ({"aud": "another"}, "another audience"),
        ({"aud": ["hoopla"]}, "another audience"),
        ({"aud": ...}, "another audience"),
        ({"sub": ...}, "no subject"),
        ({"sub": ""}, "no subject"),
        ({"groups": "admins"}, "not a list"),
        ({"groups": [1]}, "not a list"),
    ],
)
def test_bad_claims_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(IdentityError, match=says):
        Provider(KEY).verifier().verify(token(**changes))


def test_an_expired_token_has_snowflakes_code_for_it() -> None:
    with pytest.raises(IdentityError) as caught:
        Provider(KEY).verifier().verify(token(exp=int(time.time()) - 300))
    assert caught.value.errno == 390318


def test_a_token_of_a_foreign_issuer_is_refused() -> None:
    with pytest.raises(IdentityError, match="not trusted"):
        Provider(KEY).verifier().verify(token(iss="https://evil.example"))


def test_a_token_signed_with_another_key_is_refused() -> None:
    with pytest.raises(IdentityError, match="signature"):
        Provider(KEY).verifier().verify(token(OTHER))


def test_changed_claims_break_the_signature() -> None:
    head, _, signature = token().split(".")
    forged = base64.urlsafe_b64encode(json.dumps(claims(groups=["admins"])).encode()).decode()
    with pytest.raises(IdentityError, match="signature"):
        Provider(KEY).verifier().verify(f"{head}.{forged.rstrip('=')}.{signature}")


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def test_alg_none_is_refused() -> None:
    parts = [json.dumps(p).encode() for p in ({"alg": "none", "kid": "k1"}, claims())]
    head, body = map(_encoded, parts)
    with pytest.raises(IdentityError, match="algorithm"):
        Provider(KEY).verifier().verify(f"{head}.{body}.")


def test_a_public_key_used_as_a_shared_secret_is_refused() -> None:
    parts = [json.dumps(p).encode() for p in ({"alg": "HS256", "kid": "k1"}, claims())]
    signed = ".".join(map(_encoded, parts))
    mac = hmac.digest(KEY.as_pem(private=False), signed.encode(), "sha256")
    with pytest.raises(IdentityError, match="algorithm"):
        Provider(KEY).verifier().verify(f"{signed}.{_encoded(mac)}")


def test_a_key_of_another_type_is_refused() -> None:
    elliptic = ECKey.generate_key("P-256", {"kid": "k1"}, private=True)
    with pytest.raises(IdentityError, match="signature"):
        Provider(KEY).verifier().verify(token(elliptic, {"alg": "ES256"}))


def test_a_key_inside_the_token_is_not_believed() -> None:
    header = {"jwk": OTHER.as_dict(private=False)}
    with pytest.raises(IdentityError, match="signature"):
        Provider(KEY).verifier().verify(token(OTHER, header))


def test_a_token_without_a_key_id_is_refused() -> None:
    with pytest.raises(IdentityError, match="no kid"):
        Provider(KEY).verifier().verify(token(header={"kid": None}))


def test_an_unknown_key_id_refreshes_the_keys_once_and_not_at_every_try() -> None:
    provider = Provider(KEY)
    verifier = provider.verifier()
    verifier.verify(token())
    for _ in range(5):
        with pytest.raises(IdentityError, match="does not publish"):
            verifier.verify(token(header={"kid": "k2"}))
    assert provider.fetched == 1


def test_a_provider_that_is_down_is_said_to_be_down() -> None:
    provider = Provider(KEY)
    provider.down = True
    with pytest.raises(Unavailable, match="cannot be fetched"):
        provider.verifier().verify(token())


def test_a_discovery_document_of_another_issuer_is_refused() -> None:
    with pytest.raises(IdentityError, match="names another issuer"):
        Provider(KEY, issuer="https://evil.example").verifier().verify(token())


def test_symmetric_algorithms_cannot_be_configured() -> None:
    settings = SETTINGS.model_copy(update={"algorithms": ("HS256",)})
    with pytest.raises(ConfigError, match="asymmetric"):
        TokenVerifier([settings])


@given(st.text(max_size=200))
def test_garbage_is_refused_and_never_repeated(garbage: str) -> None:
    with pytest.raises(IdentityError) as caught:
        Provider(KEY).verifier().verify(garbage)
    assert len(garbage) < 12 or garbage not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("EU", "EU"),
        (["US", "EU", "US"], ("EU", "US")),
        ("it's", "it's"),
        (..., None),
        ("", None),
        ("  ", None),
        (7, None),
        (True, None),
        (None, None),
        ({"a": "b"}, None),
        ([], None),
        (["EU", 7], None),
        (["EU", ""], None),
        ([["EU"]], None),
        ("x" * 257, None),
        (["x"] * 101, None),
    ],
)
def test_only_claims_that_the_settings_name_and_of_a_usable_shape_are_taken_over(
    given: Any, found: Any
) -> None:
    settings = SETTINGS.model_copy(update={"claims": ("region",)})
    who = Provider(KEY).verifier(settings).verify(token(region=given, team="x"))
    assert who.claims == ({} if found is None else {"region": found})


def test_claims_may_be_nested_or_have_an_address_for_a_name() -> None:
    names = ("org.team", "https://idp.example/region", "org", "org.team.x")
    settings = SETTINGS.model_copy(update={"claims": names})
    given = {"org": {"team": "x"}, "https://idp.example/region": "EU"}
    who = Provider(KEY).verifier(settings).verify(token(**given))
    assert who.claims == {"org.team": "x", "https://idp.example/region": "EU"}
    assert "EU" not in repr(who)


def test_groups_come_from_the_configured_path() -> None:
    settings = SETTINGS.model_copy(update={"groups_claim": "realm.roles"})
    who = Provider(KEY).verifier(settings).verify(token(realm={"roles": ["x"]}))
    assert who.groups == ("x",)
