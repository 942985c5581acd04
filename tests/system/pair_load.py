# SPDX-License-Identifier: Apache-2.0
"""What goes on while a test does harm to a pair: clients with every endpoint that wrap and unwrap,
and one that rotates. Each operation is kept; one of the data plane that failed fails the test."""

import collections
import http.client
import random
import threading
import time

from kekd import b64, unb64, wait_for
from pair import Everywhere

LOST = (OSError, http.client.HTTPException)
# What a rotation may be told while nobody can make it, or while another one was first.
PUT_OFF = {"no_active", "not_active", "store_unavailable", "store_held", "member_unproven",
           "version_unproven", "precondition_failed", "shutting_down", "starting", "overloaded",
           "hsm_unavailable", "hsm_timeout"}
BLOBS_KEPT = 500
SETTLED = 20  # s: a busy machine, and a lease of 5 s that must run out first

Operation = collections.namedtuple("Operation", "op key begin end status code detail port")


def peers(node):
    """{name: what this node knows of it}."""
    with node.http("admin-1") as h:
        return {m["node"]: m for m in h.ok("GET", "/v1/cluster").json["members"]}


def settled(pair, seconds=SETTLED):
    """Each node is ready, one is active, and each knows of each that it is there and ready: the
    roles, (active, standby)."""
    names = {n.name for n in pair.nodes}

    def all_know():
        try:
            return all(names <= {name for name, m in peers(node).items() if m["ready"]}
                       for node in pair.nodes)
        except (*LOST, AssertionError):
            return False
    for node in pair.nodes:
        node.wait_ready(seconds)
    wait_for(all_know, "every node is ready, and the others know it", seconds, 0.05)
    return pair.roles()


def logs_verify(pair):
    """Each node's log is whole, and holds against what the other witnessed of it."""
    for node in pair.nodes:
        for witness in pair.nodes:
            if witness is not node:
                node.kekctl("audit", "verify", node.audit_dir, "--witness", witness.audit_dir)


