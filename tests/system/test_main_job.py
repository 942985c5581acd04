# SPDX-License-Identifier: Apache-2.0
"""Wrap and unwrap under a KEK that lives in the token: the whole data plane."""

import os
import uuid

from kekd import b64, unb64

HEADER = bytes.fromhex("6b656b01")


def header(blob):
    return blob[:4], uuid.UUID(bytes=blob[4:20]), blob[20], blob[21]


def test_what_was_wrapped_unwraps_to_the_same_bytes(app):
    for size in (1, 16, 32, 333, 4096):
        plaintext = os.urandom(size)
        blob = app.wrap(plaintext)
        assert app.unwrap(blob) == plaintext
        assert plaintext not in blob or size < 4


def test_a_blob_has_the_documented_layout(app, admin):
    version = admin.key()["versions"][-1]
    blob = app.wrap(b"x" * 32)
    magic, number, algorithm, iv_length = header(blob)
    assert magic == HEADER
    assert str(number) == version["id"]
    assert algorithm == 1
    assert iv_length == 12
    assert len(blob) == 22 + 12 + 32 + 16


def test_every_wrap_has_an_iv_of_its_own(app):
    ivs = {app.wrap(b"same")[22:34] for _ in range(50)}
    assert len(ivs) == 50


def test_wrap_names_the_version_that_it_used(app, admin):
    key = admin.key()
    reply = app.ok("POST", "/v1/keys/demo/wrap", {"plaintext": b64(b"x")}).json
    assert reply["key"] == "demo"
    assert reply["version"] == key["primary"]
    assert reply["version_id"] == key["versions"][key["primary"] - 1]["id"]


def test_the_context_is_authenticated_and_its_order_does_not_matter(app):
    blob = app.wrap(b"secret", context={"tenant": "a", "row": "7", "é": "ü"})
    assert app.unwrap(blob, context={"é": "ü", "row": "7", "tenant": "a"}) == b"secret"
    for wrong in (None, {}, {"tenant": "a", "row": "7"}, {"tenant": "b", "row": "7", "é": "ü"},
                  {"tenant": "a", "row": "7", "é": "ü", "x": ""}, {"tenanta": "", "row": "7"}):
        reply = app.try_unwrap(blob, context=wrong)
        assert (reply.status, reply.code) == (400, "unwrap_failed"), wrong


def test_no_context_and_an_empty_context_are_the_same(app):
    assert app.unwrap(app.wrap(b"x"), context={}) == b"x"
    assert app.unwrap(app.wrap(b"x", context={})) == b"x"


def test_pairs_cannot_be_shifted_between_name_and_value(app):
    blob = app.wrap(b"x", context={"ab": "c"})
    assert app.try_unwrap(blob, context={"a": "bc"}).code == "unwrap_failed"


def test_generate_hands_out_a_data_key_and_its_blob(app):
    seen = set()
    for size in (1, 16, 32, 64, 4096):
        reply = app.ok("POST", "/v1/keys/demo/generate", {"bytes": size, "context": {"a": "b"}})
        key = unb64(reply.json["plaintext"])
        assert len(key) == size
        assert app.unwrap(unb64(reply.json["ciphertext"]), context={"a": "b"}) == key
        seen.add(key)
    assert len(seen) == 5


def test_generate_without_plaintext_keeps_it_inside(app):
    reply = app.ok("POST", "/v1/keys/demo/generate", {"plaintext": False}).json
    assert "plaintext" not in reply
    assert len(app.unwrap(unb64(reply["ciphertext"]))) == 32


def test_unwrap_without_plaintext_only_tells_that_it_works(app):
    reply = app.try_unwrap(app.wrap(b"secret"), plaintext=False)
    assert reply.status == 200
    assert "plaintext" not in reply.json


def test_a_batch_answers_each_item_for_itself_and_in_order(app):
    plain = [os.urandom(32) for _ in range(200)]
    items = [{"plaintext": b64(p), "context": {"n": str(i)}} for i, p in enumerate(plain)]
    wrapped = app.ok("POST", "/v1/keys/demo/wrap", {"items": items}).json["items"]
    assert len(wrapped) == 200
    back = [{"ciphertext": w["ciphertext"], "context": {"n": str(i)}}
            for i, w in enumerate(wrapped)]
    back[3]["context"] = {"n": "4"}
    back[5]["ciphertext"] = "!"
    out = app.ok("POST", "/v1/keys/demo/unwrap", {"items": back}).json["items"]
    assert out[3]["error"]["code"] == "unwrap_failed"
    assert out[5]["error"]["code"] == "invalid_base64"
    for i, p in enumerate(plain):
        if i not in (3, 5):
            assert unb64(out[i]["plaintext"]) == p


def test_a_batch_takes_a_thousand_items(app):
    items = [{"bytes": 32} for _ in range(1000)]
    made = app.ok("POST", "/v1/keys/demo/generate", {"items": items}).json["items"]
    blobs = [{"ciphertext": m["ciphertext"]} for m in made]
    out = app.ok("POST", "/v1/keys/demo/unwrap", {"items": blobs}).json["items"]
    assert [o["plaintext"] for o in out] == [m["plaintext"] for m in made]


