"""What a PUT is answered with, and what Hoop itself PUTs for it."""

from __future__ import annotations

from dataclasses import replace

from hoop_core.audit.log import utc_now
from hoop_core.model import Json
from hoop_core.sql.loading import Put

_GZIP = b"\x1f\x8b"
_COMPRESSED = (".gz", ".bz2", ".br", ".zst", ".deflate", ".raw_deflate", ".lzo", ".snappy")


def name_of(put: Put, head: bytes, digest: str) -> str:
    """Under which name the file is kept: what the driver calls it, which it tells nobody but in the PUT.

    Drivers compress files that are not, and then add `.gz`. Where one statement names many files and the
    driver does not ask for each, they are called by what is in them.
    """
    packed = head.startswith(_GZIP)
    if put.of_many:
        return digest + (".gz" if packed else "")
    adds = put.option("AUTO_COMPRESS", "TRUE") == "TRUE" and put.option(
        "SOURCE_COMPRESSION", "AUTO_DETECT"
    ) in ("AUTO_DETECT", "NONE")
    if packed and adds and not put.name.lower().endswith(_COMPRESSED):
        return put.name + ".gz"
    return put.name


def own_put(put: Put, name: str) -> Put:
    """What Hoop itself asks Snowflake for. It knows what the stage holds, so it may overwrite."""
    options = (("AUTO_COMPRESS", "FALSE"), ("SOURCE_COMPRESSION", "NONE"), ("OVERWRITE", "TRUE"))
    return replace(put, file=name, options=options)


def request(text: str, tag: str, number: int) -> Json:
    """The query-request of a PUT of Hoop's own."""
    return {
        "sqlText": text,
        "asyncExec": False,
        "sequenceId": number,
        "querySubmissionTime": int(utc_now().timestamp() * 1000),
        "describeOnly": False,
        "parameters": {"MULTI_STATEMENT_COUNT": 1, "QUERY_TAG": tag},
    }


def answer_data(put: Put, url: str, query_id: str | None) -> Json:
    """What drivers read of the answer to a PUT. Of the kinds of storage, only Google's takes a plain upload
    to an address that the server gives; drivers ask for the address of each file by a PUT of its own.
    """
    stage: Json = {
        "locationType": "GCS",
        "location": "hoop/",
        "path": "",
        "region": "",
        "storageAccount": None,
        "isClientSideEncrypted": False,
        "creds": {},
        "presignedUrl": url,
        "endPoint": None,
    }
    return {
        "command": "UPLOAD",
        "operation": "Node",
        "kind": None,
        "src_locations": [put.file],
        "parallel": max(1, min(int(put.option("PARALLEL", "4")), 16)),
        "threshold": 209_715_200,
        "autoCompress": put.option("AUTO_COMPRESS", "TRUE") == "TRUE",
        "sourceCompression": put.option("SOURCE_COMPRESSION", "AUTO_DETECT").lower(),
        "overwrite": put.option("OVERWRITE", "FALSE") == "TRUE",
        "clientShowEncryptionParameter": False,
        "encryptionMaterial": None,
        "stageInfo": stage,
        "uploadInfo": stage,
        "localLocation": None,
        "queryId": query_id,
    }
