# SPDX-License-Identifier: Apache-2.0
"""What the tests of outages share: clients that write all the while, what an API server says of its
plugin, and when it is well again."""

import http.client
import time

from cluster import SEED_LIFE, STATUS, ApiError
from kekd import PATIENCE, wait_for
from kms import Beside

WRITE_ERRORS = (ApiError, OSError, http.client.HTTPException)


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
        assert exc[0] or self.count > 10


def writes(server, name):
    try:
        server.create(f"{name}-{time.monotonic_ns()}")
        return True
    except WRITE_ERRORS:
        return False


def says_so(server):
    """Within one interval of Status the health of the API server tells of it."""
    status, text = wait_for(lambda: server.kms_health()[0] != 200 and server.kms_health(),
                            f"{server.name} says so", STATUS + PATIENCE, every=0.5)
    assert status == 500 and "kms" in text, text
    return text


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
    """Three minutes after its last good Status, and reads go on."""
    wait_for(lambda: not writes(server, "late"), "writes stop", SEED_LIFE + STATUS, every=1)
    assert time.monotonic() - begin > SEED_LIFE - 2 * STATUS
    assert server.value("kept") == b"from before"
