#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""First inputs for the fuzz targets: one sound example of each kind, to mutate.

    tests/fuzz/seed.py TARGET DIRECTORY

Certificates are made here and nowhere else: the sources hold none."""

import base64
import datetime
import hashlib
import json
import os
import struct
import sys

ID = "0190a0b0-c0d0-4e00-8f00-000000000001"


def block(data):
    return struct.pack(">H", len(data)) + data


def u32(n):
    return struct.pack(">I", n)


def long_block(data):
    return u32(len(data)) + data


# ---- frames (doc/formats/frames.md) ----

def hello(state=1):
    texts = b"".join(long_block(t) for t in (b"main", b"1234", b"SoftHSM project", b"SoftHSM v2",
                                             b"module 2.6", b""))
    return bytes([1, state, 12, 1]) + u32(77) + u32(2) + u32(9) + texts


def request_op(kind, iv=b"", object2=b"", size=0, data=b"data", aad=b"aad", aad2=b""):
    object_id = bytes(range(16))
    return (bytes([kind, len(iv), len(object_id), len(object2)]) + u32(size) + u32(4096) +
            u32(4096) + b"\0" + object_id + object2 + iv + long_block(aad) + long_block(aad2) +
            long_block(data))


def request_frame(*ops, number=0):
    return b"\x02\0" + struct.pack(">H", len(ops)) + u32(number) + b"".join(ops)


def result_op(err=0, iv=b"i" * 12, out=b"out", out2=b""):
    return (struct.pack(">i", err) + bytes([len(iv)]) + iv + u32(127) + long_block(out) +
            long_block(out2))


def result_frame(*ops, number=0):
    return b"\x03\0" + struct.pack(">H", len(ops)) + u32(number) + u32(50) + b"".join(ops)


def requests():
    iv = b"i" * 12
    return [
        request_frame(request_op(1)),
        request_frame(request_op(2, iv), request_op(3, iv)),
        request_frame(request_op(4, size=32, data=b"")),
        request_frame(request_op(5, iv, bytes(16), aad2=b"new")),
        request_frame(request_op(6, data=bytes(32)), request_op(7), request_op(9)),
        request_frame(request_op(8, size=1)),
        request_frame(request_op(11, iv), request_op(12, iv)),
        request_frame(request_op(32, data=b"label"), request_op(33, data=b"seal")),
    ]


def results():
    return [
        result_frame(result_op()),
        result_frame(result_op(), result_op(-1009, b"", b""), result_op(out2=b"plain")),
        result_frame(*[result_op(out=b"abc")] * 8),
        result_frame(result_op(), number=5),
    ]


def listed():
    return bytes([16]) + bytes(range(16)) + b"\x05label" + u32(127) + u32(31)


def frame():
    return [hello(), hello(2), listed() * 2, *requests(), *results()]


def worker():
    frames = requests()
    return [block(f) for f in frames] + [block(frames[0]) + block(frames[1])]


def hsm():
    def with_ops(count, *frames):
        return bytes([count - 1, *range(8, 8 + count), 1]) + b"".join(block(f) for f in frames)
    return [
        with_ops(1, result_frame(result_op())),
        with_ops(3, result_frame(*[result_op()] * 3)),
        with_ops(3, result_frame(result_op(), number=0), result_frame(*[result_op()] * 2,
                                                                      number=1)),
        with_ops(8, hello(2)),
        with_ops(8, hello(), result_frame(*[result_op(iv=b"")] * 8)),
        with_ops(2, hello(1), hello(6)),
    ]


# ---- texts ----

def blob():
    whole = (b"kek\x01" + bytes(range(16)) + b"\x01\x0c" + b"i" * 12 + b"secret" + b"t" * 16)
    return [whole, whole.replace(b"\x01\x0c" + b"i" * 12, b"\x01\x10" + b"i" * 16),
            base64.b64encode(whole), b'{"a":"b","c":"d"}', '{"ä":"\\u0041","":"x"}'.encode()]


CONFIG = """cluster: test
node: node-1
state_dir: state
user: "0"
listen: [ 127.0.0.1:7373, "[::1]:7373" ]
tls:
  certificate: cert
  key: key
  client_ca: ca
