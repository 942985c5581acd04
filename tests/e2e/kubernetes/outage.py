# SPDX-License-Identifier: Apache-2.0
"""What the tests of outages share: clients that write all the while, what an API server says of its
plugin, and when it is well again."""

import http.client
import time

import pytest

from cluster import SEED_LIFE, STATUS, ApiError
from kekd import PATIENCE, wait_for
from kms import Beside

ERRORS = (ApiError, OSError, http.client.HTTPException)


class Writes:
    """Secrets written and read through these servers all the while; each must succeed."""

    def __init__(self, servers, begin):
        self.servers, self.begin, self.count = servers, begin, 0
        self.beside = Beside(self.one, every=0.05)

    def one(self):
        self.count += 1
        for server in self.servers:
            name = f"{self.begin}-{server.name}-{self.count}"
            server.create(name, name.encode())
            assert server.value(name) == name.encode()

    def __enter__(self):
        self.beside.__enter__()
        return self

    def __exit__(self, *exc):
        self.beside.__exit__(*exc)

    def more(self, count=10):
        """So many are written from now on, each at every server."""
        done = self.beside.results
        enough = len(done) + count
        wait_for(lambda: len(done) >= enough or self.beside.errors, f"{count} more are written")
        assert not self.beside.errors, self.beside.errors


def writes(server, name):
    try:
        server.create(f"{name}-{time.monotonic_ns()}")
        return True
    except ERRORS:
        return False


def says_so(server, reason):
    """Within one interval of Status the health of the API server tells of it, and why."""
    status, text = wait_for(lambda: server.kms_health()[0] != 200 and server.kms_health(),
                            f"{server.name} says so", STATUS + PATIENCE, every=0.5)
    assert status == 500 and reason in text, text


def keeps_out(server):
    """One that starts now is not ready, says for want of whom, and neither reads nor writes."""
    server.restart(ready=False)
    wait_for(lambda: server.process.poll() is not None or
             "[-]kms-providers failed" in server.health()[1],
             f"{server.name} waits for its plugin, or has ended", 120, every=0.5)
    assert server.health()[0] != 200 and not writes(server, "new")
    with pytest.raises(ERRORS):
        server.value("kept")


def recovers(server, seconds=STATUS + 2 * PATIENCE):
    wait_for(lambda: server.kms_health()[0] == 200, f"{server.name} is well again", seconds, 0.5)
    server.wait_ready()
    server.create(f"after-{time.monotonic_ns()}")
    assert server.value("kept") == b"from before"


def recovers_or_starts(server):
    """One that was started meanwhile has ended by itself, or waits; a service manager would see."""
    wait_for(lambda: server.process.poll() is not None or server.health()[0] == 200,
             f"{server.name} ends or is ready", 120, every=0.5)
    if server.process.poll() is not None:
        server.restart()
    recovers(server)


def writes_stop(server, begin):
    """Three minutes after its last good Status, for want of a seed, and reads go on."""
    def refused():
        try:
            server.create(f"late-{time.monotonic_ns()}")
            return None
        except ApiError as e:
            return e
    error = wait_for(refused, "writes stop", SEED_LIFE + STATUS, every=1)
    assert time.monotonic() - begin > SEED_LIFE - 2 * STATUS
    assert error.status == 500 and "expired at" in str(error), error
    assert server.value("kept") == b"from before"