def test_a_rotation_makes_a_new_primary_and_old_blobs_still_unwrap(app, admin):
    admin.create_key("turn")
    old = app.wrap(b"before", "turn")
    key = admin.rotate("turn")
    assert key["primary"] == 2 and key["previous"] == 1
    assert [v["state"] for v in key["versions"]] == ["enabled", "enabled"]
    new = app.wrap(b"after", "turn")
    assert header(old)[1] != header(new)[1]
    assert app.unwrap(old, "turn") == b"before"
    assert app.unwrap(new, "turn") == b"after"
    reply = app.try_unwrap(old, "turn").json
    assert reply["version"] == 1 and reply["primary"] is False
    reply = app.try_unwrap(new, "turn").json
    assert reply["version"] == 2 and reply["primary"] is True


def test_rewrap_moves_a_blob_to_the_primary_and_says_whether_it_was_there(app, admin):
    admin.create_key("move")
    old = app.wrap(b"dek", "move", context={"a": "1"})
    admin.rotate("move")
    body = {"ciphertext": b64(old), "context": {"a": "1"}, "new_context": {"a": "2"}}
    reply = app.ok("POST", "/v1/keys/move/rewrap", body).json
    assert reply["version"] == 2 and reply["already_primary"] is False
    assert "plaintext" not in reply
    moved = unb64(reply["ciphertext"])
    assert app.unwrap(moved, "move", context={"a": "2"}) == b"dek"
    body = {"ciphertext": b64(moved), "context": {"a": "2"}}
    reply = app.ok("POST", "/v1/keys/move/rewrap", body).json
    assert reply["already_primary"] is True
    assert app.unwrap(unb64(reply["ciphertext"]), "move", context={"a": "2"}) == b"dek"


def test_wrap_may_name_the_primary_or_the_one_before_it(app, admin):
    ids = [admin.create_key("named").json["versions"][0]["id"]]
    ids += [admin.rotate("named")["versions"][n]["id"] for n in (1, 2)]
    for wanted in ids[2], ids[1]:
        blob = app.wrap(b"x", "named", version_id=wanted)
        assert str(header(blob)[1]) == wanted
        assert app.unwrap(blob, "named") == b"x"
    body = {"plaintext": b64(b"x"), "version_id": ids[0]}
    reply = app.call("POST", "/v1/keys/named/wrap", body)
    assert (reply.status, reply.code) == (409, "version_not_primary")
    body["version_id"] = str(uuid.uuid4())
    assert app.call("POST", "/v1/keys/named/wrap", body).code == "version_not_found"


def test_a_version_can_lie_in_another_token_and_old_blobs_unwrap(make_server):
    server = make_server(tokens=("main", "second")).init().start().populate()
    with server.http("admin-1") as admin, server.http("app") as app:
        old = app.wrap(b"in the first")
        key = admin.change("demo", "rotate", {"token": "second"}).json
        assert [v["token"] for v in key["versions"]] == ["main", "second"]
        new = app.wrap(b"in the second")
        assert app.unwrap(old) == b"in the first"
        assert app.unwrap(new) == b"in the second"
    objects = server.pkcs11_tool("--list-objects", "--type", "secrkey", token="second")
    assert "kekd:test:demo:v2" in objects


def test_rewrap_moves_a_blob_from_one_token_to_another(make_server):
    server = make_server(tokens=("main", "second")).init().start().populate()
    with server.http("admin-1") as admin, server.http("app") as app:
        old = app.wrap(b"in the first", context={"a": "b"})
        admin.change("demo", "rotate", {"token": "second"})
        body = {"ciphertext": b64(old), "context": {"a": "b"}}
        reply = app.ok("POST", "/v1/keys/demo/rewrap", body).json
        assert reply["version"] == 2 and reply["already_primary"] is False
        assert app.unwrap(unb64(reply["ciphertext"]), context={"a": "b"}) == b"in the first"
    assert b"in the first" not in b"\n".join(server.audit_lines())


def test_the_kek_is_born_in_the_token_and_never_leaves(server, admin):
    admin.create_key("held")
    listing = server.pkcs11_tool("--list-objects", "--type", "secrkey")
    parts = [p for p in listing.split("Secret Key Object") if "kekd:test:held:v1" in p]
    assert len(parts) == 1
    for word in ("sensitive", "always sensitive", "never extractable", "local"):
        assert word in parts[0].replace("never extractable", "never extractable, "), parts[0]
    version = admin.key("held")["versions"][0]
    assert version["id"].replace("-", "") in parts[0]
    held = {"sensitive", "always_sensitive", "never_extractable", "local", "not_extractable"}
    assert held <= set(version["attributes"])


def test_without_session_copies_the_answers_are_the_same(make_server):
    """Many workers and sessions, so that every way to a key's object is gone."""
    server = make_server(workers=3, sessions=2).init().start().populate()
    with server.http("app") as app, server.http("admin-1") as admin:
        blobs = []
        for _ in range(4):
            blobs += [app.wrap(bytes([i])) for i in range(20)]
            admin.rotate()
        for n, blob in enumerate(blobs):
            assert app.unwrap(blob) == bytes([n % 20])
