"""Uploads by the connector's storage clients: each cloud's own requests, encrypted as Snowflake wants it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from snowflake.connector.encryption_util import EncryptionMetadata, SnowflakeEncryptionUtil
from snowflake.connector.session_manager import SessionManager
from snowflake.connector.storage_client import SnowflakeFileEncryptionMaterial
from snowflake.connector.vendored.requests.exceptions import ConnectionError as Broken

from hoop_core.errors import SnowflakeUnavailable
from hoop_core.snowflake import stage_storage
from hoop_core.snowflake.stage_storage import send

KEY = base64.b64encode(b"0123456789abcdef").decode()
MATERIAL = {"queryStageMasterKey": KEY, "queryId": "q", "smkId": 7}
CONTENT = b"one,two\n" * 1000
S3 = {
    "locationType": "S3", "location": "sfc-bucket/stages/x/", "region": "eu-west-1", "endPoint": None,
    "creds": {"AWS_KEY_ID": "AKIA-ID", "AWS_SECRET_KEY": "aws-secret", "AWS_TOKEN": "aws-token"},
}  # fmt: skip
AZURE = {
    "locationType": "AZURE", "location": "container/stages/x/", "storageAccount": "acc", "region": "west",
    "endPoint": "blob.core.windows.net", "creds": {"AZURE_SAS_TOKEN": "?sig=azure-secret"},
}  # fmt: skip
GCS = {
    "locationType": "GCS", "location": "bucket/stages/x/", "region": "eu", "endPoint": None,
    "creds": {"GCS_ACCESS_TOKEN": "gcs-secret"},
}  # fmt: skip
PRESIGNED = {**GCS, "creds": {}, "presignedUrl": "http://store.example/x?sig=presigned-secret"}


@dataclass
class Answer:
    status_code: int
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    reason: str = ""
    content: bytes = b""

    def raise_for_status(self) -> None:
        if self.status_code >= 400:
            raise RuntimeError(f"{self.status_code} for ?sig=azure-secret")


@dataclass
class Cloud:
    """Stands for all three: notes what it is sent; nothing is there yet."""

    status: int = 200
    breaks: bool = False
    requests: list[tuple[str, str, dict[str, Any], bytes]] = field(default_factory=list)

    def __getattr__(self, verb: str) -> Any:
        def call(url: Any, headers: Any = None, data: Any = b"", **_: Any) -> Answer:
            if self.breaks:
                raise Broken(f"cannot reach {url}")
            given = {k.lower(): v for k, v in (headers or {}).items()}
            text = url.decode() if isinstance(url, bytes) else url
            self.requests.append((verb.upper(), text, given, bytes(data or b"")))
            if verb == "head":
                return Answer(404)
            if verb == "post":
                return Answer(200, text="<R><a/><b/><c>upload-1</c></R>", content=b"<R><a/><b/><c>upload-1</c></R>")  # fmt: skip
            return Answer(self.status, {"ETag": "e"})

        return call

    @property
    def sent(self) -> tuple[str, dict[str, Any], bytes]:
        [(url, headers, body)] = [r[1:] for r in self.requests if r[0] == "PUT"]
        return url, headers, body


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    made = Cloud()

    @contextmanager
    def use_session(*_: Any, **__: Any) -> Iterator[Cloud]:
        yield made

    monkeypatch.setattr(SessionManager, "use_session", use_session)
    monkeypatch.setattr("snowflake.connector.storage_client.time.sleep", lambda _seconds: None)
    return made


def answer(stage: dict[str, Any], material: dict[str, Any] | None = None) -> dict[str, Any]:
    data = {"command": "UPLOAD", "stageInfo": stage, "src_locations": ["x"], "parallel": 4}
    return {"data": data | ({"encryptionMaterial": material} if material else {})}


def decrypted(body: bytes, key: str, iv: str) -> bytes:
    plain = io.BytesIO()
    SnowflakeEncryptionUtil.decrypt_stream(
        EncryptionMetadata(key, iv, ""), SnowflakeFileEncryptionMaterial(KEY, "q", 7), io.BytesIO(body), plain
    )  # fmt: skip
    return plain.getvalue()


def test_s3_gets_a_signed_request_and_what_only_the_stages_key_opens(cloud: Cloud) -> None:
    send(answer(S3, MATERIAL), "a.csv", io.BytesIO(CONTENT))
    url, headers, body = cloud.sent
    assert url == "https://sfc-bucket.s3.amazonaws.com/stages/x/a.csv"
    assert "AWS4-HMAC-SHA256 Credential=AKIA-ID" in str(headers["authorization"])
    assert headers["x-amz-security-token"] == "aws-token"
    key, iv = headers["x-amz-meta-x-amz-key"], headers["x-amz-meta-x-amz-iv"]
    assert CONTENT not in body and decrypted(body, key, iv) == CONTENT


def test_azure_gets_its_token_and_the_digest(cloud: Cloud) -> None:
    cloud.status = 201
    send(answer(AZURE, MATERIAL), "a.csv", io.BytesIO(CONTENT))
    url, headers, body = cloud.sent
    assert url == "https://acc.blob.core.windows.net/container/stages/x/a.csv?sig=azure-secret"
    told = json.loads(headers["x-ms-meta-encryptiondata"])
    key, iv = told["WrappedContentKey"]["EncryptedKey"], told["ContentEncryptionIV"]
    assert decrypted(body, key, iv) == CONTENT
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    assert headers["x-ms-meta-sfcdigest"] == digest


@pytest.mark.parametrize("stage", [GCS, PRESIGNED])
def test_google_gets_a_token_or_has_signed_the_address(cloud: Cloud, stage: dict[str, Any]) -> None:
    send(answer(stage, MATERIAL), "a.csv", io.BytesIO(CONTENT))
    url, headers, body = cloud.sent
    if stage is GCS:
        assert url == "https://storage.googleapis.com/bucket/stages/x/a.csv"
        assert headers["authorization"] == "Bearer gcs-secret"
    else:
        assert url == PRESIGNED["presignedUrl"] and "authorization" not in headers
    told = json.loads(headers["x-goog-meta-encryptiondata"])
    key, iv = told["WrappedContentKey"]["EncryptedKey"], told["ContentEncryptionIV"]
    assert decrypted(body, key, iv) == CONTENT


@pytest.mark.parametrize("stage", [S3, AZURE, GCS])
def test_a_stage_that_encrypts_itself_gets_the_file_as_it_is(
    cloud: Cloud, stage: dict[str, Any]
) -> None:
    content = io.BytesIO(CONTENT)
    content.seek(0, io.SEEK_END)  # where whoever wrote it has left off
    send(answer(stage), "a.csv", content)
    assert cloud.sent[2] == CONTENT


def test_a_large_file_goes_in_pieces(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_storage, "_MULTIPART_BYTES", 1 << 20)
    content = os.urandom(20 << 20)
    cloud.status = 201
    send(answer(AZURE), "a.bin", io.BytesIO(content))
    pieces = [r for r in cloud.requests if r[0] == "PUT" and "comp=block&" in r[1]]
    assert len(pieces) > 1 and b"".join(p[3] for p in pieces) == content
    assert "comp=blocklist" in cloud.requests[-1][1]


@pytest.mark.parametrize("stage", [S3, AZURE, GCS, PRESIGNED])
@pytest.mark.parametrize("how", ["refused", "broken"])
def test_a_failure_tells_no_secret_and_leaves_no_file(
    cloud: Cloud, stage: dict[str, Any], how: str, caplog: pytest.LogCaptureFixture, tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cloud.status, cloud.breaks = (403, False) if how == "refused" else (200, True)
    with caplog.at_level(logging.DEBUG), pytest.raises(SnowflakeUnavailable) as e:
        send(answer(stage, MATERIAL), "a.csv", io.BytesIO(CONTENT))
    told = f"{e.value} {e.value.__cause__} {caplog.text}"
    assert not re.search(r"secret|aws-token|AKIA|sig=|" + re.escape(KEY), told)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"data": None},
        {"data": {"stageInfo": None}},
        answer({"locationType": "LOCAL_FS", "location": "/etc", "creds": {}}),
        answer({"locationType": "FTP", "location": "x", "creds": {}}),
        answer({"locationType": "S3"}),
    ],
)
def test_an_answer_that_names_no_cloud_is_an_error(cloud: Cloud, given: dict[str, Any]) -> None:
    with pytest.raises(SnowflakeUnavailable):
        send(given, "a.csv", io.BytesIO(CONTENT))
    assert cloud.requests == []
