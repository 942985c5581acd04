# SPDX-License-Identifier: Apache-2.0
"""Records that another release wrote: told from those that do not exist, and never made anew."""

import hashlib
import json
import os

from pki import spiffe
from test_restore import backup, confirm, empty_store, load, restore


def seal(server, document):
    """As kekd does it, by the key in the token."""
    plain = {n: v for n, v in document.items() if n not in ("seal", "signature")}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    digest = hashlib.sha256(b"kekd-backup-1\0" + len(text).to_bytes(4, "big") + text).digest()
    source, made = server.path("digest"), server.path("hmac")
    for path, content in ((source, digest), (made, b"")):
        with open(path, "wb") as f:
            f.write(content)
        os.chmod(path, 0o666)
    server.pkcs11_tool("--sign", "--mechanism", "SHA256-HMAC", "--input-file", source,
                       "--output-file", made, "--id", document["seal"]["key"].replace("-", ""))
    with open(made, "rb") as f:
        document["seal"]["hmac"] = f.read().hex()


def test_a_record_that_another_release_wrote_is_no_missing_one_and_is_not_made_anew(own):
    with own.http("admin-1") as admin:
        admin.create_key("plain")
    path = backup(own)
    document = load(path)
    for record in document["records"]:
        if record["path"] in ("keys/demo", "clients/app"):
            record["body"]["of-a-later-release"] = True
    seal(own, document)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(document, f)
    own.stop()
    empty_store(own)
    restore(own, path)
    own.start()
    confirm(own)
    assert "record keys/demo" in own.log() and "written by another release" in own.log()
    client = {"identities": ["uri:" + spiffe("app")], "grants": []}
    with own.http("admin-1") as admin, own.http("app") as app:
        etag = admin.ok("GET", "/v1/keys/plain").etag
        for reply in (admin.get("/v1/keys/demo"),
                      admin.call("POST", "/v1/keys", {"name": "demo"}, create=True),
                      admin.call("POST", "/v1/keys/demo/rotate", {}, etag=etag),
                      admin.call("POST", "/v1/keys/demo/adopt", {}, create=True),
                      admin.get("/v1/clients/app"),
                      admin.call("DELETE", "/v1/clients/app", etag=etag),
                      admin.call("PUT", "/v1/clients/app", client, create=True)):
            assert (reply.status, reply.code) == (503, "record_refused"), reply
            assert "another release" in reply.json["detail"]
        assert admin.get("/v1/keys/none").code == "key_not_found"
        assert app.get("/v1/whoami").status in (401, 403)
        assert admin.key("plain")["refused"] is False
    for kind, name in (("key", "demo"), ("client", "app")):
        told = own.kekctl(kind, "show", name, status=7).stderr
        assert b"another release" in told
