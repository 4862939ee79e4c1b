"""Stages and the storage behind them.

Like a bucket behind an internal stage on Google Cloud: an address that is signed for one object, uploads by
plain HTTP PUT, and files that the client has encrypted with the stage's master key. What does not decrypt,
or is not what its digest says, is not stored.

https://docs.snowflake.com/en/user-guide/security-encryption-end-to-end (client-side encryption)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from starlette.requests import Request
from starlette.responses import Response

from hoop_core.devstack.emulator.errors import already_exists, no_such_object
from hoop_core.devstack.emulator.sessions import Session

PATH = "/stand-in-storage/stages"
Name = tuple[str, str, str]
_META = "x-goog-meta-"
_MOST_BYTES = 512 << 20
_GONE = "<Error><Code>AccessDenied</Code></Error>"
_BAD = "<Error><Code>InvalidArgument</Code></Error>"


@dataclass(slots=True)
class StageFile:
    content: bytes = field(repr=False)
    loaded: set[tuple[Name, str]] = field(default_factory=set)
    """The tables that it was loaded into, with the digest that it had."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(slots=True, eq=False)
class Stage:
    """`key` is the master key of the stage's files (AES-128)."""

    shown: str
    format: Mapping[str, Any]
    owner: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    key: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)
    files: dict[str, StageFile] = field(default_factory=dict)

    def below(self, prefix: str) -> dict[str, StageFile]:
        return {p: f for p, f in sorted(self.files.items()) if p.startswith(prefix)}


@dataclass(frozen=True, slots=True)
class PutAnswer:
    """What the answer to a PUT is made of; `path` is below the stage and ends with a slash, or is empty."""

    stage: Stage
    path: str
    put: Mapping[str, Any]


