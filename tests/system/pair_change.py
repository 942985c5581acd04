# SPDX-License-Identifier: Apache-2.0
"""One change of a key, of which a test holds the k-th commit on its way to etcd."""

import http.client
import threading

from kekd import b64, wait_for
from test_destroy import evidence


class Asker(threading.Thread):
    """One request to one node, whose answer may take as long as it likes."""

    def __init__(self, node, path, body, etag):
        super().__init__(daemon=True)
        self.node, self.request, self.etag = node, (path, body), etag
        self.reply = self.failure = None
        self.start()

    def run(self):
        path, body = self.request
        with self.node.http("admin-1", timeout=60) as h:
            try:
                self.reply = h.call("POST", path, body, etag=self.etag)
            except (OSError, http.client.HTTPException) as e:
                self.failure = e

    def answer(self):
        """Its status; 0: the connection was lost."""
        self.join(60)
        assert not self.is_alive(), "no answer came"
        return 0 if self.failure else self.reply.status


def rotate(node, key):
    with node.http("admin-1") as h:
        etag = h.ok("GET", f"/v1/keys/{key}").etag
    return Asker(node, f"/v1/keys/{key}/rotate", {}, etag)


def destroy(node, key):
    with node.http("admin-1") as h:
        etag = h.ok("GET", f"/v1/keys/{key}").etag
        shown = evidence(h, 1, key)
    return Asker(node, f"/v1/keys/{key}/versions/1/destroy", {"evidence": shown}, etag)


def commit_of(pair, key):
    """A transaction that has this record's path."""
    return f'"{b64(pair.etcd.full("keys/" + key))}"'.encode()


def hold_commit(pair, node, key, number, act):
    """Asks for the change; its number-th commit of the key is on its way to etcd then."""
    held = [p.hold(number, commit_of(pair, key)) for p in node.etcd.all]
    asker = act(node, key)
    wait_for(lambda: any(h.caught.is_set() for h in held), "the commit is on its way", 20)
    return asker, next(h for h in held if h.caught.is_set())
