# SPDX-License-Identifier: Apache-2.0
"""Values as a Kubernetes API server writes them to etcd, encrypted and not; seeds of theirs that a
real kekd has wrapped as kekd-kms would have it."""

import base64
import os

from protobuf import field

PREFIX = "/registry/"
CLUSTER, PROVIDER = "prod-1", "kekd"


def encrypted_object(key_id, source, annotations, data=None, source_type=1):
    entries = b"".join(field(4, field(1, n.encode()) + field(2, v.encode()))
                       for n, v in sorted(annotations.items()))
    return (field(1, os.urandom(200) if data is None else data) + field(2, key_id.encode()) +
            field(3, source) + entries + field(5, source_type))


def kms_v2(*arguments, provider=PROVIDER, **more):
    return f"k8s:enc:kms:v2:{provider}:".encode() + encrypted_object(*arguments, **more)


def plaintext(kind, name, **more):
    """k8s, a NUL, and runtime.Unknown: typeMeta, raw."""
    meta = field(1, b"v1") + field(2, kind.encode())
    raw = field(1, field(1, name.encode())) + b"".join(
        field(2, field(1, k.encode()) + field(2, v)) for k, v in more.items())
    return b"k8s\0" + field(1, meta) + field(2, raw) + field(3, b"") + field(4, b"")


def lease(name, seconds):
    """renewTime of a Lease: spec 2, renewTime 4, seconds 1, nanos 2."""
    spec = field(1, b"holder") + field(2, 40) + field(4, field(1, seconds) + field(2, 500000000))
    raw = field(1, field(1, name.encode())) + field(2, spec)
    meta = field(1, b"coordination.k8s.io/v1") + field(2, b"Lease")
    return b"k8s\0" + field(1, meta) + field(2, raw) + field(3, b"") + field(4, b"")


def other(kind, name="key1"):
    return f"k8s:enc:{kind}:v1:{name}:".encode() + os.urandom(64)


class Seed:
    """One that kekd wrapped, under the key's primary version."""

    def __init__(self, http, admin, key="kubernetes-a", cluster=CLUSTER, provider=PROVIDER):
        self.context = {"kubernetes-cluster": cluster, "provider": provider}
        body = {"plaintext": "A" * 42 + "A=", "context": self.context}
        reply = http.ok("POST", f"/v1/keys/{key}/wrap", body).json
        record = admin.key(key)
        self.key, self.number, self.version_id = key, reply["version"], reply["version_id"]
        self.blob = base64.b64decode(reply["ciphertext"])
        self.key_id = record["kms_key_id"]
        assert self.key_id.startswith(self.version_id + ".")
        self.provider = provider
        self.annotations = {
            "cluster.kms.kekd": cluster, "provider.kms.kekd": provider, "key.kms.kekd": key,
            "version.kms.kekd": str(self.number),
            "request.kms.kekd": "0190a0b0-c0d0-4e00-8f00-000000000001"}

    def value(self, **more):
        return kms_v2(self.key_id, self.blob, self.annotations, provider=self.provider, **more)
