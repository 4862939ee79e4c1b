"""The form of a recording that is encrypted at rest: authenticated pieces, in order, to the last.

    magic (8 bytes) · salt (32) · nonce prefix (7) · pieces

Each piece is 64 KiB of what was recorded (the last one may be shorter), encrypted by AES-256-GCM: 16 bytes
longer. Its nonce is prefix · number of the piece (4 bytes) · 1 for the last piece, else 0. So a piece that is missing,
exchanged, repeated or cut off is found, and so is a file that ends early. The file's own key comes of the data key by
HKDF-SHA-256 over the salt, with the file's path as context: a file under another name does not open.

This is the STREAM construction (https://eprint.iacr.org/2015/189) with the derivation of Tink's streaming AEAD
(https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hoop_core.errors import EvidenceError

MAGIC = b"HOOPREC\x01"
PIECE = 64 << 10
_SALT, _PREFIX, _TAG = 32, 7, 16
_HEADER = len(MAGIC) + _SALT + _PREFIX
_MOST_PIECES = 2**32


class Sealer:
    """Encrypts one file as it is written. Use each for one file only."""

    def __init__(self, key: bytes, path: str) -> None:
        salt, self._prefix = os.urandom(_SALT), os.urandom(_PREFIX)
        self._header = MAGIC + salt + self._prefix
        self._cipher = _cipher(key, salt, path)
        self._held = b""
        self._number = 0

    def seal(self, content: bytes) -> bytes:
        """What is ready to be stored once `content` has come; at least one byte is held back for the end."""
        out, self._header = [self._header], b""
        waiting, at = self._held + content, 0
        while len(waiting) - at > PIECE:
            out.append(self._piece(waiting[at : at + PIECE], last=False))
            at += PIECE
        self._held = waiting[at:]
        return b"".join(out)

    def end(self) -> bytes:
        """The rest of the file."""
        return self._header + self._piece(self._held, last=True)

    def _piece(self, content: bytes, *, last: bool) -> bytes:
        sealed = self._cipher.encrypt(_nonce(self._prefix, self._number, last=last), content, None)
        self._number += 1
        return sealed


def opened(key: bytes, path: str, content: bytes) -> bytes:
    """What was sealed under `path`. Raises EvidenceError for anything but the whole file as it was written."""
    if len(content) < _HEADER + _TAG or not content.startswith(MAGIC):
        raise EvidenceError(f"The recording {path} is not an encrypted one.")
    salt = content[len(MAGIC) : len(MAGIC) + _SALT]
    prefix = content[len(MAGIC) + _SALT : _HEADER]
    try:
        return b"".join(_pieces(_cipher(key, salt, path), prefix, content[_HEADER:]))
    except InvalidTag:
        raise EvidenceError(
            f"The recording {path} does not open: it was changed, cut off or renamed, or the key is another.",
            "Run `hoop audit verify`, which says whether it is the file that was written.",
        ) from None


def _pieces(cipher: AESGCM, prefix: bytes, body: bytes) -> Iterator[bytes]:
    step = PIECE + _TAG
    for number, at in enumerate(range(0, len(body), step)):
        last = at + step >= len(body)
        yield cipher.decrypt(_nonce(prefix, number, last=last), body[at : at + step], None)


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    if number >= _MOST_PIECES:
        raise EvidenceError("A recording has more pieces than can be told apart.")
    return prefix + number.to_bytes(4, "big") + (b"\x01" if last else b"\x00")


def _cipher(key: bytes, salt: bytes, path: str) -> AESGCM:
    info = b"hoop-recording/1 " + path.encode()
    return AESGCM(HKDF(SHA256(), length=32, salt=salt, info=info).derive(key))
