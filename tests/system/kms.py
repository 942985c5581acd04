# SPDX-License-Identifier: Apache-2.0
"""A real kekd-kms at a real kekd or pair, and what an API server is to it: a gRPC client that can
also send what no API server would."""

import collections
import http.client
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, replace

import pytest

grpc = pytest.importorskip("grpc", reason="python3-grpcio is not installed")
pytest.importorskip("google.protobuf", reason="python3-protobuf is not installed")
pytest.importorskip("prometheus_client", reason="python3-prometheus-client is not installed")

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from kekd import (BUILD, PATIENCE, Kekd, Program, alive, free_port, kill, overlay,  # noqa: E402
                  wait_for, yaml)
from pki import spiffe  # noqa: E402

PROGRAM = os.path.join(BUILD, "kekd-kms")
PRESENT = os.path.exists(PROGRAM)
SERVICE = "v2.KeyManagementService"
KEY, PROVIDER, CLUSTER = "kubernetes", "kekd", "prod-1"
GRANTS = ("wrap", "unwrap", "key.read")
CRYPTO = ("wrap", "unwrap", "verify", "rewrap", "generate")
DEADLINE = 3  # seconds, the API server's own
Code = grpc.StatusCode

# Before exec: what a service manager does with a socket that it holds.
ACTIVATE = """
import os, sys
fd = int(sys.argv[1])
os.dup2(fd, 3)
if fd != 3:
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""

# ---- messages, made from the table of fields: no generated file ----

STRING, BYTES, MESSAGE = 9, 12, 11
ANNOTATIONS = "Annotations"  # stands for map<string, bytes>
MESSAGES = {
    "StatusRequest": (),
    "StatusResponse": (("version", STRING), ("healthz", STRING), ("key_id", STRING)),
    "EncryptRequest": (("plaintext", BYTES), ("uid", STRING)),
    "EncryptResponse": (("ciphertext", BYTES), ("key_id", STRING), ("annotations", ANNOTATIONS)),
    "DecryptRequest": (("ciphertext", BYTES), ("uid", STRING), ("key_id", STRING),
                       ("annotations", ANNOTATIONS)),
    "DecryptResponse": (("plaintext", BYTES),),
}


def add_field(message, number, name, kind, repeated=False):
    field = message.field.add(name=name, number=number, label=3 if repeated else 1)
    if isinstance(kind, str):
        field.type, field.type_name = MESSAGE, kind
    else:
        field.type = kind


def add_message(file, name, fields):
    message = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields, 1):
        if kind != ANNOTATIONS:
            add_field(message, number, field, kind)
            continue
        entry = message.nested_type.add(name="AnnotationsEntry")
        entry.options.map_entry = True
        add_field(entry, 1, "key", STRING)
        add_field(entry, 2, "value", BYTES)
        add_field(message, number, field, f".v2.{name}.AnnotationsEntry", repeated=True)


def make_messages():
    file = descriptor_pb2.FileDescriptorProto(name="kms.proto", package="v2", syntax="proto3")
    for name, fields in MESSAGES.items():
        add_message(file, name, fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    factory = message_factory.MessageFactory(pool)
    return {n: factory.GetPrototype(pool.FindMessageTypeByName(f"v2.{n}")) for n in MESSAGES}


TYPES = make_messages()


# ---- what was encrypted ----

@dataclass(frozen=True)
class Sealed:
    """An answer to Encrypt: what an API server keeps in etcd."""

    ciphertext: bytes
    key_id: str
    annotations: dict
    seed: bytes = b""

    def but(self, **changes):
        return replace(self, **changes)

    def annotated(self, **changes):
        """Annotations of ours by their first label (key=…); None: without it."""
        annotations = dict(self.annotations)
        for label, value in changes.items():
            annotations[f"{label}.kms.kekd"] = value
        return replace(self, annotations={k: v for k, v in annotations.items() if v is not None})

    @property
    def version_id(self):
        """As the blob's header has it (doc/formats/blob.md)."""
        return str(uuid.UUID(bytes=self.ciphertext[4:20]))

    def of_version(self, version_id):
        """The same under the name of another version."""
        blob = self.ciphertext[:4] + uuid.UUID(version_id).bytes + self.ciphertext[20:]
        return replace(self, ciphertext=blob)


def activation(key_id):
    return int(key_id.rpartition(".")[2])


# ---- the API server's side ----

class Failed(AssertionError):
    """A gRPC error, which a test may also expect."""

    def __init__(self, method, error):
        super().__init__(f"{method}: {error.code()}: {error.details()}")
        self.code = error.code()
        self.details = error.details() or ""


