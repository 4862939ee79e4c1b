"""Uploads to the storage behind a Snowflake stage, by the storage clients of Snowflake's own connector.

They know how each cloud is spoken to, how files are encrypted with the stage's master key, and which requests
are worth another try. They are given the answer to a PUT and a file, and nothing of the gateway's beside it.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import IO, Any

from snowflake.connector.constants import LOCAL_FS, ResultStatus
from snowflake.connector.encryption_util import SnowflakeEncryptionUtil
from snowflake.connector.file_transfer_agent import SnowflakeFileTransferAgent
from snowflake.connector.storage_client import SnowflakeStorageClient

from hoop_core.errors import SnowflakeUnavailable
from hoop_core.model import Json

_MULTIPART_BYTES = 32 << 20
"""Larger files are sent in pieces where the cloud can take them: less of them in memory at once."""
_TALKATIVE = (
    "azure_storage_client", "encryption_util", "file_transfer_agent", "file_util",
    "gcs_storage_client", "ocsp_snowflake", "s3_storage_client", "session_manager",
    "ssl_wrap_socket", "storage_client", "vendored.urllib3.connectionpool", "vendored.urllib3.util.retry",
)  # fmt: skip
_here = threading.local()


class _Quiet(logging.Filter):
    """What the storage clients log has addresses with signatures in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_here, "quiet", False)


for _name in _TALKATIVE:
    logging.getLogger(f"snowflake.connector.{_name}").addFilter(_Quiet())


class _Connection:
    """What the storage clients want of a connection: nothing that could reach Snowflake."""

    def cursor(self) -> _Cursor:
        return _Cursor()


class _Cursor:
    connection = None
    _connection = _Connection()

    def _execute_helper(self, *_: Any, **__: Any) -> Json:
        raise SnowflakeUnavailable("The permission to write to the stage has ended.", "Try again.")


def send(answer: Mapping[str, Any], name: str, content: IO[bytes]) -> None:
    """Put `content` (from its beginning) as the file `name` where the answer to a PUT says. Blocks.

    Raises SnowflakeUnavailable; whether the file is there is then not known.
    """
    try:
        with _quietly():
            client = _client(answer, name, content)
            try:
                _upload(client, content)
            finally:
                client.delete_client_data()
    except SnowflakeUnavailable:
        raise
    except Exception as e:  # its text may hold addresses with signatures
        raise SnowflakeUnavailable(
            f"The file cannot be written to Snowflake's stage ({type(e).__name__}).", "Try again."
        ) from None


@contextmanager
def _quietly() -> Iterator[None]:
    _here.quiet = True
    try:
        yield
    finally:
        _here.quiet = False


def _client(answer: Mapping[str, Any], name: str, content: IO[bytes]) -> SnowflakeStorageClient:
    """The client for the cloud that the answer names."""
    data = answer.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("stageInfo"), dict):
        raise SnowflakeUnavailable("Snowflake does not say where the stage is.", "Try again.")
    if str(data["stageInfo"].get("locationType")).upper() == LOCAL_FS:
        # a path of the server would be taken for one of this machine
        raise SnowflakeUnavailable("The stage is on Snowflake's own disk, which is not served.")
    as_it_is = {
        "command": "UPLOAD", "src_locations": [name], "parallel": 1, "autoCompress": False,
        "sourceCompression": "none", "overwrite": True,
    }  # fmt: skip
    agent: Any = SnowflakeFileTransferAgent(
        _Cursor(),  # type: ignore[arg-type]
        "",
        {"data": {**data, **as_it_is}},
        source_from_stream=content,
        force_put_overwrite=True,
        multipart_threshold=_MULTIPART_BYTES,
    )
    agent._parse_command()
    agent._init_file_metadata()
    agent._process_file_compression_type()
    (meta,) = agent._file_metadata
    meta.sfagent, meta.overwrite, meta.multipart_threshold = agent, True, _MULTIPART_BYTES
    agent._transfer_accelerate_config()
    client: SnowflakeStorageClient = agent._create_file_transfer_client(meta)
    # the connector encrypts streams into memory
    client.encrypt = partial(_encrypt_on_disk, client, content)  # type: ignore[method-assign]
    return client


def _encrypt_on_disk(client: SnowflakeStorageClient, content: IO[bytes]) -> None:
    meta = client.meta
    if meta.encryption_material is None:
        raise SnowflakeUnavailable("The stage has no key to encrypt with.")
    encrypted = tempfile.TemporaryFile()  # noqa: SIM115  the client closes it
    content.seek(0)
    client.encryption_metadata = SnowflakeEncryptionUtil.encrypt_stream(
        meta.encryption_material, content, encrypted
    )
    meta.upload_size = encrypted.tell()
    encrypted.seek(0)
    meta.src_stream = encrypted
    client.data_file = meta.real_src_file_name


def _upload(client: SnowflakeStorageClient, content: IO[bytes]) -> None:
    client.prepare_upload()
    for chunk in range(client.num_of_chunks):
        (client.meta.src_stream or content).seek(0)
        client.upload_chunk(chunk)
        client.successful_transfers += 1
    client.finish_upload()
    if client.meta.result_status is not ResultStatus.UPLOADED:
        raise SnowflakeUnavailable("The file did not reach Snowflake's stage.", "Try again.")
