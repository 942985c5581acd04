# SPDX-License-Identifier: Apache-2.0
"""Bad input: a stable code for each, and the server still up."""

import datetime
import json
import os
import socket
import ssl
import uuid

import pytest

from kekd import b64
from pki import Authority, spiffe

DAY = datetime.timedelta(days=1)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def still_up(server, app):
    before = server.family()
    yield
    assert app.unwrap(app.wrap(b"still up")) == b"still up"
    assert server.family() == before


# ---- certificates ----

@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(str(tmp_path_factory.mktemp("stranger") / "ca"), "Test CA")


def expect(server, certificate, code):
    with server.http(certificate=certificate) as h:
        for method, path in (("GET", "/v1/whoami"), ("POST", "/v1/keys/demo/wrap")):
            reply = h.call(method, path, {} if method == "POST" else None)
            assert (reply.status, reply.code) == (401, code)
            assert reply.json["request_id"] and reply.json["title"] and reply.json["detail"]


def test_no_client_certificate(server):
    expect(server, None, "certificate_required")


def test_no_client_certificate_is_refused_before_any_body_is_read(server):
    context = ssl.create_default_context(cafile=server.pki.ca.pem)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        with context.wrap_socket(raw, server_hostname="localhost") as s:
            s.sendall(b"POST /v1/keys/demo/wrap HTTP/1.1\r\nHost: x\r\n"
                      b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
            assert b" 401 " in s.recv(4096)


def test_a_certificate_of_an_unknown_authority(server, stranger):
    expect(server, stranger.issue("app", "URI:" + spiffe("app")), "certificate_untrusted")


def test_a_self_signed_certificate(server, stranger):
    expect(server, stranger.self_signed("app", "URI:" + spiffe("app")), "certificate_untrusted")


def test_an_expired_certificate(server):
    certificate = server.pki.client("old", first=-2 * DAY, last=-1 * DAY)
    expect(server, certificate, "certificate_expired")


def test_a_certificate_that_is_not_yet_valid(server):
    certificate = server.pki.client("early", first=DAY, last=2 * DAY)
    expect(server, certificate, "certificate_not_yet_valid")


def test_a_server_certificate_used_as_a_client(server):
    certificate = server.pki.client("as-client", eku="serverAuth")
    expect(server, certificate, "certificate_purpose")


def test_tls_1_2_is_refused(server):
    context = ssl.create_default_context(cafile=server.pki.ca.pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        with pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(raw, server_hostname="localhost")


def test_bytes_that_are_no_tls(server):
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(1000), b"\x16\x03\x01\xff\xff"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as s:
            s.sendall(rubbish)
            s.settimeout(0.2)
            with pytest.raises((TimeoutError, ConnectionError, AssertionError)):
                assert s.recv(10) == b"never an answer in clear"


# ---- routes, methods, media types ----

@pytest.mark.parametrize("path", [
    "/", "/v1", "/v2/keys", "/v1/keys/", "/v1/keys/demo/", "/v1/keys/demo/fly", "/v1//keys",
    "/v1/keys/demo/versions/1", "/v1/keys/demo/wrap/x", "/v1/" + "a/" * 500])
def test_an_unknown_route(app, path):
    reply = app.get(path)
    assert (reply.status, reply.code) == (404, "not_found")


def test_a_path_that_is_too_long_or_holds_odd_bytes(app):
    for path in ("/v1/keys/%00/wrap", "/v1/keys/a%2Fb/wrap", "/v1/keys/%zz/wrap",
                 "/v1/keys/" + "a" * 2000 + "/wrap", "/v1/keys/..%2fdemo/wrap"):
        reply = app.call("POST", path, {"plaintext": b64(b"x")})
        assert reply.status in (400, 404), path


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "BREW"])
def test_an_unknown_method(app, method):
    reply = app.call(method, "/v1/keys/demo/wrap")
    assert (reply.status, reply.code) == (405, "method_not_allowed")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded",
                                  "application/jsonx", "application/json-patch+json"])
def test_an_unknown_media_type(app, kind):
    headers = {"Content-Type": kind} if kind else {}
    reply = app.raw("POST", "/v1/keys/demo/wrap", b'{"plaintext":"eA=="}', headers)
    assert (reply.status, reply.code) == (415, "unsupported_media_type")


def test_a_media_type_with_a_parameter_is_taken(app):
    reply = app.raw("POST", "/v1/keys/demo/wrap", b'{"plaintext":"eA=="}',
                    {"Content-Type": "application/json; charset=utf-8"})
    assert reply.status == 200


# ---- JSON ----