class Stages:
    """All stages of the account. A session's own hide permanent ones of the same name."""

    def __init__(self, url_seconds: int) -> None:
        self._seconds = url_seconds
        self._secret = secrets.token_bytes(32)
        self._lock = threading.RLock()
        self._permanent: dict[Name, Stage] = {}
        self._own: dict[int, dict[Name, Stage]] = {}
        self._formats: dict[int, dict[Name, Mapping[str, Any]]] = {}
        self._of_user: dict[str, Stage] = {}
        self._by_id: dict[str, tuple[Stage, Session]] = {}

    # -- statements -----------------------------------------------------------------------------
    def create(
        self,
        session: Session,
        name: Name,
        format_: Mapping[str, Any],
        *,
        temporary: bool,
        replace: bool,
        if_not_exists: bool,
    ) -> bool:
        """False when IF NOT EXISTS found one, of whatever kind. Raises SqlError 002002."""
        with self._lock:
            among = self._own.setdefault(session.id, {}) if temporary else self._permanent
            there = among.get(name) or (self._permanent.get(name) if if_not_exists else None)
            if there is not None and if_not_exists:
                return False
            if name in among and not replace:
                raise already_exists(".".join(name))
            among[name] = Stage(".".join(name), format_, owner=session.role)
            return True

    def drop(self, session: Session, name: Name, roles: frozenset[str]) -> bool:
        """False when there is none."""
        with self._lock:
            own = self._own.get(session.id, {})
            if name in own:
                del own[name]
                return True
            permanent = self._permanent.get(name)
            if permanent is None or permanent.owner not in roles:
                return False
            del self._permanent[name]
            return True

    def make_format(self, session: Session, name: Name, format_: Mapping[str, Any]) -> None:
        with self._lock:
            self._formats.setdefault(session.id, {})[name] = format_

    def format(self, session: Session, name: Name) -> Mapping[str, Any]:
        with self._lock:
            found = self._formats.get(session.id, {}).get(name)
        if found is None:
            raise no_such_object("File format", ".".join(name))
        return found

    def find(self, session: Session, name: Name | None, roles: frozenset[str]) -> Stage:
        """None is the user's own. Raises SqlError 002003."""
        with self._lock:
            if name is None:
                user = session.user.name
                return self._of_user.setdefault(user, Stage("~", {"TYPE": "CSV"}))
            found = self._own.get(session.id, {}).get(name)
            if found is None:
                found = self._permanent.get(name)
                if found is not None and found.owner not in roles:
                    found = None
            if found is None:
                raise no_such_object("Stage", ".".join(name))
            return found

    def session_ended(self, session: Session) -> None:
        with self._lock:
            for stage in self._own.pop(session.id, {}).values():
                self._by_id.pop(stage.id, None)
            self._formats.pop(session.id, None)
            if session.user.dropped:
                self._of_user.pop(session.user.name, None)

    # -- PUT ------------------------------------------------------------------------------------
    def put_data(
        self, session: Session, answer: PutAnswer, query_id: str, base: str
    ) -> dict[str, Any]:
        """The `data` of the answer to a PUT: where to, with which permission, and with which key."""
        stage, path, put = answer.stage, answer.path, answer.put
        file = str(put["file"])
        with self._lock:
            self._by_id[stage.id] = (stage, session)
        target = f"{path}{file.rsplit('/', 1)[-1]}"
        info: dict[str, Any] = {
            "locationType": "GCS",
            "location": f"stand-in-bucket-{stage.id}/stages/{path}",
            "path": f"stages/{path}",
            "region": "LOCAL",
            "storageAccount": None,
            "isClientSideEncrypted": True,
            "creds": {},
            "presignedUrl": base + self._signed(f"{PATH}/{stage.id}/{quote(target)}"),
            "endPoint": None,
        }
        return {
            "uploadInfo": info,
            "stageInfo": info,
            "src_locations": [file],
            "parallel": put["parallel"],
            "threshold": 209_715_200,
            "autoCompress": put["auto_compress"],
            "overwrite": put["overwrite"],
            "sourceCompression": put["source_compression"],
            "clientShowEncryptionParameter": False,
            "queryId": query_id,
            "encryptionMaterial": {
                "queryStageMasterKey": base64.b64encode(stage.key).decode(),
                "queryId": query_id,
                "smkId": 4711,
            },
            "command": "UPLOAD",
            "kind": None,
            "operation": "Node",
        }

    def _signed(self, path: str) -> str:
        expires = int(time.time()) + self._seconds
        return f"{path}?{urlencode({'Expires': expires, 'Signature': self._sign(path, expires)})}"

    def _sign(self, path: str, expires: int) -> str:
        return hmac.new(self._secret, f"PUT {path}?{expires}".encode(), hashlib.sha256).hexdigest()

    # -- the bucket -----------------------------------------------------------------------------
    async def upload(self, request: Request) -> Response:
        """One object, by its signed address. Everything that is wrong with that gets the same 403."""
        expires = request.query_params.get("Expires", "")
        raw = request.scope["raw_path"].decode("ascii")
        denied = Response(_GONE, 403, media_type="text/xml")
        if not expires.isdigit() or len(expires) > 12 or int(expires) < time.time():
            return denied
        given = request.query_params.get("Signature", "")
        if not hmac.compare_digest(self._sign(raw, int(expires)).encode(), given.encode()):
            return denied
        with self._lock:
            stage, session = self._by_id.get(request.path_params["stage"], (None, None))
        if stage is None or session is None or session.ended or not session.user.usable():
            return denied
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BYTES:
                return Response(_BAD, 413, media_type="text/xml")
        try:
            plain = _decrypted(bytes(body), request.headers, stage.key)
        except (ValueError, KeyError, TypeError):
            return Response(_BAD, 422, media_type="text/xml")
        with self._lock:
            stage.files[request.path_params["file"]] = StageFile(plain)
        return Response(status_code=200)


def _decrypted(body: bytes, headers: Mapping[str, str], key: bytes) -> bytes:
    """The file, if it was encrypted for this stage and is what its digest says. Raises ValueError, KeyError."""
    told = json.loads(headers[_META + "encryptiondata"])
    description = json.loads(headers[_META + "matdesc"])
    if told["EncryptionMode"] != "FullBlob" or int(description["smkId"]) != 4711:
        raise ValueError
    wrapped = base64.b64decode(told["WrappedContentKey"]["EncryptedKey"], validate=True)
    iv = base64.b64decode(told["ContentEncryptionIV"], validate=True)
    file_key = _unpadded(Cipher(algorithms.AES(key), modes.ECB()), wrapped)  # noqa: S305  Snowflake's own scheme
    plain = _unpadded(Cipher(algorithms.AES(file_key), modes.CBC(iv)), body)
    digest = base64.b64encode(hashlib.sha256(plain).digest()).decode()
    if not hmac.compare_digest(digest, headers[_META + "sfc-digest"]):
        raise ValueError
    return plain


def _unpadded(cipher: Cipher[Any], content: bytes) -> bytes:
    decryptor, unpadder = cipher.decryptor(), PKCS7(128).unpadder()
    padded = decryptor.update(content) + decryptor.finalize()
    return unpadder.update(padded) + unpadder.finalize()