class Load:
    """In use for as long as its block. nodes: what its clients know of; rotate: the key that is
    rotated all the while, or None; timeout: of wrap and unwrap, on one node."""

    def __init__(self, pair, keys=("demo",), rotate="busy", clients=2, nodes=None, timeout=2,
                 change_timeout=10, pause=0.02):
        self.pair = pair
        self.nodes = nodes or pair.nodes
        self.keys = list(keys) + ([rotate] if rotate else [])
        self.rotated = rotate
        self.timeout, self.change_timeout, self.pause = timeout, change_timeout, pause
        self.history, self.crashes = [], []
        self.rotations = []  # (version, activation) as acknowledged
        self.blobs = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        work = [self.compute] * clients + ([self.turn] if rotate else [])
        self.threads = [threading.Thread(target=self.run, args=(w, n), daemon=True)
                        for n, w in enumerate(work)]

    def __enter__(self):
        if self.rotated:
            with self.pair.http("admin-1", first=self.pair.active()) as h:
                if h.get(f"/v1/keys/{self.rotated}").status == 404:
                    h.create_key(self.rotated)
        for node in self.pair.running():
            self.warm(node)
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, kind, *exc):
        if kind is None:
            wait_for(lambda: self.done() > 5, "there is a load", 10)
        self.stopping.set()
        for t in self.threads:
            t.join(60)
        if kind is None:
            self.judge()

    def warm(self, node):
        """It has heard of every key, and has wrapped under it, as one that has served for long: the
        first wrap after a start asks the store for IVs."""
        with node.http("app") as h:
            for key in self.keys:
                path, body = f"/v1/keys/{key}/wrap", {"plaintext": b64(b"x")}
                wait_for(lambda p=path, b=body: h.call("POST", p, b).status == 200,
                         f"{node.name} wraps under {key}", 10)

    # -- the clients

    def run(self, work, number):
        rng = random.Random(number)
        changes = work == self.turn
        nodes = self.nodes[number % 2:] + self.nodes[:number % 2]
        client = self.pair.pki.clients["admin-1" if changes else "app"]
        try:
            with Everywhere(nodes, client, self.change_timeout if changes else self.timeout) as h:
                while not self.stopping.wait(self.pause):
                    work(h, rng)
        except BaseException as e:
            self.crashes.append(f"{type(e).__name__}: {e}")

    def call(self, h, op, key, method, path, body=None, etag=None):
        """The reply, or None: no node answered."""
        begin = time.monotonic()
        try:
            reply = h.call(method, path, body, etag=etag)
        except LOST as e:
            self.note(op, key, begin, 0, type(e).__name__, str(e), 0)
            return None
        detail = "" if reply.status == 200 else repr(reply)
        self.note(op, key, begin, reply.status, reply.code, detail, h.asked[-1])
        return reply

    def note(self, op, key, begin, *what):
        with self.lock:
            self.history.append(Operation(op, key, begin, time.monotonic(), *what))

    def compute(self, h, rng):
        """One wrap or unwrap."""
        key = rng.choice(self.keys)
        blob = rng.choice(self.blobs) if self.blobs and rng.random() < 0.6 else None
        if blob:
            key, ciphertext, plaintext = blob
            reply = self.call(h, "unwrap", key, "POST", f"/v1/keys/{key}/unwrap",
                              {"ciphertext": ciphertext})
            if reply is not None and reply.status == 200:
                assert unb64(reply.json["plaintext"]) == plaintext, "another data key"
            return
        plaintext = rng.randbytes(32)
        reply = self.call(h, "wrap", key, "POST", f"/v1/keys/{key}/wrap",
                          {"plaintext": b64(plaintext)})
        if reply is not None and reply.status == 200 and len(self.blobs) < BLOBS_KEPT:
            self.blobs.append((key, reply.json["ciphertext"], plaintext))

    def turn(self, h, rng):
        """One rotation."""
        key = self.rotated
        found = self.call(h, "read", key, "GET", f"/v1/keys/{key}")
        if found is None or found.status != 200:
            return
        reply = self.call(h, "rotate", key, "POST", f"/v1/keys/{key}/rotate", {}, found.etag)
        if reply is not None and reply.status == 200:
            self.rotations.append((reply.json["primary"], reply.json["activation"]))
        self.stopping.wait(rng.uniform(0.2, 0.6))

    # -- what came of it

    def data(self):
        return [o for o in self.history if o.op in ("wrap", "unwrap")]

    def failed(self):
        return [o for o in self.data() if o.status != 200]

    def done(self, begin=0, end=float("inf")):
        """Operations of the data plane that were begun and ended well in this time."""
        return sum(o.status == 200 and o.begin >= begin and o.end <= end for o in self.data())

    def rotates(self, seconds=30):
        """Waits for a rotation that begins from now on and is made."""
        begin = time.monotonic()
        try:
            wait_for(lambda: any(o.op == "rotate" and o.status == 200 and o.begin >= begin
                                 for o in self.history), "a rotation is made", seconds, 0.05)
        except AssertionError as e:
            told = [o for o in self.history if o.op in ("read", "rotate") and o.begin >= begin]
            raise AssertionError(f"{e}: {told[-3:]}") from None

    def computes(self, seconds=10):
        """Waits for an operation of the data plane that begins from now on and is answered."""
        begin = time.monotonic()
        wait_for(lambda: self.done(begin), "a data key is answered", seconds, 0.02)

    def judge(self):
        assert not self.crashes, self.crashes
        failed = self.failed()
        assert not failed, f"{len(failed)} of {len(self.data())} failed: {failed[:3]}"
        self.judge_rotations()

    def judge_rotations(self):
        """None was told what is no answer to give, no number was given twice, none is lost."""
        wrong = [o for o in self.history if o.op == "rotate" and o.status not in (0, 200)
                 and o.code not in PUT_OFF]
        assert not wrong, wrong[:3]
        for numbers in zip(*self.rotations):
            assert list(numbers) == sorted(set(numbers)), f"used twice: {numbers}"
        if self.rotations:
            with self.pair.http("admin-1", first=self.pair.active()) as h:
                now = h.key(self.rotated)
            assert now["activation"] >= self.rotations[-1][1], "a rotation is lost"
            versions = {v["version"] for v in now["versions"]}
            assert versions >= {v for v, _ in self.rotations}, "a version is lost"
