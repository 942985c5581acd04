#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Computes every vector of doc/formats/vectors.json anew, from doc/formats/blob.md alone."""

import base64
import json
import os
import pathlib
import struct
import sys
import uuid

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    print("python3-cryptography is not installed")
    sys.exit(77)  # automake: skipped

HEADER = 22
TAG = 16


class Refused(Exception):
    pass


def canonical(context):
    if not isinstance(context, dict) or len(context) > 16:
        raise Refused("not an object of up to 16 pairs")
    if not all(k and isinstance(v, str) for k, v in context.items()):
        raise Refused("an empty key, or a value that is no string")
    pairs = sorted((k.encode(), v.encode()) for k, v in context.items())
    if sum(len(k) + len(v) for k, v in pairs) > 4096:
        raise Refused("more than 4096 bytes")
    return b"".join(struct.pack(">I", len(x)) + x for pair in pairs for x in pair)


def wrap(kek, version, iv, plaintext, context):
    header = b"kek\x01" + version.bytes + bytes([1, len(iv)])
    aad = header + canonical(context)
    return aad, header + iv + AESGCM(kek).encrypt(iv, plaintext, aad)


def unwrap(kek, version, blob, context):
    if len(blob) < HEADER or blob[:4] != b"kek\x01" or blob[20] != 1 or blob[21] not in (12, 16):
        raise Refused("not a blob of format 1")
    iv, sealed = blob[HEADER : HEADER + blob[21]], blob[HEADER + blob[21] :]
    if blob[4:20] != version.bytes:
        raise Refused("another version")
    if not 1 <= len(sealed) - TAG <= 4096:
        raise Refused("not 1 to 4096 bytes")
    try:
        return AESGCM(kek).decrypt(iv, sealed, blob[:HEADER] + canonical(context))
    except InvalidTag:
        raise Refused("does not authenticate") from None


def is_refused(function, *args):
    try:
        function(*args)
    except Refused:
        return True
    return False


def check(doc):
    kek, version = bytes.fromhex(doc["kek"]), uuid.UUID(doc["version"])
    for v in doc["vectors"]:
        plaintext, blob = base64.b64decode(v["plaintext"]), base64.b64decode(v["blob"])
        made = wrap(kek, version, bytes.fromhex(v["iv"]), plaintext, v["context"])
        yield v["name"], made == (bytes.fromhex(v["aad"]), blob)
        yield v["name"], unwrap(kek, version, blob, v["context"]) == plaintext
    for v in doc["refused_blobs"]:
        blob = base64.b64decode(v["blob"])
        yield "refused blob: " + v["name"], is_refused(unwrap, kek, version, blob, v["context"])
    for v in doc["refused_contexts"]:
        yield "refused context: " + v["name"], is_refused(canonical, v["context"])


def main():
    source = pathlib.Path(os.environ.get("srcdir", pathlib.Path(__file__).resolve().parent.parent))
    results = list(check(json.loads((source / "doc/formats/vectors.json").read_text("utf-8"))))
    for name, good in results:
        if not good:
            print("differs:", name)
    print(sum(good for _, good in results), "of", len(results), "checks agree")
    return 0 if results and all(good for _, good in results) else 1


if __name__ == "__main__":
    sys.exit(main())
