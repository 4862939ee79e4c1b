"""OIDC tokens: whatever is not proven is refused."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from hoop_core.config import IssuerSettings
from hoop_core.errors import ConfigError, IdentityError, Unavailable
from hoop_core.identity.fetch import MOST_BYTES, Web
from hoop_core.identity.keys import Issuer
from hoop_core.identity.oidc import TokenVerifier
from tests.identity_world import (
    ISSUER,
    KEY,
    OTHER,
    SETTINGS,
    Provider,
    claims,
    encoded,
    signed,
    token,
    with_settings,
)


def test_a_good_token_gives_the_identity() -> None:
    who = Provider(KEY).verify(token(aud=["x", "hoop"], azp="cli")).identity
    assert (who.issuer, who.subject, who.name, who.groups) == (ISSUER, "u1", "una", ("a", "b"))
    assert who.expires_at is not None
    assert who.actors == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exp": int(time.time()) - 300}, "expired"),
        ({"exp": ...}, "never expires"),
        ({"exp": "tomorrow"}, "not a time"),
        ({"exp": True}, "not a time"),
        ({"exp": 10**400}, "not a time"),
        ({"exp": 1e300}, "not a time"),
        ({"exp": -1}, "not a time"),
        ({"nbf": int(time.time()) + 86_400}, "not valid yet"),
        ({"iat": int(time.time()) + 86_400}, "not valid yet"),
        ({"aud": "another"}, "another audience"),
        ({"aud": ["hoopla"]}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": {"hoop": 1}}, "another audience"),
        ({"aud": ...}, "another audience"),
        ({"aud": ["hoop", "x"]}, "several audiences"),
        ({"aud": ["hoop", "x"], "azp": 7}, "several audiences"),
        ({"sub": ...}, "no subject"),
        ({"sub": ""}, "no subject"),
        ({"sub": 7}, "no subject"),
        ({"sub": "x" * 256}, "no subject"),
        ({"sub": "a\x00b"}, "no subject"),
        ({"sub": "admin\u202e"}, "no subject"),
        ({"sub": "admin\u200b"}, "no subject"),
        ({"groups": ["data\u2060-owners"]}, "not a list of names"),
        ({"groups": [1]}, "not a list"),
        ({"groups": {"admins": 1}}, "not a list"),
        ({"groups": ["a", ""]}, "not a list"),
        ({"groups": ["a\nb"]}, "not a list"),
        ({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}, "tells of an event"),
    ],
)  # fmt: skip
def test_bad_claims_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(IdentityError, match=says):
        Provider(KEY).verify(token(**changes))


def test_an_expired_token_has_snowflakes_code_for_it() -> None:
    with pytest.raises(IdentityError) as caught:
        Provider(KEY).verify(token(exp=int(time.time()) - 300))
    assert caught.value.errno == 390318


@pytest.mark.parametrize("issuer", ["https://evil.example", ISSUER + "/", 7, None, [ISSUER]])
def test_a_token_of_a_foreign_issuer_is_refused_and_nobody_is_asked(issuer: object) -> None:
    provider = Provider(KEY)
    with pytest.raises(IdentityError, match="not trusted"):
        provider.verify(token(iss=issuer))
    assert provider.seen == []


def test_a_token_signed_with_another_key_is_refused() -> None:
    with pytest.raises(IdentityError, match="signature"):
        Provider(KEY).verify(token(OTHER))


def test_changed_claims_break_the_signature() -> None:
    head, _, signature = token().split(".")
    forged = encoded(json.dumps(claims(groups=["admins"])).encode())
    with pytest.raises(IdentityError, match="signature"):
        Provider(KEY).verify(f"{head}.{forged}.{signature}")


def test_the_signature_of_another_token_of_the_same_key_does_not_fit() -> None:
    head, body, _ = token(groups=["admins"]).split(".")
    with pytest.raises(IdentityError, match="signature"):
        Provider(KEY).verify(f"{head}.{body}.{token().split('.')[2]}")


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_alg_none_is_refused(name: str) -> None:
    parts = [json.dumps(p).encode() for p in ({"alg": name, "kid": "k1"}, claims())]
    head, body = map(encoded, parts)
    with pytest.raises(IdentityError, match="algorithm"):
        Provider(KEY).verify(f"{head}.{body}.")


def test_a_public_key_used_as_a_shared_secret_is_refused() -> None:
    parts = [json.dumps(p).encode() for p in ({"alg": "HS256", "kid": "k1"}, claims())]
    text = ".".join(map(encoded, parts))
    mac = hmac.digest(KEY.as_pem(private=False), text.encode(), "sha256")
    with pytest.raises(IdentityError, match="algorithm"):
        Provider(KEY).verify(f"{text}.{encoded(mac)}")


def test_a_published_shared_secret_is_not_used() -> None:
    secret = OctKey.generate_key(256, {"kid": "k1"}, private=True)
    provider = Provider(KEY)
    provider.keys = [secret.as_dict(private=True)]
    with pytest.raises(IdentityError, match="does not publish"):
        provider.verify(token())


ELLIPTIC = ECKey.generate_key("P-256", {"kid": "k1"}, private=True)


def test_a_key_of_another_type_is_refused() -> None:
    with pytest.raises(IdentityError, match="signature"):
        Provider(KEY).verify(token(ELLIPTIC, {"alg": "ES256"}))


def _public(key: Any, **changes: Any) -> dict[str, Any]:
    found = {**key.as_dict(private=False), "kid": "k1", **changes}
    return {k: v for k, v in found.items() if v is not ...}


@pytest.mark.parametrize(
    ("published", "name", "key"),
    [
        (_public(KEY, alg="PS256"), "RS256", KEY),
        (_public(KEY, use="enc"), "RS256", KEY),
        (_public(KEY, use=..., key_ops=["encrypt"]), "RS256", KEY),
        (_public(KEY, key_ops="verify"), "RS256", KEY),
        (_public(ELLIPTIC, crv="P-384"), "ES256", ELLIPTIC),
        (_public(ELLIPTIC, x="AA"), "ES256", ELLIPTIC),
        ({"kty": "RSA", "kid": "k1", "n": "AA", "e": "AQAB"}, "RS256", KEY),
        ({"kty": "RSA", "kid": "k1"}, "RS256", KEY),
    ],
)
def test_a_published_key_that_does_not_fit_the_algorithm_is_not_used(
    published: dict[str, Any], name: str, key: Any
) -> None:
    provider = Provider()
    provider.keys = [published]
    with pytest.raises(IdentityError, match="signature"):
        provider.verify(token(key, {"alg": name}))


def test_curve_and_hash_belong_together() -> None:
    larger = ECKey.generate_key("P-384", {"kid": "k1"}, private=True)
    settings = with_settings(algorithms=("ES256", "ES384"))
    assert Provider(larger).verify(token(larger, {"alg": "ES384"}), settings).identity
    with pytest.raises(IdentityError, match="signature"):
        Provider(larger).verify(token(ELLIPTIC, {"alg": "ES256"}), settings)


@pytest.mark.parametrize("name", ["EdDSA", "Ed25519"])
def test_edwards_curves_are_taken_under_both_names(name: str) -> None:
    key = OKPKey.generate_key("Ed25519", {"kid": "k1"}, private=True)
    settings = with_settings(algorithms=("EdDSA", "Ed25519"))
    assert Provider(key).verify(token(key, {"alg": name}), settings).identity.subject == "u1"


@pytest.mark.filterwarnings("ignore")
def test_a_short_rsa_key_is_refused() -> None:
    short = RSAKey.generate_key(1024, {"kid": "k1"}, private=True)
    with pytest.raises(IdentityError, match="signature"):
        Provider(short).verify(token(short))


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": OTHER.as_dict(private=False)},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/chain"},
        {"x5c": ["MIIB"]},
    ],
)
def test_keys_that_the_token_brings_or_names_are_not_believed(header: dict[str, Any]) -> None:
    provider = Provider(KEY)
    with pytest.raises(IdentityError, match="signature"):
        provider.verify(token(OTHER, header))
    assert {r.url.host for r in provider.seen} == {"idp.example"}


@pytest.mark.parametrize(
    "key_id", ["../../etc/passwd", "k1' OR '1'='1", "https://evil.example/k", "\x00", "k" * 600, ""]
)
def test_a_key_id_is_only_ever_compared(key_id: str) -> None:
    provider = Provider(KEY)
    with pytest.raises(IdentityError, match=r"does not publish|which key signed"):
        provider.verify(token(header={"kid": key_id}))
    assert {r.url.path for r in provider.seen} <= {"/.well-known/openid-configuration", "/keys"}


@pytest.mark.parametrize("key_id", [None, 7, ["k1"], {"kid": "k1"}])
def test_a_token_without_a_key_id_is_refused(key_id: object) -> None:
    with pytest.raises(IdentityError, match="no kid"):
        Provider(KEY).verify(token(header={"kid": key_id}))


@pytest.mark.parametrize("critical", [["exp"], [], "b64", ["b64"]])
def test_a_critical_extension_is_refused(critical: object) -> None:
    with pytest.raises(IdentityError, match="crit"):
        Provider(KEY).verify(token(header={"crit": critical, "b64": False}))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
def test_kinds_of_token_that_are_taken(kind: str | None) -> None:
    assert Provider(KEY).verify(token(header={"typ": kind})).identity.subject == "u1"


@pytest.mark.parametrize("kind", ["logout+jwt", "secevent+jwt", "dpop+jwt", "id_token+jwt", "", 7])
def test_other_kinds_of_token_are_refused(kind: object) -> None:
    with pytest.raises(IdentityError, match="another kind"):
        Provider(KEY).verify(token(header={"typ": kind}))


def test_where_only_access_tokens_are_taken_one_without_a_kind_is_refused() -> None:
    settings = with_settings(token_types=("at+jwt",))
    with pytest.raises(IdentityError, match="another kind"):
        Provider(KEY).verify(token(), settings)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"iss":"https://idp.example","sub":"u1","sub":"admin","aud":"hoop","exp":99999999999}',
        b'{"iss":"https://idp.example","aud":"hoop","exp":9999999999,"x":{"a":1,"a":2}}',
    ],
)
def test_a_name_that_stands_twice_is_refused(payload: bytes) -> None:
    with pytest.raises(IdentityError, match="twice"):
        Provider(KEY).verify(signed(payload))


def test_a_header_name_that_stands_twice_is_refused() -> None:
    head = encoded(b'{"alg":"RS256","kid":"k1","alg":"none"}')
    with pytest.raises(IdentityError, match="twice"):
        Provider(KEY).verify(head + "." + token().partition(".")[2])


@pytest.mark.parametrize(
    "payload",
    [b"[]", b"7", b"", b"\xff", b'{"exp":NaN}', b'{"sub":"\\ud800"}', b"[" * 9000, b'{"a":1} x'],
)
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(IdentityError, match="not a signed JWT"):
        Provider(KEY).verify(signed(payload))


@pytest.mark.parametrize("change", ["a.b.c.d.e", "=", " ", "\n", "+/"])
def test_nothing_but_base64url_is_read(change: str) -> None:
    head, body, signature = token().split(".")
    with pytest.raises(IdentityError, match="not a signed JWT"):
        Provider(KEY).verify(f"{head}.{body}{change}.{signature}")


def test_a_token_of_any_length_costs_nothing() -> None:
    provider = Provider(KEY)
    with pytest.raises(IdentityError, match="not a signed JWT"):
        provider.verify(token(x="y" * 17_000))
    assert provider.seen == []


@given(st.text(max_size=200))
def test_garbage_is_refused_and_never_repeated(garbage: str) -> None:
    with pytest.raises(IdentityError) as caught:
        Provider(KEY).verify(garbage)
    assert len(garbage) < 12 or garbage not in str(caught.value)


# ------------------------------------------------------------------ whose token, and how old


@pytest.mark.parametrize("party", [{"azp": "cli"}, {"client_id": "cli"}])
def test_a_client_on_the_list_may_bring_its_token(party: dict[str, Any]) -> None:
    settings = with_settings(authorized_parties=("cli",))
    assert Provider(KEY).verify(token(**party), settings).identity.subject == "u1"


@pytest.mark.parametrize("party", [{}, {"azp": "evil"}, {"azp": "evil", "client_id": "cli"}])
def test_a_client_that_is_not_on_the_list_is_refused(party: dict[str, Any]) -> None:
    with pytest.raises(IdentityError, match="may not bring it"):
        Provider(KEY).verify(token(**party), with_settings(authorized_parties=("cli",)))


@pytest.mark.parametrize(("issued", "says"), [(-400, "more than 300 seconds ago"), (..., "no iat")])
def test_a_token_may_not_be_older_than_the_settings_say(issued: Any, says: str) -> None:
    settings = with_settings(max_age_seconds=300)
    at = issued if issued is ... else int(time.time()) + issued
    with pytest.raises(IdentityError, match=says):
        Provider(KEY).verify(token(iat=at), settings)
    assert Provider(KEY).verify(token(iat=int(time.time()) - 200), settings)


@pytest.mark.parametrize("seconds", [-1, 301])
def test_the_leeway_is_bounded(seconds: int) -> None:
    with pytest.raises(ValueError, match="leeway_seconds"):
        with_settings(leeway_seconds=seconds)


def test_a_token_that_counts_once_needs_an_id() -> None:
    settings = with_settings(single_use=True)
    with pytest.raises(IdentityError, match="no id"):
        Provider(KEY).verify(token(), settings)
    first, other = (Provider(KEY).verify(token(jti=j), settings).use for j in ("a", "b"))
    assert first is not None
    assert other is not None
    assert first.digest != other.digest
    assert Provider(KEY).verify(token(jti="a")).use is None


# ------------------------------------------------------------------ groups, actors, claims


@pytest.mark.parametrize(
    ("settings", "given", "groups"),
    [
        ({"groups_claim": "realm.roles"}, {"realm": {"roles": ["x"]}}, ("x",)),
        ({"groups_claim": "realm.roles"}, {"realm.roles": ["y"], "realm": {"roles": ["x"]}}, ("y",)),
        ({"groups_claim": "https://e.example/g"}, {"https://e.example/g": ["x"]}, ("x",)),
        ({"groups_claim": "https://e.example/g"}, {"https://e": {"example/g": ["x"]}}, ()),
        ({"groups_claim": "cognito:groups"}, {"cognito:groups": ["x"]}, ("x",)),
        ({}, {"groups": "admins"}, ("admins",)),
        ({}, {"groups": "a b"}, ("a b",)),
        ({"groups_separator": " "}, {"groups": "b  a "}, ("a", "b")),
        ({}, {"groups": ...}, ()),
        ({}, {"groups": None}, ()),
        ({}, {"groups": ["a", "a"]}, ("a",)),
        ({"group_prefix": "gh:"}, {"groups": ["a"]}, ("gh:a",)),
        ({"group_names": {"0b1f": "owners"}}, {"groups": ["0b1f", "owners2"]}, ("owners",)),
        ({"group_names": {"0b1f": "owners"}}, {"groups": ["owners"]}, ()),
        ({"group_names": {"0b1f": "owners"}, "group_prefix": "e:"}, {"groups": ["0b1f"]}, ("e:owners",)),
    ],
)  # fmt: skip
def test_groups_come_from_where_the_settings_say(
    settings: dict[str, Any], given: dict[str, Any], groups: tuple[str, ...]
) -> None:
    who = Provider(KEY).verify(token(**given), with_settings(**settings)).identity
    assert who.groups == groups


def test_groups_that_were_left_out_are_not_no_groups() -> None:
    elsewhere = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {}}}
    with pytest.raises(IdentityError, match="too many"):
        Provider(KEY).verify(token(groups=..., **elsewhere))


@pytest.mark.parametrize(
    ("act", "actors"),
    [
        ({"sub": "bot"}, (f"{ISSUER}#bot",)),
        ({"sub": "bot", "iss": "https://other.example"}, ("https://other.example#bot",)),
        ({"sub": "b", "act": {"sub": "a"}}, (f"{ISSUER}#b", f"{ISSUER}#a")),
    ],
)
def test_who_acts_for_the_caller_is_part_of_the_identity(act: Any, actors: tuple[str, ...]) -> None:
    assert Provider(KEY).verify(token(act=act)).identity.actors == actors


def _chain(length: int) -> dict[str, Any]:
    link: dict[str, Any] = {"sub": "a"}
    for _ in range(length - 1):
        link = {"sub": "a", "act": link}
    return link


@pytest.mark.parametrize(
    "act",
    ["bot", ["bot"], {}, {"sub": 7}, {"sub": "b", "act": "a"}, {"sub": "a", "iss": "https://x#y"},
     {"client_id": "bot"}, _chain(11)],
)  # fmt: skip
def test_a_chain_of_actors_that_cannot_be_read_is_refused(act: Any) -> None:
    with pytest.raises(IdentityError, match="act"):
        Provider(KEY).verify(token(act=act))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("EU", "EU"),
        (["US", "EU", "US"], ("EU", "US")),
        ("it's", "it's"),
        (..., None),
        ("", None),
        ("  ", None),
        ("a\x00b", None),
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
    settings = with_settings(claims=("region",))
    who = Provider(KEY).verify(token(region=given, team="x"), settings).identity
    assert who.claims == ({} if found is None else {"region": found})


def test_claims_may_be_nested_or_have_an_address_for_a_name() -> None:
    names = ("org.team", "https://idp.example/region", "org", "org.team.x")
    given = {"org": {"team": "x"}, "https://idp.example/region": "EU"}
    who = Provider(KEY).verify(token(**given), with_settings(claims=names)).identity
    assert who.claims == {"org.team": "x", "https://idp.example/region": "EU"}
    assert "EU" not in repr(who)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 300, 7, ""])
def test_a_name_that_nobody_could_read_is_replaced_by_the_subject(name: object) -> None:
    assert Provider(KEY).verify(token(preferred_username=name)).identity.name == "u1"


# ------------------------------------------------------------------ keys


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Keyed:
    """One issuer under a clock of ours; each `wait` runs on one event loop."""

    def __init__(self, provider: Provider, **settings: Any) -> None:
        self.provider, self.clock = provider, Clock()
        self.issuer = Issuer(with_settings(**settings), provider.web(), self.clock)

    async def has(self, key_id: str = "k1") -> bool:
        try:
            await self.issuer.keys(key_id)
        except IdentityError:
            return False
        return True


def test_an_unknown_key_id_refreshes_the_keys_once_and_not_at_every_try() -> None:
    provider = Provider(KEY)
    world = Keyed(provider)

    async def attack() -> None:
        assert await world.has()
        world.clock.now += 60
        found = await asyncio.gather(*(world.has(f"made-up-{n}") for n in range(200)))
        assert not any(found)
        assert provider.fetched == 2
        world.clock.now += 5
        assert not await world.has("made-up")
        assert provider.fetched == 2

    asyncio.run(attack())


def test_a_new_key_is_found_when_a_token_names_it() -> None:
    provider = Provider(KEY)
    world = Keyed(provider)

    async def rotate() -> None:
        assert await world.has()
        provider.keys = [{**OTHER.as_dict(private=False), "kid": "k2"}]
        world.clock.now += 11
        assert await world.has("k2")
        assert not await world.has("k1")

    asyncio.run(rotate())


def test_a_withdrawn_key_counts_no_longer_when_the_keys_are_not_fresh() -> None:
    provider = Provider(KEY)
    world = Keyed(provider, keys_fresh_seconds=600)

    async def withdraw() -> None:
        assert await world.has()
        provider.keys = []
        world.clock.now += 599
        assert await world.has()
        world.clock.now += 2
        assert not await world.has()

    asyncio.run(withdraw())


def test_while_the_issuer_is_down_its_keys_serve_for_a_bounded_time() -> None:
    provider = Provider(KEY)
    world = Keyed(provider, keys_fresh_seconds=600, keys_stale_seconds=3600)

    async def outage() -> None:
        assert await world.has()
        provider.down = True
        world.clock.now += 601
        assert await world.has()
        world.clock.now += 3500
        assert await world.has()
        world.clock.now += 200
        with pytest.raises(Unavailable, match="cannot be fetched"):
            await world.has()
        provider.down = False
        world.clock.now += 3
        assert await world.has()

    asyncio.run(outage())


def test_while_the_issuer_hangs_only_those_wait_who_need_it() -> None:
    provider = Provider(KEY)
    world = Keyed(provider)
    answer = provider.__call__
    hang = asyncio.Event()

    async def outage() -> None:
        assert await world.has()
        provider.down = True
        world.clock.now += 601
        assert await world.has()  # this one finds out
        provider.down = False

        async def hanging(request: httpx.Request) -> httpx.Response:
            await hang.wait()
            return await answer(request)

        world.issuer.web = Web(transport=httpx.MockTransport(hanging))
        world.clock.now += 20
        async with asyncio.timeout(1):
            assert all(await asyncio.gather(*(world.has() for _ in range(50))))
        waiting = asyncio.create_task(world.has("new"))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()  # the client goes away; the fetch goes on
        hang.set()
        assert await world.has()

    asyncio.run(outage())


def test_an_issuer_that_has_never_answered_is_not_asked_by_every_caller() -> None:
    provider = Provider(KEY)
    provider.down = True
    world = Keyed(provider)

    async def hammer() -> None:
        for _ in range(20):
            with pytest.raises(Unavailable):
                await world.has()

    asyncio.run(hammer())
    assert len(provider.seen) == 1


def test_one_issuer_that_hangs_does_not_hold_up_another() -> None:
    good = Provider(KEY)

    async def hanging(_request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    slow = SETTINGS.model_copy(update={"issuer": "https://slow.example"})
    webs = {SETTINGS.issuer: good.web(), slow.issuer: Web(transport=httpx.MockTransport(hanging))}
    verifier = TokenVerifier([SETTINGS, slow], lambda s: webs[s.issuer])

    async def both() -> None:
        stuck = asyncio.create_task(verifier.verify(token(iss=slow.issuer)))
        await asyncio.sleep(0)
        async with asyncio.timeout(2):
            assert (await verifier.verify(token())).identity.subject == "u1"
        assert not stuck.done()
        stuck.cancel()

    asyncio.run(both())


def _answering(*answers: httpx.Response) -> Web:
    waiting = list(answers)

    async def serve(_request: httpx.Request) -> httpx.Response:
        return waiting.pop(0)

    return Web(transport=httpx.MockTransport(serve))


class Endless(httpx.AsyncByteStream):
    """A body that never ends; counts what was read of it."""

    def __init__(self) -> None:
        self.given = 0

    async def __aiter__(self) -> Any:
        while True:
            self.given += 65_536
            yield b" " * 65_536


def test_an_answer_without_end_is_left_in_the_middle() -> None:
    body = Endless()
    web = _answering(httpx.Response(200, stream=body))
    with pytest.raises(Unavailable, match="too long"):
        asyncio.run(Issuer(SETTINGS, web).keys("k1"))
    assert body.given <= MOST_BYTES + 65_536


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (httpx.Response(302, headers={"location": "https://evil.example/"}), "HTTP 302"),
        (httpx.Response(500), "HTTP 500"),
        (httpx.Response(200, content=b"<html>"), "not JSON"),
        (httpx.Response(200, json=[1]), "not an object"),
        (httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Endless()), "packed"),
    ],
)
def test_what_is_no_discovery_document_is_refused(answer: httpx.Response, says: str) -> None:
    with pytest.raises(Unavailable, match=says):
        asyncio.run(Issuer(SETTINGS, _answering(answer)).keys("k1"))


def test_a_discovery_document_of_another_issuer_is_refused() -> None:
    provider = Provider(KEY)
    provider.said = "https://evil.example"
    with pytest.raises(IdentityError, match="names another issuer"):
        provider.verify(token())


@pytest.mark.parametrize(
    "where", ["http://idp.example/keys", "file:///etc/passwd", "//idp.example/keys", 7, None,
              "https://u:p@evil.example/keys", "https://"]
)  # fmt: skip
def test_keys_are_only_fetched_over_the_scheme_of_the_issuer(where: Any) -> None:
    provider = Provider(KEY)
    provider.jwks_uri = where
    with pytest.raises(IdentityError, match="names a key set"):
        provider.verify(token())
    assert provider.fetched == 0


def test_keys_substituted_on_the_way_need_an_unsafe_setting() -> None:
    plain = {"issuer": "http://idp.example", "audience": "hoop"}
    with pytest.raises(ConfigError, match="http:// address of another host"):
        TokenVerifier([IssuerSettings(**plain)])
    TokenVerifier([IssuerSettings(**plain, unsafe_plain_http=True)])
    TokenVerifier([IssuerSettings(issuer="http://127.0.0.1:8200/v1", audience="hoop")])


@pytest.mark.parametrize(
    "issuer", ["idp.example", "ftp://idp.example", "https://", "https://u:p@idp.example",
               "https://idp.example#x", "https://idp.example:port"]
)  # fmt: skip
def test_an_issuer_must_be_an_address(issuer: str) -> None:
    with pytest.raises(ConfigError, match=r"identity\.issuer"):
        TokenVerifier([IssuerSettings(issuer=issuer, audience="hoop")])


@pytest.mark.parametrize("algorithms", [("HS256",), ("none",), ("RS256", "HS512"), ("RS1",), ()])
def test_symmetric_algorithms_cannot_be_configured(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="asymmetric"):
        TokenVerifier([with_settings(algorithms=algorithms)])


def test_an_issuer_is_configured_once() -> None:
    with pytest.raises(ConfigError, match="same issuer"):
        TokenVerifier([SETTINGS, SETTINGS])


def test_the_token_for_discovery_goes_to_the_issuer_only(tmp_path: Any) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    provider = Provider(KEY)
    settings = with_settings(discovery_token_file=file)
    provider.verify(token(), settings)
    assert [r.headers.get("authorization") for r in provider.seen] == ["Bearer secret"] * 2
    provider.seen.clear()
    provider.jwks_uri = "https://idp.example.evil.example/keys"
    provider.verify(token(), settings)
    assert [r.headers.get("authorization") for r in provider.seen] == ["Bearer secret", None]
