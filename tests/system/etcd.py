# SPDX-License-Identifier: Apache-2.0
"""A real etcd of the test's own: one member or three, plain or with TLS, with or without users."""

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time

from kekd import PATIENCE, Program, alive, b64, free_port, is_stopped, kill, samples, wait_for

PRESENT = bool(shutil.which("etcd") and shutil.which("etcdctl"))
ROOT, ROOT_PASSWORD = "root", "root-of-the-test"
TOKEN_GONE = 16  # gRPC: unauthenticated


def prefix_end(prefix):
    """The first key behind all that begin with this."""
    last = prefix.encode()
    return last[:-1] + bytes([last[-1] + 1])


class EtcdError(Exception):
    def __init__(self, path, status, body):
        self.status = status
        self.code = body.get("code") if isinstance(body, dict) else None
        super().__init__(f"{path}: {status} {body}")


class Member(Program):
    """One etcd process, with a directory and two ports of its own."""

    def __init__(self, etcd, number):
        self.etcd = etcd
        self.name = f"m{number}"
        self.port, self.peer_port = free_port(), free_port()
        self.data = etcd.path(self.name)
        self.log_path = etcd.path(self.name + ".log")
        self.process = None
        self.context = None
        self.suspended = False

    @property
    def url(self):
        return f"{self.etcd.scheme}://127.0.0.1:{self.port}"

    @property
    def peer_url(self):
        return f"{self.etcd.scheme}://127.0.0.1:{self.peer_port}"

    def arguments(self):
        arguments = [
            "etcd", "--name", self.name, "--data-dir", self.data,
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            "--initial-cluster", self.etcd.initial_cluster(),
            "--initial-cluster-token", self.etcd.token, "--initial-cluster-state", "new",
            "--bcrypt-cost", "4", "--logger", "zap", "--log-outputs", "stderr", *self.etcd.extra]
        if self.etcd.tls:
            files = self.etcd.certificate
            for kind in ("", "peer-"):
                arguments += [f"--{kind}cert-file", files.pem, f"--{kind}key-file", files.key]
            arguments += ["--peer-trusted-ca-file", self.etcd.ca, "--peer-client-cert-auth"]
            if self.etcd.client_certificates:
                arguments += ["--trusted-ca-file", self.etcd.ca, "--client-cert-auth"]
        return arguments

    def start(self):
        """Does not wait: a member alone of three is not healthy before another is there."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        self.spawn(self.arguments(), env=environment, cwd=self.etcd.dir)
        return self

    def end(self, number):
        self.resume()
        super().end(number)

    def stop(self):
        """As a service manager does."""
        self.end(signal.SIGTERM)

    def kill(self):
        self.end(signal.SIGKILL)

    def suspend(self):
        """There, and silent: connections are taken by the kernel and nothing is answered."""
        kill(self.process.pid, signal.SIGSTOP)
        self.suspended = True
        wait_for(lambda: is_stopped(self.process.pid), "it stands still")

    def resume(self):
        if self.suspended:
            kill(self.process.pid, signal.SIGCONT)
        self.suspended = False

    def call(self, path, body=None, token=None, timeout=5):
        """A call of the JSON gateway, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        if self.etcd.tls:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout,
                                                     context=self.etcd.context())
        try:
            connection.request("POST", "/v3/" + path, json.dumps(body or {}),
                               {"Authorization": token} if token else {})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        try:
            reply = json.loads(text)
        except ValueError:
            reply = text.decode(errors="replace")
        if answer.status != 200:
            raise EtcdError(path, answer.status, reply)
        return reply

    def status(self):
        """{"leader", "header": {"member_id", "revision"}, "dbSize"…}; None: it does not answer."""
        try:
            return self.call("maintenance/status", token=self.etcd.token_of_root(self), timeout=2)
        except (OSError, http.client.HTTPException, EtcdError):
            return None

    def metrics(self):
        """{name with labels: value}."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        if self.etcd.tls:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5,
                                                     context=self.etcd.context())
        try:
            connection.request("GET", "/metrics")
            return samples(connection.getresponse().read().decode())
        finally:
            connection.close()

    def leads(self):
        status = self.status() or {}
        return status.get("leader", "0") == status.get("header", {}).get("member_id", "none")


class Etcd:
    """members: 1 or 3. tls: https for clients and among members; client_certificates: clients need
    one of the test's CA. auth: etcd's own users; a node's may touch /kekd/CLUSTER/ alone."""

    def __init__(self, pki, members=1, tls=False, client_certificates=False, auth=False,
                 cluster="test", extra=(), directory=None, address="127.0.0.1"):
        self.pki = pki
        self.dir = directory or tempfile.mkdtemp(prefix="kekd-etcd-")
        os.chmod(self.dir, 0o755)
        self.tls, self.auth, self.cluster = tls, auth, cluster
        self.client_certificates = client_certificates
        self.extra = list(extra)
        self.token = "kekd-test"
        self.prefix = f"/kekd/{cluster}/"
        self.ca = pki.ca.pem
        self.certificate = self.client = None
        if tls:
            self.certificate = pki.ca.issue("etcd", f"DNS:localhost,IP:127.0.0.1,IP:{address}",
                                            eku="serverAuth,clientAuth", nameless=True)
            # With users and client certificates etcd's gateway refuses one that has a common name:
            # at etcd's other door that would be the user's name.
            self.client = pki.client("etcd-client", nameless=True)
        self.root_token = None
        self.secured = False
        self.members = [Member(self, n + 1) for n in range(members)]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.remove()

    # -- what it is

    @property
    def scheme(self):
        return "https" if self.tls else "http"

    @property
    def endpoints(self):
        return [m.url for m in self.members]

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def initial_cluster(self):
        return ",".join(f"{m.name}={m.peer_url}" for m in self.members)

    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        if self.client_certificates:
            context.load_cert_chain(self.client.pem, self.client.key)
        return context

    # -- running it

    def start(self):
        self.root_token = None
        for m in self.members:
            if not m.running():
                m.process = None
                m.start()
        self.wait_healthy()
        if self.auth and not self.secured:
            self.secure()
        return self

    def wait_healthy(self, seconds=PATIENCE):
        """A linearizable read is answered."""
        def healthy():
            for m in self.members:
                assert m.process is None or m.process.poll() is None, f"etcd ended:\n{m.log()}"
            try:
                self.call("kv/range", {"key": b64("health")}, timeout=2)
                return True
            except (OSError, http.client.HTTPException, EtcdError):
                return False
        wait_for(healthy, "etcd is healthy", seconds, every=0.05)

    def leader(self, seconds=PATIENCE):
        """The member that leads."""
        return wait_for(lambda: next((m for m in self.members
                                      if m.running() and not m.suspended and m.leads()), None),
                        "etcd has a leader", seconds, every=0.05)

    def stop(self):
        for m in self.members:
            m.stop()

    def kill(self):
        for m in self.members:
            m.kill()

    def suspend(self):
        for m in self.members:
            m.suspend()

    def resume(self):
        for m in self.members:
            m.resume()

    def remove(self):
        processes = [m.process.pid for m in self.members if m.process]
        try:
            self.kill()
            assert not any(alive(p) for p in processes)
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    # -- users

    def secure(self):
        """root, the role of a node, and authentication switched on."""
        self.call("auth/user/add", {"name": ROOT, "password": ROOT_PASSWORD})
        self.call("auth/role/add", {"name": ROOT})
        self.call("auth/user/grant", {"user": ROOT, "role": ROOT})
        self.call("auth/role/add", {"name": "kekd"})
        self.call("auth/role/grant", {"name": "kekd", "perm": {
            "permType": "READWRITE", "key": b64(self.prefix),
            "range_end": b64(prefix_end(self.prefix))}})
        self.call("auth/enable")
        self.secured = True

    def add_user(self, name, password="node-password"):
        """One that may touch /kekd/CLUSTER/; (name, file with the password)."""
        self.call("auth/user/add", {"name": name, "password": password})
        self.call("auth/user/grant", {"user": name, "role": "kekd"})
        return name, self.password_file(name, password)

    def password_file(self, name, password):
        path = self.path(name + ".password")
        with open(path, "w", encoding="utf-8") as f:
            f.write(password + "\n")
        os.chmod(path, 0o644)
        return path

    def change_password(self, name, password):
        self.call("auth/user/changepw", {"name": name, "password": password})

    def token_of_root(self, member):
        if not self.secured:
            return None
        if self.root_token is None:
            self.root_token = member.call("auth/authenticate", {
                "name": ROOT, "password": ROOT_PASSWORD})["token"]
        return self.root_token

    # -- as etcd's root, past every seal

    def call(self, path, body=None, timeout=5):
        """Of the first member that answers."""
        failure = None
        for _ in range(2):  # the second time with a new token
            for m in self.members:
                if not m.running() or m.suspended:
                    continue
                try:
                    return m.call(path, body, self.token_of_root(m), timeout)
                except EtcdError as e:
                    failure = e
                    if e.code == TOKEN_GONE:
                        self.root_token = None
                        break
                    if e.status < 500:
                        raise
                except (OSError, http.client.HTTPException) as e:
                    failure = e
            else:
                break
        raise failure or ConnectionError("no member of etcd is running")

    def range(self, key, end=None, **more):
        body = {"key": b64(key), **more}
        if end is not None:
            body["range_end"] = b64(end)
        return self.call("kv/range", body)

    def full(self, key):
        return key if key.startswith("/") else self.prefix + key

    def entry(self, key):
        """The whole kv, numbers as numbers, key and value as bytes; or None."""
        found = self.range(self.full(key)).get("kvs", [])
        return self.decoded(found[0]) if found else None

    @staticmethod
    def decoded(kv):
        numbers = {n: int(kv.get(n, 0)) for n in ("create_revision", "mod_revision", "version",
                                                  "lease")}
        return {"key": base64.b64decode(kv["key"]).decode(),
                "value": base64.b64decode(kv.get("value", "")), **numbers}

    def get(self, key):
        """Bytes, or None. A key without a slash at its begin is one of the cluster's."""
        entry = self.entry(key)
        return entry["value"] if entry else None

    def json(self, key):
        value = self.get(key)
        return None if value is None else json.loads(value)

    def put(self, key, value):
        body = {"key": b64(self.full(key)), "value": b64(value)}
        return int(self.call("kv/put", body)["header"]["revision"])

    def delete(self, key):
        reply = self.call("kv/deleterange", {"key": b64(self.full(key))})
        return int(reply.get("deleted", 0))

    def delete_all(self):
        self.call("kv/deleterange", {"key": b64(self.prefix),
                                     "range_end": b64(prefix_end(self.prefix))})

    def all(self, prefix=""):
        """{key below the cluster's prefix: kv}."""
        first = self.prefix + prefix
        kvs = self.range(first, prefix_end(first)).get("kvs", [])
        entries = [self.decoded(kv) for kv in kvs]
        return {e["key"].removeprefix(self.prefix): e for e in entries}

    def revision(self):
        return int(self.range("health")["header"]["revision"])

    def cluster_id(self):
        return int(self.range("health")["header"]["cluster_id"])

    def compact(self, revision=None):
        """All of the history is gone (up to revision)."""
        revision = revision or self.revision()
        self.call("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    # -- snapshots

    def etcdctl(self, *arguments, member=None):
        command = ["etcdctl", "--endpoints", (member or self.members[0]).url]
        if self.tls:
            command += ["--cacert", self.ca]
        if self.client_certificates:
            command += ["--cert", self.client.pem, "--key", self.client.key]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        environment["ETCDCTL_API"] = "3"
        if self.secured:
            environment["ETCDCTL_USER"] = f"{ROOT}:{ROOT_PASSWORD}"
        done = subprocess.run([*command, *arguments], env=environment, check=False, text=True,
                              timeout=PATIENCE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def etcdutl(self, *arguments):
        """What etcdctl does to files, which from etcd 3.6 on is a tool of its own."""
        if not shutil.which("etcdutl"):
            return self.etcdctl(*arguments)
        done = subprocess.run(["etcdutl", *arguments], check=False, text=True, timeout=PATIENCE,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def snapshot(self, name="snapshot.db"):
        path = self.path(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.etcdctl("snapshot", "save", path)
        return path

    def restore(self, snapshot, same_id=False):
        """All members stop, and start with what the snapshot holds. etcd's cluster id is another
        one then, as its documentation asks for; same_id: as if somebody had put the old files
        back."""
        self.stop()
        if not same_id:
            self.token = f"kekd-test-{time.monotonic_ns()}"
        for m in self.members:
            shutil.rmtree(m.data, ignore_errors=True)
            self.etcdutl("snapshot", "restore", snapshot, "--name", m.name, "--data-dir", m.data,
                         "--initial-cluster", self.initial_cluster(),
                         "--initial-cluster-token", self.token,
                         "--initial-advertise-peer-urls", m.peer_url)
        return self.start()

    def lose(self):
        """Gone for good: the next start is an empty etcd."""
        self.kill()
        for m in self.members:
            shutil.rmtree(m.data, ignore_errors=True)
        self.token = f"kekd-test-{time.monotonic_ns()}"
        self.secured = False
        self.root_token = None