identity:
  common_name: yes
tokens:
  - name: main
    uri: pkcs11:token=main;serial=12%2034?module-path=mod
    pin-source: file:pin
hsm:
  user: "0"
  state_dir: hsm
  workers: 2
  sessions: 3
  deadline: 500ms
audit:
  dir: audit
  max_bytes: 512MiB
  context: hash
admins:
  - name: admin-1
    identities: [ "uri:spiffe://test/admin", "dns:a.test" ]
  - name: admin-2
    identities:
      - spki:""" + hashlib.sha256(b"").hexdigest() + "\n"


def config():
    return [CONFIG.encode(), CONFIG.replace("listen", "lisden").encode(),
            CONFIG.replace("workers: 2", "workers: 2\n  workers: 3").encode(),
            CONFIG.replace("main\n", "&a main\n").replace("cluster: test",
                                                          "cluster: !!str test").encode(),
            b"tokens: { a: b }\n", b"listen: []\n---\nlisten: []\n", b"\xff\xfe"]


APPLY = """\
# keys
kind: key
name: a
algorithm: aes256-gcm
token: main
labels:
  - name: team
    value: "x: y"
  - {name: b, value: ''}
rotate_every: 90d
frozen: false
---
kind: client
name: c
identities: [ "uri:spiffe://test/c", 'dns:c.test' ]
addresses:
  - 10.0.0.0/8
  - ::1
grants:
  - keys: "*"
    operations: [wrap, unwrap, key.read]