class Stub:
    """One channel, as one API server has. authority: what it sends in its place."""

    def __init__(self, path, authority=None, options=()):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1),
                   *options]
        if authority is not None:
            options.append(("grpc.default_authority", authority))
        self.channel = grpc.insecure_channel("unix:" + path, options=options)
        self.methods = {}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.channel.close()

    def method(self, name):
        """Bytes in, bytes out."""
        path = name if name.startswith("/") else f"/{SERVICE}/{name}"
        if path not in self.methods:
            self.methods[path] = self.channel.unary_unary(path)
        return self.methods[path]

    def raw(self, method, data, timeout=DEADLINE, **options):
        try:
            return self.method(method)(data, timeout=timeout, **options)
        except grpc.RpcError as e:
            raise Failed(method, e) from None

    def start(self, method, timeout=DEADLINE, **fields):
        """Without waiting: a future of the answer's bytes."""
        data = TYPES[f"{method}Request"](**fields).SerializeToString()
        return self.method(method).future(data, timeout=timeout)

    def call(self, method, timeout=DEADLINE, options=None, **fields):
        data = TYPES[f"{method}Request"](**fields).SerializeToString()
        answer = self.raw(method, data, timeout, **(options or {}))
        return TYPES[f"{method}Response"].FromString(answer)

    def status(self, **options):
        return self.call("Status", **options)

    def key_id(self, **options):
        """What Status announces, and that it is well."""
        answer = self.status(**options)
        assert (answer.version, answer.healthz) == ("v2", "ok"), answer
        return answer.key_id

    def encrypt(self, seed=None, uid="uid-1", **options):
        seed = os.urandom(32) if seed is None else seed
        answer = self.call("Encrypt", plaintext=seed, uid=uid, **options)
        return Sealed(answer.ciphertext, answer.key_id, dict(answer.annotations), seed)

    def decrypt(self, sealed, uid="uid-2", **options):
        return self.call("Decrypt", ciphertext=sealed.ciphertext, uid=uid, key_id=sealed.key_id,
                         annotations=sealed.annotations, **options).plaintext

    def start_decrypt(self, sealed, **options):
        return self.start("Decrypt", ciphertext=sealed.ciphertext, uid="uid-3",
                          key_id=sealed.key_id, annotations=sealed.annotations, **options)

    def opens(self, sealed, **options):
        assert self.decrypt(sealed, **options) == sealed.seed
        return True

    def refuses(self, code, method, *arguments, **options):
        """The text of the error that the call gets; code: one, or several of which any will do."""
        codes = code if isinstance(code, tuple) else (code,)
        try:
            answer = getattr(self, method)(*arguments, **options)
        except Failed as e:
            assert e.code in codes, e
            return e.details
        raise AssertionError(f"{method} was answered with {answer!r}, not refused with {codes}")

    def healthy(self, **options):
        """Status is no error just now."""
        try:
            return bool(self.key_id(**options))
        except Failed:
            return False


# ---- the plugin ----

_numbers = itertools.count(1)


