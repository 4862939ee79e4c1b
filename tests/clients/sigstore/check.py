"""sigstore's own check of inclusion proofs: one JSON object a line on standard input, one verdict a line back."""

import json
import sys
from types import SimpleNamespace

from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore.errors import VerificationError

for line in sys.stdin:
    told = json.loads(line)
    proof = SimpleNamespace(
        log_index=told["seq"],
        tree_size=told["tree_size"],
        root_hash=bytes.fromhex(told["root"]),
        hashes=[bytes.fromhex(h) for h in told["path"]],
    )
    body = told["entry"].encode()
    entry = SimpleNamespace(_inner=SimpleNamespace(inclusion_proof=proof, canonicalized_body=body))
    try:
        verify_merkle_inclusion(entry)
    except VerificationError:
        print("refused")
    else:
        print("verified")