@pytest.mark.parametrize("body", [
    b"", b"{", b"}", b'{"plaintext":}', b'{"plaintext":"eA=="', b'{"plaintext":"eA=="}x',
    b'{"plaintext":"eA==",}', b"\xff\xfe", b'{"plaintext":"\xff"}', b"{'plaintext':'eA=='}",
    b'{"plaintext":"eA==","plaintext":"eA=="}',
    b'{"plaintext":"eA==","context":{"a":"1","a":"2"}}',
    b'{"plaintext":"a\\u0000b"}',
    b"[" * 10000, b'{"a":' * 10000, b'{"context":' + b"[" * 40 + b"]" * 40 + b"}",
])
def test_broken_json(app, body):
    reply = app.raw("POST", "/v1/keys/demo/wrap", body, JSON)
    assert (reply.status, reply.code) == (400, "invalid_json"), reply


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"true"])
def test_json_that_is_no_object(app, body):
    reply = app.raw("POST", "/v1/keys/demo/wrap", body, JSON)
    assert reply.status == 400 and reply.code in ("invalid_json", "invalid_request")


@pytest.mark.parametrize("path, body", [
    ("wrap", {"plaintext": "eA==", "extra": 1}),
    ("unwrap", {"ciphertext": "eA==", "plain": True}),
    ("generate", {"size": 32}),
    ("rewrap", {"ciphertext": "eA==", "newcontext": {}}),
])
def test_an_unknown_member(app, path, body):
    reply = app.call("POST", f"/v1/keys/demo/{path}", body)
    assert (reply.status, reply.code) == (400, "unknown_member")
    assert next(iter(set(body) - {"plaintext", "ciphertext"} or body)) in reply.json["detail"]


@pytest.mark.parametrize("path, body", [
    ("wrap", {}), ("wrap", {"plaintext": 1}), ("wrap", {"plaintext": None}),
    ("wrap", {"plaintext": ["eA=="]}), ("unwrap", {}),
    ("unwrap", {"ciphertext": "eA==", "plaintext": "yes"}),
    ("generate", {"bytes": "32"}), ("generate", {"bytes": -1}), ("generate", {"bytes": 1.5}),
    ("wrap", {"plaintext": "eA==", "version_id": "1"}),
    ("wrap", {"items": {}}), ("wrap", {"items": []}), ("wrap", {"items": [1]}),
    ("wrap", {"items": [{"plaintext": "eA=="}], "context": {}}),
    ("wrap", {"items": [{"plaintext": "eA=="}] * 1001}),
])
def test_a_member_that_is_missing_or_of_the_wrong_type(app, path, body):
    reply = app.call("POST", f"/v1/keys/demo/{path}", body)
    if reply.status == 200:
        item, = reply.json["items"]
        assert item["error"]["code"] == "invalid_request"
        return
    assert (reply.status, reply.code) == (400, "invalid_request")


def test_a_body_over_1_mib(app):
    """Its length says so: the answer does not wait for it, nor read it."""
    connection = app.connect()
    connection.putrequest("POST", "/v1/keys/demo/wrap")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(1024 * 1024 + 1))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["code"] == "body_too_large"
    app.close()


def test_a_body_over_1_mib_that_is_sent_nevertheless(app):
    body = json.dumps({"plaintext": "A" * (1024 * 1024)}).encode()
    try:
        reply = app.raw("POST", "/v1/keys/demo/wrap", body, JSON)
    except OSError:  # closed before all of it was sent
        return
    assert (reply.status, reply.code) == (413, "body_too_large")


def test_a_chunked_body_over_1_mib(app):
    """Its length is not told beforehand."""
    chunks = [b'{"plaintext":"'] + [b"A" * 65536] * 20 + [b'"}']
    try:
        reply = app.raw("POST", "/v1/keys/demo/wrap", iter(chunks), JSON)
    except OSError:  # refused before all of it was sent
        return
    assert (reply.status, reply.code) == (413, "body_too_large")


def test_a_body_of_just_under_1_mib_is_taken(app):
    items = [{"plaintext": b64(b"x" * 4096)} for _ in range(180)]
    assert len(json.dumps({"items": items})) < 1024 * 1024
    assert len(app.ok("POST", "/v1/keys/demo/wrap", {"items": items}).json["items"]) == 180


# ---- values ----

@pytest.mark.parametrize("text", ["eA", "eA=", "eA===", "e A==", "eA==\n", "eB==", "-_==", "=eA=",
                                  "eA==eA==", "é", "eA==x"])
def test_bad_base64(app, text):
    for path, member in (("wrap", "plaintext"), ("unwrap", "ciphertext")):
        reply = app.call("POST", f"/v1/keys/demo/{path}", {member: text})
        assert (reply.status, reply.code) == (400, "invalid_base64")