class Plugin(Program):
    """A kekd-kms with a directory, a client and a certificate of its own. at: a Kekd or a Pair
    that runs (or a list of endpoints, with admin: a Kekd or Pair that knows the client). held: the
    socket is held open by this process, as a service manager does it."""

    def __init__(self, pki, at, key=KEY, provider=PROVIDER, cluster=CLUSTER, endpoints=None,
                 grants=GRANTS, held=False, metrics=True, name=None, record=True, **settings):
        self.pki, self.at = pki, at
        self.key, self.cluster, self.provider = key, cluster, provider
        self.name = name or f"kube-{os.getpid()}-{next(_numbers)}"
        self.dir = tempfile.mkdtemp(prefix="kekd-kms-")
        self.process = None
        self.environment = dict(os.environ)
        self.wrapper = []
        self.stubs = []
        self.log_path = self.path("log")
        self.config_path = self.path("kekd-kms.yaml")
        self.socket = self.path("kms.sock")
        self.listener = self.listen() if held else None
        self.metrics_port = free_port() if metrics else None
        os.mkdir(self.path("state"), 0o700)
        self.certificate = pki.client(self.name)
        self.install(self.certificate)
        shutil.copy(pki.ca.pem, self.path("ca.pem"))
        self.settings = self.default_settings(endpoints or self.urls())
        overlay(self.settings, settings)
        self.write_config()
        if record:
            self.register(grants)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    # -- what it stands on

    def urls(self):
        if isinstance(self.at, Kekd):
            return [f"https://127.0.0.1:{self.at.port}"]
        return self.at.endpoints

    def default_settings(self, endpoints):
        settings = {
            "provider": self.provider, "cluster": self.cluster, "key": self.key,
            "endpoints": list(endpoints),
            "ca": self.path("ca.pem"), "certificate": self.path("client.pem"),
            "certificate_key": self.path("client.key"),
            "socket": {"path": self.socket},
            "state_dir": self.path("state"),
            "probe": "1s",
        }
        if self.metrics_port:
            settings["metrics"] = f"127.0.0.1:{self.metrics_port}"
        return settings

    def write_config(self, text=None):
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(text if text is not None else yaml(self.settings))

    def install(self, certificate):
        """The key first: it belongs to the certificate that comes after it."""
        for source, name in ((certificate.key, "client.key"), (certificate.pem, "client.pem")):
            shutil.copy(source, self.path(name + ".new"))
            os.chmod(self.path(name + ".new"), 0o600)
            os.rename(self.path(name + ".new"), self.path(name))

    def register(self, grants=GRANTS, operations=None):
        """The key, if there is none, and the client."""
        with self.at.http("admin-1") as admin:
            if admin.get(f"/v1/keys/{self.key}").status == 404:
                admin.create_key(self.key)
            admin.put_client(self.name, ["uri:" + spiffe(self.name)],
                             [{"keys": self.key, "operations": list(operations or grants)}])

    def grant(self, *operations):
        """These and no others, from now on."""
        with self.at.http("admin-1") as admin:
            etag = admin.ok("GET", f"/v1/clients/{self.name}").etag
            grants = [{"keys": self.key, "operations": list(operations)}] if operations else []
            admin.ok("PUT", f"/v1/clients/{self.name}",
                     {"identities": ["uri:" + spiffe(self.name)], "grants": grants}, etag=etag)

    def listen(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.bind(self.socket)
        os.chmod(self.socket, 0o600)
        s.listen(128)
        return s

    # -- running it

    def command(self, *arguments):
        command = [*self.wrapper, PROGRAM, *arguments, "--config", self.config_path]
        if self.listener:
            return [sys.executable, "-c", ACTIVATE, str(self.listener.fileno()), *command]
        return command

    def run(self, *arguments, timeout=PATIENCE):
        """In the foreground, to its end: (exit status, what it said)."""
        done = subprocess.run(self.command(*arguments), env=self.environment, check=False,
                              text=True, timeout=timeout, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        return done.returncode, done.stdout

    def start(self, ready=True):
        fds = (self.listener.fileno(),) if self.listener else ()
        self.spawn(self.command(), env=self.environment, pass_fds=fds)
        self.wait_listening()
        if ready:
            self.wait_ready()
        return self

    def wait_listening(self, seconds=PATIENCE):
        def listening():
            assert self.process.poll() is None, "kekd-kms ended:\n" + self.log()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
                return s.connect_ex(self.socket) == 0
        wait_for(listening, "kekd-kms listens", seconds)

    def wait_ready(self, seconds=PATIENCE):
        try:
            with self.stub(kept=False) as stub:
                wait_for(stub.healthy, "Status is well", seconds, 0.05)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.log()[-6000:]}") from None
        return self

    def wait_sick(self, seconds=PATIENCE, about=""):
        """Until Status is an error whose text has this; the text."""
        def is_sick():
            if stub.healthy():
                return None
            text = stub.refuses(Code.UNAVAILABLE, "status")
            return text if about in text else None

        with self.stub(kept=False) as stub:
            return wait_for(is_sick, f"Status is an error about {about!r}", seconds, 0.05)

    @property
    def pid(self):
        return self.process.pid

    def stop(self, seconds=PATIENCE):
        """SIGTERM; the exit status."""
        if self.process is None:
            return None
        kill(self.pid, signal.SIGCONT)
        kill(self.pid, signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("kekd-kms did not stop:\n" + self.log()[-4000:]) from None
        self.process = None
        return status

    def kill(self):
        kill(self.pid)
        self.process.wait()
        pid, self.process = self.pid, None
        assert not alive(pid)

    def restart(self, ready=True):
        self.stop()
        return self.start(ready)

    def remove(self):
        try:
            for stub in self.stubs:
                stub.close()
            status = self.stop()
            fault = re.search(r"(Address|Leak|Thread)Sanitizer|runtime error:", self.log())
            assert not fault, self.log()[-8000:]
            assert status in (None, 0), f"kekd-kms ended with {status}:\n{self.log()[-4000:]}"
        finally:
            if self.listener:
                self.listener.close()
            shutil.rmtree(self.dir, ignore_errors=True)

    # -- speaking to it

    def stub(self, kept=True, **options):
        """A channel; kept: closed with the plugin."""
        stub = Stub(self.socket, **options)
        if kept:
            self.stubs.append(stub)
        return stub

    def metrics_text(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            body = answer.read().decode()
            assert answer.status == 200, body
            return body
        finally:
            connection.close()

    def families(self):
        return {f.name: f for f in text_string_to_metric_families(self.metrics_text())}

    def samples(self, name, **labels):
        """All with that name and these labels among theirs."""
        return [s for f in text_string_to_metric_families(self.metrics_text()) for s in f.samples
                if s.name == name and labels.items() <= s.labels.items()]

    def metric(self, name, **labels):
        """Their sum; 0: none."""
        return sum(s.value for s in self.samples(name, **labels))

    # -- what kekd saw of it

    def nodes(self):
        return [self.at] if isinstance(self.at, Kekd) else self.at.nodes

    def crypto_requests(self):
        """That wrap, unwrap or verify, of all clients: refused ones too, which the audit log sums
        up when there are many."""
        count = 0
        for node in self.nodes():
            with node.http("admin-1") as admin:
                text = admin.ok("GET", "/metrics").body.decode()
            count += sum(s.value for f in text_string_to_metric_families(text) for s in f.samples
                         if s.name == "kekd_requests_total" and s.labels["operation"] in CRYPTO)
        return int(count)

    def asked(self, operation=None):
        """Requests of this plugin in the audit log, oldest first; operation: wrap, unwrap …"""
        return [r for node in self.nodes() for r in node.audit_records(client=self.name)
                if operation in (None, r["operation"]) and r["type"] != "intent"]


class Quiet:
    """In its block nobody may wrap or unwrap at kekd: for a plugin, and others beside it, whose
    probes have not their time. (The key's record may be read, which goes on by itself.)"""

    def __init__(self, plugin):
        self.plugin = plugin

    def __enter__(self):
        self.before = self.plugin.crypto_requests()
        return self

    def __exit__(self, kind, *rest):
        if kind is None:
            after = self.plugin.crypto_requests()
            assert after == self.before, f"{after - self.before} requests reached kekd"


class Beside:
    """work() again and again in a thread while the block runs, once at the least; what fails in it
    fails the test."""

    def __init__(self, work, every=0.0):
        self.work, self.every = work, every
        self.ended = threading.Event()
        self.results, self.errors = [], []
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        last = False
        while not last:  # once more behind the end: what the block waited for is seen here, too
            last = self.ended.is_set()
            try:
                self.results.append(self.work())
            except BaseException as e:
                self.errors.append(e)
                return
            self.ended.wait(self.every)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *rest):
        self.ended.set()
        self.thread.join()
        if kind is None and self.errors:
            raise self.errors[0]
        assert kind or self.results, "it was never done"


class Reader(Beside):
    """A client that decrypts all the while. It reads what the plugin sends at all times, as Go's
    gRPC does, and Python's with a subscriber."""

    def __init__(self, path, every=0.01, timeout=DEADLINE):
        super().__init__(self.opens, every)
        self.stub, self.timeout = Stub(path), timeout
        self.stub.channel.subscribe(lambda state: None)
        self.sealed = self.stub.encrypt()
        self.failed = []

    def opens(self):
        try:
            return self.stub.opens(self.sealed, timeout=self.timeout)
        except Failed as e:
            self.failed.append(e)
            return False

    def passes(self, number):
        """So many more are answered."""
        before = self.results.count(True)
        wait_for(lambda: self.results.count(True) > before + number or self.errors,
                 "calls are answered")

    def __exit__(self, *exc):
        try:
            super().__exit__(*exc)
        finally:
            self.stub.close()


class Load:
    """API servers that write and read all the while, each call with the deadline that they have."""

    def __init__(self, plugin):
        self.slowest = collections.Counter()
        self.seals = [plugin.stub().encrypt()]
        self.loops = [Beside(lambda s=plugin.stub(): self.write(s), 0.01),
                      Beside(lambda s=plugin.stub(): self.read(s), 0.005),
                      Beside(lambda s=plugin.stub(): self.read(s), 0.005)]

    def timed(self, what, work):
        begin = time.monotonic()
        done = work()
        self.slowest[what] = max(self.slowest[what], time.monotonic() - begin)
        return done

    def write(self, stub):
        self.seals.append(self.timed("Encrypt", lambda: stub.encrypt(timeout=DEADLINE)))

    def read(self, stub):
        sealed = random.choice(self.seals)
        self.timed("Decrypt", lambda: stub.opens(sealed, timeout=DEADLINE))

    def __enter__(self):
        for loop in self.loops:
            loop.__enter__()
        time.sleep(0.3)
        return self

    def __exit__(self, *exc):
        for loop in self.loops:
            loop.ended.set()
        for loop in self.loops:
            loop.__exit__(*exc)
