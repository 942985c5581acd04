# SPDX-License-Identifier: Apache-2.0
"""Two kekd (or more) and the etcd that they share: each node reaches it through proxies of its own,
so that a test can cut off one and not the other."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from urllib.parse import urlsplit

from etcd import Etcd
from kekd import BUILD, PATIENCE, Http, Kekd, is_stopped, kill, wait_for
from proxy import Proxies

LEASE = 5
COMPUTING = ("/wrap", "/unwrap", "/generate", "/rewrap")
REDIRECTS_MAX = 3


SUSPENSIONS = 100


def holds_lock(pid):
    """Waiting for one (a line with an arrow) is not holding it."""
    with open("/proc/locks", encoding="ascii") as f:
        return any(line.split()[4] == str(pid) for line in f if "->" not in line)


class Node(Kekd):
    """One of a pair. tokens_of: the node whose token directory is this one's too; None: its own."""

    etcd_host = "127.0.0.1"  # where it reaches its proxies before etcd

    def __init__(self, pair, number, tokens_of=None, **options):
        self.pair = pair
        self.name = f"node-{number}"
        self.tokens_of = tokens_of
        self.etcd = Proxies([m.port for m in pair.etcd.members], self.etcd_host)
        super().__init__(pair.pki, node=self.name, **options)
        self.settings["url"] = self.url
        self.settings["store"] = {**self.store_settings(), **pair.store}
        self.write_config()

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def make_token(self, pin):
        if self.tokens_of is None:
            super().make_token(pin)
            return
        self.write_softhsm_conf(self.tokens_of.path("tokens"))
        self.token_files = self.tokens_of.token_files
        self.write_pin(pin)

    def clone_token(self, other):
        """What a vendor's cloning does: the other's objects in a token of its own."""
        shutil.rmtree(self.path("tokens"), ignore_errors=True)
        shutil.copytree(other.path("tokens"), self.path("tokens"))
        self.write_softhsm_conf(self.path("tokens"))

    def store_settings(self):
        etcd = self.pair.etcd
        store = {"engine": "etcd",
                 "endpoints": [f"{etcd.scheme}://{self.etcd_host}:{p}" for p in self.etcd.ports]}
        if etcd.tls:
            store["ca"] = self.copied(etcd.ca, "etcd-ca.pem")
        if etcd.client_certificates:
            store["certificate"] = self.copied(etcd.client.pem, "etcd-client.pem")
            store["key"] = self.copied(etcd.client.key, "etcd-client.key")
        if etcd.auth:
            user, password_file = etcd.add_user(self.name)
            store["user"] = user
            store["password_file"] = self.copied(password_file, "etcd-password")
        return store

    def copied(self, path, name):
        shutil.copy(path, self.path(name))
        self.own(self.path(name), self.uid, 0o600)
        return self.path(name)

    def remove(self):
        try:
            self.resume()
            super().remove()
        finally:
            self.etcd.close()

    def joined(self, *arguments, status=0, timeout=90):
        """What kekd join says, on standard output and the rest; status None: any."""
        done = subprocess.run(
            [os.path.join(BUILD, "kekd"), "join", *arguments, "--config", self.config_path],
            env=self.environment, check=False, capture_output=True, text=True, timeout=timeout)
        assert status is None or done.returncode == status, (
            f"kekd join: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    # -- signals to all of its processes at once

    def signal(self, number):
        for pid in self.family():
            kill(pid, number)

    def suspend(self):
        """Not while a worker holds a lock of SoftHSM's files: the other node, which has the same
        token, would wait for it, which no token in hardware does."""
        workers = self.workers()
        for _ in range(SUSPENSIONS):
            self.signal(signal.SIGSTOP)
            wait_for(lambda: all(is_stopped(p) for p in workers), "all stand still")
            if not any(holds_lock(p) for p in workers):
                return
            self.resume()
            time.sleep(0.001)
        raise AssertionError("a worker held a lock each time")

    def resume(self):
        if self.process and self.process.poll() is None:
            self.signal(signal.SIGCONT)

    def is_active(self):
        return self.health("active")[0] == 200

    def status(self, name="admin-1"):
        with self.http(name, timeout=5) as h:
            return h.status()


class Everywhere(Http):
    """One client with every node's address, as libkekdclient is: the next node when one does not
    answer or says 503, a redirection followed, and no change repeated that may have been made."""

    def __init__(self, nodes, certificate, timeout=5, **options):
        super().__init__(nodes[0], certificate, **options)
        self.each = [Http(n, certificate, timeout=timeout, **options) for n in nodes]
        self.current = 0
        self.asked = []  # ports, of the last request

    def close(self):
        for h in self.each:
            h.close()

    @staticmethod
    def may_repeat(method, path, headers):
        headers = dict(headers)
        return (method == "GET" or path.split("?")[0].endswith(COMPUTING) or
                "If-Match" in headers or "If-None-Match" in headers)

    def follow(self, h, method, path, body, headers):
        """As h's node answers, or whom it names."""
        for _ in range(REDIRECTS_MAX + 1):
            self.asked.append(h.address[1])
            reply = h.raw(method, path, body, headers)
            if reply.status != 307:
                return reply
            target = urlsplit(reply.headers["Location"])
            h = next(e for e in self.each if e.address[1] == target.port)
        raise AssertionError("redirected in a circle")

    @staticmethod
    def reach(h):
        """A connection is there."""
        try:
            if h.connect().sock is None:
                h.connection.connect()
        except (OSError, http.client.HTTPException):
            h.close()
            raise

    def raw(self, method, path, body=None, headers=()):
        self.asked = []
        reply = failure = None
        # Twice: a connection that was kept may be that of a process which is gone.
        for n in range(2 * len(self.each)):
            number = (self.current + n) % len(self.each)
            h = self.each[number]
            try:
                self.reach(h)
            except (OSError, http.client.HTTPException) as e:
                failure = e  # nothing was sent
                continue
            try:
                reply = self.follow(h, method, path, body, headers)
            except (OSError, http.client.HTTPException) as e:
                failure = e
                if not self.may_repeat(method, path, headers):
                    raise
                continue
            if reply.status != 503:
                self.current = number
                return reply
        if reply is None:
            raise failure
        return reply


class Pair:
    """members, tls, auth, client_certificates: etcd's. shared_token: all nodes use the token
    directory of the first; else each has a token of its own, empty but the first's. store: more of
    that section of each configuration; kinds: {number: another class than Node}; settings: of
    Kekd."""

    def __init__(self, pki, nodes=2, members=1, tls=False, auth=False, client_certificates=False,
                 shared_token=True, store=None, etcd=None, kinds=None, **settings):
        self.pki = pki
        self.store = {"lease": f"{LEASE}s", **(store or {})}
        self.settings = settings
        self.shared_token = shared_token
        self.kinds = kinds or {}
        self.nodes = []
        self.etcd = etcd or Etcd(pki, members, tls, client_certificates, auth)
        try:
            self.etcd.start()
            for _ in range(nodes):
                self.make_node()
        except BaseException:
            self.remove()
            raise

    def make_node(self):
        """One more; it does not belong to the cluster before `join`."""
        first = self.nodes[0] if self.nodes and self.shared_token else None
        number = len(self.nodes) + 1
        kind = self.kinds.get(number, Node)
        self.nodes.append(kind(self, number, tokens_of=first, **self.settings))
        return self.nodes[-1]

    def start(self):
        """A cluster of all nodes, each ready, with key "demo" and client "app"."""
        self.nodes[0].init().start()
        self.active()
        self.nodes[0].populate()
        for node in self.nodes[1:]:
            self.join(node)
        return self

    def join(self, node, ready=True):
        """How a node is taken into the cluster, in one place."""
        active = self.active()
        active.kekctl("cluster", "members", "add", node.name)
        # With a token of its own it may lack the seal key, which is a test's own matter.
        node.joined(status=0 if self.shared_token else None)
        node.start(ready)
        if ready and self.shared_token:
            self.wait_signing(node)
        return node

    @staticmethod
    def wait_signing(node):
        """It has made its own key. SoftHSM overlooks, until the next change, what another process
        makes in the same token in the same instant."""
        with node.http("admin-1") as h:
            wait_for(lambda: h.status()["audit"]["signing"]["state"] == "ready", "it signs")

    def remove(self):
        faults = []
        for node in reversed(self.nodes):
            try:
                node.remove()
            except AssertionError as e:
                faults.append(str(e))
        self.etcd.remove()
        assert not faults, "\n".join(faults)

    # -- roles

    def running(self):
        return [n for n in self.nodes if n.process is not None]

    def active(self, seconds=PATIENCE, but=None):
        """The node that is active; but: another one than this."""
        def find():
            return next((n for n in self.running() if n is not but and n.is_active()), None)
        try:
            return wait_for(find, "a node is active", seconds)
        except AssertionError as e:
            logs = "\n".join(f"--- {n.name}\n{n.log()[-3000:]}" for n in self.nodes)
            raise AssertionError(f"{e}\n{logs}") from None

    def standby(self):
        active = self.active()
        return next(n for n in self.running() if n is not active)

    def roles(self):
        """(active, standby), two nodes."""
        active = self.active()
        return active, next(n for n in self.running() if n is not active)

    def takes_over(self, seconds, but):
        """How long until another node than this one is active."""
        begin = time.monotonic()
        self.active(seconds, but)
        return time.monotonic() - begin

    def all_ready(self, seconds=PATIENCE):
        """Each node knows of each that it is there and has proven everything: rotations go
        through."""
        names = {n.name for n in self.running()}

        def knows(node):
            with node.http("admin-1") as admin:
                members = admin.ok("GET", "/v1/cluster").json["members"]
            return names <= {m["node"] for m in members if m.get("ready")}

        for node in self.running():
            wait_for(lambda node=node: knows(node), f"{node.name} knows of ready members", seconds,
                     0.1)
        return self

    # -- speaking to it

    @property
    def endpoints(self):
        return [n.url for n in self.nodes]

    def http(self, name=None, certificate=None, first=None, **options):
        """A client with all endpoints; first: the node that it asks first."""
        nodes = sorted(self.nodes, key=lambda n: n is not first) if first else self.nodes
        certificate = certificate or (self.pki.clients[name] if name else None)
        return Everywhere(nodes, certificate, **options)

    def kekctl(self, *arguments, first=None, **options):
        """kekctl with all endpoints."""
        nodes = sorted(self.nodes, key=lambda n: n is not first) if first else self.nodes
        return self.nodes[0].kekctl(*arguments, endpoints=[n.url for n in nodes], **options)

    def epoch(self):
        """The create revision of the leader key; 0: nobody leads."""
        entry = self.etcd.entry("leader")
        return entry["create_revision"] if entry else 0

    def leader(self):
        """Whom etcd takes for the leader; a node's name or None."""
        value = self.etcd.get("leader")
        return json.loads(value)["node"] if value else None