@pytest.mark.parametrize("size", [0, 4097, 5000, 100000])
def test_an_empty_or_oversized_plaintext(app, size):
    reply = app.call("POST", "/v1/keys/demo/wrap", {"plaintext": b64(b"x" * size)})
    assert (reply.status, reply.code) == (400, "plaintext_size")


@pytest.mark.parametrize("size", [0, 4097, 2**31, 2**62])
def test_generate_of_nothing_or_too_much(app, size):
    reply = app.call("POST", "/v1/keys/demo/generate", {"bytes": size})
    assert (reply.status, reply.code) == (400, "plaintext_size")


@pytest.mark.parametrize("context", [
    {str(n): "x" for n in range(17)}, {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"": "x"},
    {"a": "x" * 4096}, {"a" * 5000: ""}])
def test_a_context_that_is_not_valid(app, context):
    for path in ("wrap", "generate"):
        body = {"context": context}
        if path == "wrap":
            body["plaintext"] = "eA=="
        reply = app.call("POST", f"/v1/keys/demo/{path}", body)
        assert (reply.status, reply.code) == (400, "invalid_context"), path


def test_a_context_at_its_limits_is_taken(app):
    for context in ({str(n): "x" for n in range(16)}, {"a": "x" * 4095}, {"a": ""}):
        assert app.unwrap(app.wrap(b"x", context=context), context=context) == b"x"


@pytest.mark.parametrize("name", ["DEMO", "demo%20", "-demo", "d" * 65, "d%C3%A9mo"])
def test_a_key_name_outside_the_pattern(app, name):
    reply = app.call("POST", f"/v1/keys/{name}/wrap", {"plaintext": "eA=="})
    assert (reply.status, reply.code) == (400, "invalid_name")


# ---- blobs ----

def refused(app, blob, key="demo", context=None):
    reply = app.try_unwrap(blob, key, context)
    assert (reply.status, reply.code) == (400, "unwrap_failed"), (blob.hex(), reply)
    body = {"ciphertext": b64(blob), **({"context": context} if context else {})}
    rewrap = app.call("POST", f"/v1/keys/{key}/rewrap", body)
    assert rewrap.code == "unwrap_failed"
    return {k: v for k, v in reply.json.items() if k != "request_id"}


def test_a_truncated_blob(app):
    blob = app.wrap(b"data key")
    for length in range(1, len(blob)):
        refused(app, blob[:length])
    refused(app, blob + b"\0")
    refused(app, blob * 2)
    refused(app, blob + bytes(10000))


def test_a_flipped_bit_anywhere(app):
    blob = app.wrap(b"data key")
    for at in range(len(blob)):
        flipped = bytearray(blob)
        flipped[at] ^= 1 << (at % 8)
        refused(app, bytes(flipped))


def test_foreign_blobs(app):
    for blob in (os.urandom(66), b"vault:v1:xxxx", b"\0" * 66, b"kek\x02" + os.urandom(62)):
        refused(app, blob)


def test_an_unknown_version_and_a_version_of_another_key(app, admin):
    admin.create_key("another")
    blob = app.wrap(b"data key", "another")
    refused(app, blob, "demo")
    refused(app, blob[:4] + uuid.uuid4().bytes + blob[20:])


def test_every_way_to_fail_reads_the_same(app, admin):
    if admin.get("/v1/keys/another").status == 404:
        admin.create_key("another")
    blob = app.wrap(b"data key", context={"a": "b"})
    flipped = blob[:-1] + bytes([blob[-1] ^ 1])
    answers = [refused(app, blob, context={"a": "c"}), refused(app, flipped, context={"a": "b"}),
               refused(app, app.wrap(b"x", "another")), refused(app, os.urandom(66)),
               refused(app, blob[:4] + uuid.uuid4().bytes + blob[20:])]
    assert all(a == answers[0] for a in answers), answers


def test_random_bodies_never_bring_it_down(app):
    for n in range(200):
        body = os.urandom(n * 7 % 900)
        assert app.raw("POST", "/v1/keys/demo/unwrap", body, JSON).status == 400
    for n in range(100):
        reply = app.try_unwrap(b"kek\x01" + os.urandom(n * 13 % 300))
        assert reply.code == "unwrap_failed"


def test_an_answer_to_bad_input_names_request_and_remedy(app):
    reply = app.call("POST", "/v1/keys/demo/wrap", {"plaintext": ""})
    problem = reply.json
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == 400 and problem["title"] and problem["detail"]
    uuid.UUID(problem["request_id"])