limits: { requests_per_s: 5, in_flight: 0 }
--- !policy
kind: policy
approvals: 2
destroy_wait: 7d
approval_ttl: 24h
...
"""


def apply():
    return [APPLY.encode(), APPLY.replace("90d", "never").encode(),
            APPLY.replace("name: a", "name: &n a").replace("token: main", "token: *n").encode(),
            APPLY.replace("kind: client", "kind: key").replace("name: c", "name: a").encode(),
            b"kind: key\nname: a\n<<: {name: b}\nname: c\n", b"&a [*a]\n", b"? {a: b}\n: c\n",
            b"%YAML 1.1\n---\nkind: !!binary a2V5\n", b"kind: |\n  key\nname: >-\n  a\n",
            b"\xff\xfek\x00"]


def part():
    net = {"init": False, "cluster": "test", "node": "node-1", "state_dir": "/s",
           "tls_certificate": "/c", "tls_key": "/k", "tls_client_ca": "/a", "common_name": False,
           "tokens": ["main", "other"], "workers": 2, "sessions": 1, "deadline_ms": 5000,
           "audit_dir": "/d", "audit_hash_context": True, "audit_max_bytes": 1 << 30,
           "audit_keep": 0,
           "admins": [{"name": "a", "identities": ["uri:x"]}]}
    one = {"cluster": "test", "token": "main", "index": 0, "uri": "pkcs11:token=main",
           "module": "/m", "sessions": 1}
    return [json.dumps(v).encode() for v in (net, one, {**net, "workers": 1 << 40})]


def uri():
    return [b"pkcs11:token=main?module-path=mod&pin-source=file:pin",
            b"pkcs11:token=a%20b;serial=1;manufacturer=SoftHSM;model=x?module-path=/m\npin",
            b"pkcs11:token=main;slot-id=1?module-name=x&pin-value=1",
            b"pkcs11:object=o;type=secret-key;id=%00%ff;library-version=1.2\n|prog",
            b"pkcs11:serial=1;x-vendor=1?x-query=2\nfile:///pin"]


def audit_line(sequence, kind, **more):
    return b"+" + json.dumps({"v": 1, "seq": sequence, "time": "2026-01-01T00:00:00.000000Z",
                              "node": "node-1", "type": kind, **more},
                             separators=(",", ":")).encode()


def audit():
    lines = [audit_line(1, "open", cluster="test", reason="start", version="0.1.0", pid=1),
             audit_line(2, "request", client="app", operation="wrap", result="ok"),
             audit_line(3, "close")]
    torn = audit_line(2, "gap", cluster="test", reason="torn", file="audit-%020d.jsonl" % 1,
                      offset=256, length=3, sha256=hashlib.sha256(b"abc").hexdigest())
    second = audit_line(3, "open", cluster="test", reason="start", version="0.1.0", pid=2)
    whole = b"\n".join(lines) + b"\n"
    return [whole, lines[0] + b"\n" + lines[2] + b"\n" + lines[1] + b"\n",
            lines[0] + b"\nabc\n\n1\n" + torn + b"\n" + second + b"\n",
            lines[0] + b"\n\n1\n" + lines[1] + b"\n" + lines[2] + b"\n",
            lines[0] + b"\n" + torn.replace(b"torn", b"no_space") + b"\n",
            whole[:-1], whole + b'{"v":1,"seq":4}\n']


TIME = "2026-01-01T00:00:00.000000Z"


def version(number, state="enabled"):
    """As src/keyring/key_json.c writes it."""
    identity = ID[:-1] + str(number)
    raw = bytes.fromhex(identity.replace("-", ""))
    canary = b"kek\x01" + raw + b"\x01\x0c" + b"i" * 12 + b"n" * 32 + b"t" * 16
    return {"version": number, "id": identity, "object_id": raw.hex(), "token": "main",
            "state": state, "created": TIME, "state_changed": TIME,
            "attributes": ["sensitive", "local", "token"],
            "canary": {"blob": base64.b64encode(canary).decode(), "sha256": "0" * 64}}


def key(primary, *versions, **more):
    return {"name": "demo", "algorithm": "aes256-gcm", "created": TIME, "labels": {"a": "b"},
            "primary": primary, "activation": primary, "previous": 0,
            "versions": list(versions), **({"activated": TIME} if primary else {}), **more}


def record():
    client = {"identities": ["uri:spiffe://t/a", "dns:a.test", "spki:" + "0" * 64],
              "addresses": ["10.0.0.0/8", "::1"],
              "grants": [{"keys": "demo-*", "operations": ["wrap", "unwrap", "approve"]}],
              "limits": {"requests_per_s": 10, "in_flight": 2}}
    body = {"number": 7, "state": "0" * 64}
    values = [client, body, key(0, version(1, "staged")),
              key(2, version(1, "disabled"), version(2), previous=1),
              key(1, version(1), rotate_every_s=7776000, next_rotation=TIME, frozen=True)]
    return [json.dumps(v).encode() for v in values] + [
        json.dumps({"body": v, "commit": 7, "key": ID, "seal": "0" * 64, "v": 1}).encode()
        for v in values]


# ---- requests ----

def request(first, body=None, *headers, client="all"):
    lines = [first, *headers]
    if client:
        lines.append("Client: " + client)
    if body is not None:
        lines.append("Content-Type: application/json")
    text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
    return ("\n".join(lines) + "\n\n" + text).encode()


def requests_http():
    context = {"a": "b"}
    plain = base64.b64encode(b"secret").decode()
    match = 'If-Match: "4"'
    client = {"identities": ["dns:new"], "grants": [{"keys": "*", "operations": ["wrap"]}]}
    key = "/v1/keys/demo/"
    return [
        request(f"POST {key}wrap", {"plaintext": plain, "context": context}),
        request(f"POST {key}wrap", {"plaintext": plain, "version_id": ID}),
        request(f"POST {key}wrap", {"items": [{"plaintext": plain}, {"plaintext": ""}]}),
        request(f"POST {key}unwrap", {"ciphertext": "$BLOB"}),
        request(f"POST {key}unwrap", {"items": [{"ciphertext": "$BLOB", "plaintext": False},
                                                {"ciphertext": "AA==", "context": context}]}),
        request(f"POST {key}generate", {"bytes": 16, "context": context, "plaintext": True}),
        request(f"POST {key}generate", {"items": [{}, {"bytes": 4096}]}),
        request(f"POST {key}rewrap", {"ciphertext": "$BLOB", "new_context": context}),
        request("GET /v1/keys?after=a&limit=1"),
        request("POST /v1/keys", {"name": "new", "algorithm": "aes256-gcm", "token": "other",
                                  "labels": {"a": "b"}}, "If-None-Match: *"),
        request("GET /v1/keys/demo"),
        request("GET /v1/keys/refused"),
        request("PATCH /v1/keys/demo", {"labels": {"x": "y"}}, "If-Match: *"),
        request(f"POST {key}rotate", {"token": "other"}, "If-Match: *"),
        request(f"POST {key}rotate", {}, match),
        request(f"POST {key}rotate", {"stage_only": True}, "If-Match: *"),
        request(f"POST {key}rotate", {"dry_run": True, "token": "other"}, "If-Match: *"),
        request(f"POST {key}activate", {"version": 3}, "If-Match: *"),
        request(f"POST {key}versions/3/abandon", {}, "If-Match: *"),
        request("PATCH /v1/keys/demo", {"rotate_every": "90d", "frozen": True}, "If-Match: *"),
        request("PATCH /v1/keys/demo", {"rotate_every": None}, match),
        request("POST /v1/cluster/freeze", {"frozen": True}, "If-Match: *"),
        request("POST /v1/cluster/reseal", {"token": "other"}, "If-Match: *"),
        request("POST /v1/cluster/forget", {"node": "node-2"}, "If-Match: *"),
        request("POST /v1/cluster/level", {"level": 1}, "If-Match: *"),
        request("POST /v1/cluster/step-down", {"pause": "1m", "force": True}),
        request("POST /v1/cluster/promote", {"force": True}),
        request("PATCH /v1/cluster", {"members": ["node-1", "node-2"]}, "If-Match: *"),
        request(f"POST {key}versions/1/enable", {}, "If-Match: *"),
        request(f"POST {key}versions/2/disable", {}, "If-Match: *"),
        request(f"POST {key}versions/2/primary", {}, "If-Match: *"),
        request("GET /v1/clients?limit=5"),
        request("GET /v1/clients/some"),
        request("PUT /v1/clients/new", client, "If-None-Match: *"),
        request("PUT /v1/clients/some", client, 'If-Match: "1"'),
        request("DELETE /v1/clients/some", None, "If-Match: *"),
        request("GET /v1/whoami", None, "traceparent: 00-0af7-b7ad-01"),
        request("GET /v1/status"),
        request("GET /health/ready", client=None),
        request("GET /v1/openapi.yaml", client=None),
        request(f"POST {key}wrap", {"plaintext": plain}, client="some"),
        request(f"POST {key}wrap", "[1]"),
        request("POST /v1/hsm/retry-pin", {"token": "main"}),
        request("GET /v1/nothing"),
    ]


# ---- certificates ----

def certificate(names, common_name="client", client_auth=True, extra=None):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    private = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.utcnow()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
               .public_key(private.public_key()).serial_number(x509.random_serial_number())
               .not_valid_before(now - datetime.timedelta(days=1))
               .not_valid_after(now + datetime.timedelta(days=1)))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    if client_auth:
        usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, False)
    if extra:
        builder = builder.add_extension(extra, True)
    return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.DER)


def identity():
    import ipaddress

    from cryptography import x509
    uri_name = x509.UniformResourceIdentifier("spiffe://test/app")
    dns_name = x509.DNSName("App.test")
    mail = x509.RFC822Name("a@test")
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificates = [
        certificate([uri_name]), certificate([dns_name, address]), certificate([mail]),
        certificate([uri_name, uri_name, dns_name]), certificate([], "käse"),
        certificate([uri_name], client_auth=False),
        certificate([dns_name], extra=x509.BasicConstraints(True, 0)),
    ]
    whole = [bytes([how]) + block(c) for c in certificates for how in (0, 1, 3)]
    return whole + [b"\x01" + b"".join(block(c) for c in certificates)]


# ---- etcd's answers (doc/formats/etcd.md) ----

def etcd():
    def b64(text):
        return base64.b64encode(text.encode()).decode()

    leader = {"key": b64("/kekd/test/leader"), "create_revision": "7", "mod_revision": "7",
              "version": "1", "lease": "77", "value": b64('{"node":"a","url":"https://a:7373"}')}
    record = {"key": b64("/kekd/test/keys/a"), "create_revision": "3", "mod_revision": "5",
              "value": b64('{"v":1}')}
    foreign = {"key": b64("/kekd/testing/keys/a"), "mod_revision": "5"}
    header = {"cluster_id": "1", "member_id": "2", "revision": "9", "raft_term": "2"}
    answers = [{"header": header, "kvs": [leader, record, foreign], "count": "3"},
               {"header": header, "succeeded": True,
                "responses": [{"response_range": {"kvs": [leader]}}]}]
    errors = [{"error": "etcdserver: mvcc: required revision has been compacted", "code": 11},
              {"error": "etcdserver: requested lease not found", "code": 5},
              {"error": "etcdserver: invalid auth token", "message": "invalid auth token",
               "code": 16}, {"error": "etcdserver: no leader", "code": 14}]
    streams = [[{"result": {"header": header, "created": True}},
                {"result": {"header": header, "events": [
                    {"kv": leader}, {"type": "DELETE", "kv": {"key": leader["key"],
                                                              "mod_revision": "8"}}]}}],
               [{"result": {"canceled": True, "compact_revision": "3"}}]]
    yield from (b"\0" + json.dumps(a).encode() for a in answers)
    for status in (6, 8, 10, 14):
        yield from (bytes([status]) + json.dumps(e).encode() for e in errors)
        yield bytes([status + 1]) + json.dumps(errors[2]).encode()
    for stream in streams:
        yield b"\1" + b"".join(json.dumps(m).encode() + b"\n" for m in stream)


# ---- messages to the Kubernetes plugin (src/kms/kms.proto) ----

def proto(number, data):
    size = len(data)
    return bytes([number << 3 | 2]) + (
        bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + data


def kms_messages():
    own = [(b"cluster.kms.kekd", b"prod-1"), (b"provider.kms.kekd", b"kekd"),
           (b"version.kms.kekd", b"1")]
    annotations = [proto(4, proto(1, name) + proto(2, value)) for name, value in own]
    sealed = proto(1, b"c" * 90) + proto(2, b"uid") + proto(3, f"{ID}.7".encode())
    yield b""
    yield proto(1, b"s" * 32) + proto(2, b"uid")
    yield sealed
    yield sealed + b"".join(annotations)
    yield sealed + annotations[0] * 2
    yield sealed + proto(4, proto(1, b"a/b") + proto(2, b"x"))
    yield sealed + proto(4, proto(1, b"a.b") + proto(2, b"x" * 5000)) + proto(9, b"later")


# ---- EncryptionConfigurations (src/kms/encryption_config.c) ----

ENCRYPTION = """apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets, configmaps, a.b]
    providers:
      - aescbc: {keys: [{name: a, secret: AAAAAAAAAAAAAAAAAAAAAA==}]}
      - kms: {apiVersion: v2, name: kekd, endpoint: 'unix:///run/kms.sock', timeout: 1m2.5s}
      - identity: {}
  - resources: [events]
    providers: [{identity: {}}]
  - resources: ['*.apps', '*.']
    providers:
      - secretbox:
          keys: [{name: b, secret: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]
      - kms: {name: old, endpoint: unix:///old, cachesize: 7}
"""


def encryption_config():
    return [ENCRYPTION.encode(), ENCRYPTION.replace("secrets", "'*.*'").encode(),
            ENCRYPTION.replace("v2", "v1").replace("[{identity: {}}]", "&p [{identity: {}}]")
            .encode(), ENCRYPTION.replace("aescbc", "identity: {}, aesgcm").encode(),
            ENCRYPTION.replace("events", "secrets").encode(),
            json.dumps({"kind": "EncryptionConfiguration",
                        "apiVersion": "apiserver.config.k8s.io/v1",
                        "resources": [{"resources": ["secrets"],
                                       "providers": [{"identity": {}}]}]}).encode()]


# ---- a snapshot of etcd: a block for each page (fuzz_bolt.c) ----

def number(n, value):
    return bytes([n << 3]) + (
        bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7]))


def revision(main, sub=0, deletion=False):
    return struct.pack(">QcQ", main, b"_", sub) + (b"t" if deletion else b"")


def key_value(key, rev, value=None):
    body = proto(1, key) + number(2, rev) + number(3, rev) + number(4, 1)
    return body if value is None else body + proto(5, value)


def leaf_page(entries, overflow=0):
    """entries: (flags, key, value)."""
    table, data = b"", b""
    for i, (flags, k, v) in enumerate(entries):
        at = 16 * (len(entries) - i) + len(data)
        table += struct.pack("<IIII", flags, at, len(k), len(v))
        data += k + v
    return block(bytes([2, len(entries), overflow]) + table + data)


def branch_page(children):
    table, data = b"", b""
    for i, child in enumerate(children):
        table += struct.pack("<IIQ", 16 * (len(children) - i) + len(data), 4, child)
        data += b"key "
    return block(bytes([1, len(children), 0]) + table + data)


def root_page(key, inline=b"", compacted=0):
    meta = b""
    if compacted:
        value = revision(compacted)
        meta = struct.pack("<IIII", 0, 16, 18, len(value)) + b"finishedCompactRev" + value
    page = struct.pack("<QHHI", 0, 2, 1 if meta else 0, 0) + meta
    return leaf_page([(1, b"key", struct.pack("<QQ", key, 0) + inline),
                      (1, b"meta", struct.pack("<QQ", 0, 0) + page)])


def bolt():
    raw = uuid_bytes()
    source = b"kek\x01" + raw + b"\x01\x0c" + b"i" * 12 + b"s" * 32 + b"t" * 16
    own = [(b"cluster.kms.kekd", b"prod-1"), (b"provider.kms.kekd", b"kekd"),
           (b"key.kms.kekd", b"demo"), (b"version.kms.kekd", b"1")]
    annotations = b"".join(proto(4, proto(1, n) + proto(2, v)) for n, v in own)
    kms = (b"k8s:enc:kms:v2:kekd:" + proto(1, b"data") + proto(2, f"{ID}.1".encode()) +
           proto(3, source) + annotations + number(5, 1))
    values = [kms, kms, b"k8s\0plain", b"k8s:enc:aescbc:v1:key1:data", b'{"kind":"X"}',
              b"k8s:enc:kms:v2:other:" + proto(1, b"x") + proto(2, b"theirs") + proto(3, b"y")]
    paths = [b"/registry/secrets/a/b", b"/registry/secrets/a/c", b"/registry/minions/n",
             b"/registry/secrets/a/b", b"/registry/example.org/widgets/a/w", b"/other"]
    entries = [(0, revision(n + 2), key_value(k, n + 2, v))
               for n, (k, v) in enumerate(zip(paths, values))]
    gone = (0, revision(9, deletion=True), key_value(paths[0], 9))
    yield b"\0" + root_page(3) + leaf_page(entries[:3] + [gone])
    yield b"\0" + root_page(3, compacted=5) + branch_page([4, 5]) + leaf_page(
        entries[:3]) + leaf_page(entries[3:])
    yield b"\0" + root_page(3) + leaf_page(entries[:2], overflow=1) + leaf_page(entries)
    yield b"\0" + root_page(3) + branch_page([3, 3])
    yield b"\0" + root_page(3)
    yield b"\1" + bytes(100)


def uuid_bytes():
    return bytes.fromhex(ID.replace("-", ""))


SEEDS = {"apply": apply, "audit": audit, "blob": blob, "bolt": bolt, "config": config,
         "encryption_config": encryption_config, "etcd": etcd, "frame": frame, "hsm": hsm,
         "identity": identity, "kms_messages": kms_messages, "part": part, "record": record,
         "request": requests_http, "uri": uri, "worker": worker}


def main():
    target, directory = sys.argv[1:]
    os.makedirs(directory, exist_ok=True)
    for data in SEEDS[target]():
        name = hashlib.sha256(data).hexdigest()[:16]
        with open(os.path.join(directory, name), "wb") as f:
            f.write(data)


main()
