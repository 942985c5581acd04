# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes control plane: an etcd, API servers that are the real program, a kekd-kms beside
each, and the pair of kekd that these ask. What a test reads of etcd it reads past them."""

import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass

from etcd import Etcd, prefix_end
from kekd import PATIENCE, Program, b64, free_port, in_threads, samples, unb64, wait_for
from kms import Plugin
from pair import Pair
from pki import Authority, Certificate
from protobuf import fields

PROGRAMS = os.environ.get("KEKD_E2E_PROGRAMS", "")
KEY, PROVIDER, NAME = "kubernetes", "kekd", "e2e"
IDENTITY = {"identity": {}}
PREFIX = f"k8s:enc:kms:v2:{PROVIDER}:".encode()
KMS = "apiserver_envelope_encryption_"
# How long after a good Status its next one is asked for, at a poll of /readyz; without one 60 s.
STATUS = 20
# An API server's write seed lives so long past the last good Status.
SEED_LIFE = 180
IDLE = 60
ROUND = 100  # objects a page


# ---- what lies in etcd ----

@dataclass
class Sealed:
    """EncryptedObject, the value behind the prefix."""
    key_id: str
    seed: bytes  # wrapped
    annotations: dict


def sealed(value, prefix=PREFIX):
    assert value.startswith(prefix), value[:60]
    found = Sealed("", b"", {})
    for number, content in fields(value[len(prefix):]):
        if number == 2:
            found.key_id = content.decode()
        elif number == 3:
            found.seed = content
        elif number == 4:
            entry = dict(fields(content))
            found.annotations[entry[1].decode()] = entry.get(2, b"")
    return found


# ---- an API server ----

class ApiError(AssertionError):
    def __init__(self, what, status, body):
        self.status = status
        super().__init__(f"{what}: {status} {body[:600]!r}")


class ApiServer(Program):
    """kube-apiserver, with a port, a directory and an EncryptionConfiguration of its own."""

    def __init__(self, cluster, number, plugin, etcd):
        self.cluster, self.plugin, self.etcd = cluster, plugin, etcd
        self.name = f"api-{number}"
        self.dir = cluster.path(self.name)
        os.mkdir(self.dir, 0o700)
        self.port = free_port()
        self.log_path = os.path.join(self.dir, "apiserver.log")
        self.encryption = os.path.join(self.dir, "encryption.yaml")
        self.thread = threading.local()

    # -- running it

    @property
    def ca(self):
        """Its certificate and the CA of it are one file, which it makes at its first start."""
        return os.path.join(self.dir, "certificates", "apiserver.crt")

    @property
    def kekd(self):
        """Its provider."""
        return {"kms": {"apiVersion": "v2", "name": PROVIDER, "timeout": "3s",
                        "endpoint": "unix://" + self.plugin.socket}}

    def configure(self, *providers, resources=("secrets",)):
        """For its next start. The first one writes, all read."""
        self.configure_text(json.dumps({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": list(resources), "providers": list(providers)}]}, indent=1))

    def configure_text(self, text):
        with open(self.encryption + ".new", "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(self.encryption + ".new", 0o600)
        os.replace(self.encryption + ".new", self.encryption)

    def arguments(self):
        of = self.cluster
        return [
            os.path.join(PROGRAMS, "kube-apiserver"), "--etcd-servers", self.etcd.endpoints[0],
            "--secure-port", str(self.port), "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
            "--cert-dir", os.path.join(self.dir, "certificates"),
            "--client-ca-file", of.ca.pem, "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file", of.accounts,
            "--service-account-signing-key-file", of.accounts,
            "--disable-admission-plugins=ServiceAccount",
            "--encryption-provider-config", self.encryption, *of.flags]

    def start(self, ready=True):
        self.thread = threading.local()
        self.spawn(self.arguments(), cwd=self.dir)
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=2 * PATIENCE):
        def ready():
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log()[-3000:]}"
            return self.health()[0] == 200
        try:
            wait_for(ready, f"{self.name} is ready", seconds, every=0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.health()}\n{self.log()[-3000:]}") from None
        return self

    def stop(self):
        """At once: its own grace time is for clients that tests do not have."""
        self.end(signal.SIGKILL)

    def restart(self, ready=True):
        self.stop()
        return self.start(ready)

    # -- speaking to it

    def connection(self):
        """One a thread. The server closes one that was idle for 90 s."""
        found = getattr(self.thread, "connection", None)
        if found is None or time.monotonic() - self.thread.used > IDLE:
            self.disconnect()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(self.ca)
            context.load_cert_chain(self.cluster.admin.pem, self.cluster.admin.key)
            found = self.thread.connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, context=context, timeout=PATIENCE)
        self.thread.used = time.monotonic()
        return found

    def raw(self, method, path, body=None):
        """(status, bytes)."""
        try:
            connection = self.connection()
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.disconnect()
            raise

    def disconnect(self):
        found = getattr(self.thread, "connection", None)
        if found is not None:
            found.close()
        self.thread.connection = None

    def call(self, method, path, body=None):
        status, content = self.raw(method, path, body)
        if status not in (200, 201):
            raise ApiError(f"{self.name}: {method} {path}", status, content)
        return json.loads(content)

    def health(self, what="readyz"):
        """(status, text); (0, the error) where nobody answers."""
        try:
            status, text = self.raw("GET", "/" + what)
            return status, text.decode()
        except (OSError, http.client.HTTPException) as e:
            return 0, str(e)

    def kms_health(self):
        return self.health("readyz/kms-providers")

    def metrics(self):
        """{name with labels: value}."""
        status, text = self.raw("GET", "/metrics")
        assert status == 200, text
        return samples(text.decode())

    def kms_calls(self, method, code="OK"):
        """How many times it called its plugin since its start."""
        return sum(int(v) for k, v in self.metrics().items()
                   if k.startswith(KMS + "kms_operations_latency_seconds_count")
                   and f"/{method}\"" in k and f'grpc_status_code="{code}"' in k)

    def has_seen(self, key_id):
        """A Status named it."""
        digest = hashlib.sha256(key_id.encode()).hexdigest()
        return any(digest in k for k in self.metrics()
                   if k.startswith(KMS + "key_id_hash_status_last_timestamp_seconds"))

    def writes_with(self, key_id, seconds=STATUS + PATIENCE):
        """Waits until it has a seed of this key_id: what is written from now on is under it."""
        self.kms_health()
        wait_for(lambda: self.kms_health() and self.has_seen(key_id),
                 f"{self.name} knows {key_id}", seconds, every=0.5)

        def written():
            name = "probe-" + secrets.token_hex(4)
            self.create(name)
            found = self.cluster.sealed(name, etcd=self.etcd).key_id
            self.delete(name)
            return found == key_id
        wait_for(written, f"{self.name} writes with {key_id}", seconds, every=0.2)

    # -- Secrets

    @staticmethod
    def path_of(name="", namespace="default", resource="secrets"):
        return f"/api/v1/namespaces/{namespace}/{resource}" + (f"/{name}" if name else "")

    def create(self, name, value=b"x"):
        return self.call("POST", self.path_of(), {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "data": {"value": b64(value)}})

    def get(self, name):
        return self.call("GET", self.path_of(name))

    def value(self, name):
        return unb64(self.get(name)["data"]["value"])

    def put(self, secret):
        return self.call("PUT", self.path_of(secret["metadata"]["name"]), secret)

    def touch(self, name):
        """A write that changes nothing."""
        return self.put(self.get(name))

    def delete(self, name):
        return self.call("DELETE", self.path_of(name))

    def values(self):
        """{name: value} of all, page by page."""
        found, more = {}, ""
        while True:
            page = self.call("GET", self.path_of() + f"?limit={ROUND}" +
                             (f"&continue={more}" if more else ""))
            found.update({s["metadata"]["name"]: unb64(s["data"]["value"])
                          for s in page["items"]})
            more = page["metadata"].get("continue")
            if not more:
                return found

    def fill(self, count, begin="many", threads=8):
        """So many Secrets; {name: value}."""
        made = {f"{begin}-{n:05}": secrets.token_bytes(16) for n in range(count)}
        each = list(made.items())

        def part(n):
            for name, value in each[n::threads]:
                self.create(name, value)
        in_threads(threads, part)
        return made


# ---- all of it ----

class Cluster:
    """providers: what the API servers' configuration has; else kekd, then identity. flags: more of
    the API servers'. pair: settings of the pair's nodes."""

    def __init__(self, pki, providers=None, servers=2, flags=(), **pair):
        self.pki, self.providers, self.flags = pki, providers, flags
        self.dir = tempfile.mkdtemp(prefix="kekd-kube-")
        os.chmod(self.dir, 0o755)
        self.pair = self.etcd = None
        self.etcds, self.servers = [], []
        try:
            self.make(servers, pair)
        except BaseException:
            self.remove()
            raise

    def make(self, servers, pair):
        self.ca = Authority(self.path("ca"), "Kubernetes CA")
        self.admin = self.certificate("admin", "/O=system:masters/CN=kubernetes-admin")
        self.accounts = self.path("accounts.key")
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.accounts)
        self.pair = Pair(self.pki, **pair)
        self.pair.start().all_ready()
        self.etcd = self.make_etcd()
        for _ in range(servers):
            self.add_server()
        self.start(self.servers)

    def make_etcd(self, **options):
        """One of Kubernetes' own, in which kekd has nothing."""
        self.etcds.append(Etcd(self.pki, **options))
        return self.etcds[-1].start()

    def add_server(self, etcd=None):
        """With a plugin of its own, which runs; the server does not yet."""
        plugin = Plugin(self.pki, self.pair, key=KEY, provider=PROVIDER, cluster=NAME, held=True)
        server = ApiServer(self, len(self.servers) + 1, plugin, etcd or self.etcd)
        self.servers.append(server)
        plugin.start()
        server.configure(*(self.providers or (server.kekd, IDENTITY)))
        return server

    @staticmethod
    def start(servers):
        """Side by side: each works for seconds before it is ready."""
        for server in servers:
            server.start(ready=False)
        for server in servers:
            server.wait_ready()

    def restart(self, *servers):
        servers = servers or self.servers
        for server in servers:
            server.stop()
        self.start(servers)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    @staticmethod
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def certificate(self, name, subject):
        """Of a client of the API servers."""
        made = Certificate(self.path(name + ".pem"), self.path(name + ".key"))
        self.openssl("req", "-x509", "-CA", self.ca.pem, "-CAkey", self.ca.path("ca.key"),
                     "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-keyout", made.key, "-out", made.pem, "-days", "2", "-subj", subject,
                     "-addext", "extendedKeyUsage=clientAuth")
        return made

    def remove(self):
        faults = []
        for server in self.servers:
            server.stop()
        for part in (*(s.plugin for s in self.servers), *self.etcds, self.pair):
            try:
                if part is not None:
                    part.remove()
            except AssertionError as e:
                faults.append(str(e))
        shutil.rmtree(self.dir, ignore_errors=True)
        assert not faults, "\n".join(faults)

    # -- what etcd has, past the API server

    def entry(self, name, namespace="default", resource="secrets", etcd=None):
        found = (etcd or self.etcd).entry(f"/registry/{resource}/{namespace}/{name}")
        assert found, f"{resource}/{name} is not in etcd"
        return found

    def sealed(self, name, **where):
        return sealed(self.entry(name, **where)["value"])

    def revision(self, name, **where):
        """Another one: it was written."""
        return self.entry(name, **where)["mod_revision"]

    def all_values(self, resource="secrets"):
        """{path below /registry: value}."""
        first = f"/registry/{resource}/"
        found = self.etcd.range(first, prefix_end(first)).get("kvs", [])
        entries = [self.etcd.decoded(kv) for kv in found]
        return {e["key"]: e["value"] for e in entries}

    def seeds(self):
        """The distinct wrapped seeds of all Secrets."""
        return {sealed(v).seed for v in self.all_values().values()}

    # -- kekd's key

    def key(self):
        with self.pair.http("admin-1") as admin:
            return admin.key(KEY)

    def rotate(self):
        """The new key_id, which every API server writes with."""
        with self.pair.http("admin-1") as admin:
            admin.rotate(KEY)
        return self.settle()

    def make_primary(self, version):
        with self.pair.http("admin-1") as admin:
            admin.change(KEY, f"versions/{version}/primary")
        return self.settle()

    def settle(self):
        """Every API server writes with the key_id that is kekd's now."""
        key_id = self.key()["kms_key_id"]
        in_threads(len(self.servers), lambda n: self.servers[n].writes_with(key_id))
        return key_id
