"""The request that a browser takes to a SAML identity provider (SAML Bindings 2.0 section 3.4)."""

from __future__ import annotations

import base64
import zlib
from datetime import UTC, datetime
from urllib.parse import urlencode

from lxml import etree  # type: ignore[import-untyped]

from hoop_core.identity.saml import SamlProvider
from hoop_core.identity.saml_document import SAML, SAMLP


def authn_request_url(
    provider: SamlProvider, request_id: str, relay_state: str, *, anew: bool = False
) -> str:
    """Where to send the browser. `request_id` is an XML id; the response has to answer it.

    `anew`: the provider shall ask the person again, whatever it knows (ForceAuthn).
    """
    settings = provider.settings
    root = etree.Element(f"{SAMLP}AuthnRequest", nsmap={"samlp": SAMLP[1:-1], "saml": SAML[1:-1]})
    for name, value in {
        "ID": request_id,
        "Version": "2.0",
        "IssueInstant": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "Destination": settings.sso_url,
        "AssertionConsumerServiceURL": provider.acs_url,
        "ProtocolBinding": "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST",
        **({"ForceAuthn": "true"} if anew else {}),
    }.items():
        root.set(name, value)
    etree.SubElement(root, f"{SAML}Issuer").text = settings.audience
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(etree.tostring(root)) + packer.flush()
    query = urlencode({"SAMLRequest": base64.b64encode(packed).decode(), "RelayState": relay_state})
    return settings.sso_url + ("&" if "?" in settings.sso_url else "?") + query
