"""Whose tokens and responses are taken."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from hoop_core.config.section import Section


class IssuerSettings(Section):
    """An OIDC issuer whose tokens are taken. docs/identity.md says what each check is for."""

    issuer: str = Field(min_length=1, max_length=700)
    audience: str = Field(min_length=1)
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    token_types: tuple[str, ...] = ("JWT", "at+jwt")
    """What the header `typ` may say (RFC 7515 section 4.1.9); a token without one counts as "JWT"."""
    authorized_parties: tuple[str, ...] = ()
    """Clients (`azp`, else `client_id`) whose tokens are taken; empty: any."""
    subject_claim: str = "sub"
    groups_claim: str = "groups"
    groups_separator: str = Field(default="", max_length=1)
    """Where groups come as one text: what stands between them. Empty: the text is one group."""
    group_prefix: str = ""
    """Put before each group, so that the same name at two issuers is not the same group."""
    group_names: dict[str, str] = Field(default_factory=dict)
    """The issuer's group to Hoop's. When it is not empty, groups that it does not name do not count."""
    name_claim: str = "preferred_username"
    claims: tuple[str, ...] = Field(default=(), max_length=20)
    """Further claims that row filters and conditions may compare with: texts or lists of texts. Dots
    descend, save where the token has a claim of that very name, or the name holds `://`."""
    leeway_seconds: int = Field(default=30, ge=0, le=300)
    max_age_seconds: int | None = Field(default=None, ge=1)
    """How long ago a token may have been issued (`iat`); None: as long as it lives."""
    single_use: bool = False
    """Each token (by `jti`) opens one session."""
    discovery_url: str = ""
    """Where the discovery document is, without `/.well-known/...`, when it is not below the issuer."""
    discovery_token_file: Path | None = None
    """A bearer token for discovery and keys, as Kubernetes' API server wants one; read again each time."""
    ca_file: Path | None = None
    """The certificate authority of the issuer's server, when it is not a public one."""
    proxy: str = Field(default="", repr=False)
    unsafe_plain_http: bool = False
    """Take keys over http:// from another host. Whoever can change them on the way can be anybody."""
    keys_fresh_seconds: int = Field(default=600, ge=10, le=86_400)
    """After this the keys are fetched again: a withdrawn key counts no longer."""
    keys_stale_seconds: int = Field(default=3600, ge=0, le=86_400)
    """How much longer fetched keys serve while the issuer does not answer."""
    client_id: str = ""
    """Set it, and people can sign in with a browser (authorization code with PKCE, RFC 7636)."""
    client_secret_file: Path | None = None
    scopes: tuple[str, ...] = ("openid", "profile", "groups")


class SamlSettings(Section):
    """A SAML 2.0 identity provider whose responses are taken."""

    entity_id: str = Field(min_length=1, max_length=700)
    certificates: tuple[Path, ...] = Field(min_length=1, max_length=10)
    """PEM files of the certificates it signs with; several while it changes them."""
    audience: str = Field(min_length=1)
    """Hoop's own entity id, which the assertion must be meant for."""
    acs_url: str = ""
    """Where responses are posted to; <public_url>/hoop/sso/saml when empty."""
    sso_url: str = ""
    """Its HTTP-Redirect address; set it, and people can sign in with a browser."""
    native_sso_url: str = ""
    """For drivers that sign in to Okta themselves: the application's embed link."""
    allow_unsolicited: bool = False
    """Take responses that nobody asked for; `native_sso_url` needs it."""
    subject_attribute: str = ""
    """The attribute that names the person for good; the NameID when empty."""
    groups_attribute: str = "groups"
    group_prefix: str = ""
    group_names: dict[str, str] = Field(default_factory=dict)
    name_attribute: str = ""
    claims: tuple[str, ...] = Field(default=(), max_length=20)
    leeway_seconds: int = Field(default=30, ge=0, le=300)
    max_age_seconds: int = Field(default=3600, ge=60)
    """How long ago the person may have proven themselves to the provider (`AuthnInstant`)."""


class SignInSettings(Section):
    failures_per_minute: int = Field(default=60, ge=0)
    """Failed sign-ins of one client address, then it has to wait; 0: no limit."""
    issuer_failures_per_minute: int = Field(default=600, ge=0)
    """The same for one issuer: then addresses that failed lately have to wait; 0: no limit."""
    logged_per_minute: int = Field(default=60, ge=1)
    """Refusals that get an entry of their own; the others of that minute are counted in one."""
    browser_seconds: int = Field(default=300, ge=30, le=1800)
    """How long a sign-in with a browser may take."""
