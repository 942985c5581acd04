# SPDX-License-Identifier: Apache-2.0
"""What an outage of kekd, of its token or of the plugin is for a cluster: who goes on, for how
long, who says so, and how it ends."""

import http.client
import time

import pytest

from cluster import SEED_LIFE, STATUS, ApiError
from kekd import FAULTY_MODULE, LONG, PATIENCE, Faults, wait_for
from kms import Beside

LOCKED = ("C_Login return CKR_PIN_LOCKED", "C_EncryptInit,C_DecryptInit logout")
WRITE_ERRORS = (ApiError, OSError, http.client.HTTPException)


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    directory.parent.chmod(0o755)
    return Faults(str(directory))


@pytest.fixture(scope="module")
def shared(make_cluster, faults):
    cluster = make_cluster(module=FAULTY_MODULE, environment=faults.environment)
    cluster.servers[0].create("kept", b"from before")
    return cluster


@pytest.fixture
def cluster(shared):
    """Well: both API servers serve, and had a good Status only now."""
    for server in shared.servers:
        wait_for(lambda s=server: s.kms_health()[0] == 200, f"{server.name} is well", 90, 0.5)
    return shared


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


def stop_token(cluster, faults):
    faults.set(*LOCKED)


def unlock_token(cluster, faults):
    """As the security officer does it, and then the operator."""
    faults.set()
    for node in cluster.pair.nodes:
        done = node.run("retry-pin")
        assert done.returncode == 0 or "nobody waits" in done.stdout, done.stdout


def test_no_write_fails_while_the_active_is_killed_and_an_api_server_starts(cluster):
    a, b = cluster.servers
    active = cluster.pair.active()
    with Writes([a], "killed"):
        time.sleep(0.5)
        active.kill_all()
        # It needs an Encrypt to begin with, from the node that is left.
        b.restart()
        assert b.value("kept") == b"from before"
        assert writes(b, "killed")
        cluster.pair.takes_over(PATIENCE, but=active)
        time.sleep(2)
    active.start()
    cluster.pair.all_ready()


def test_writes_go_on_while_the_plugin_is_down_for_less_than_three_minutes(cluster):
    a = cluster.servers[0]
    with Writes([a], "no-plugin"):
        a.plugin.stop()
        time.sleep(150 if LONG else 25)
        assert a.value("kept") == b"from before"
        a.plugin.start(ready=False)
        # The socket was held open throughout: no back-off of minutes.
        recovers(a, 30)


def test_a_locked_token_is_told_of_at_once_keeps_a_new_start_out_and_recovers(cluster, faults):
    a, b = cluster.servers
    stop_token(cluster, faults)
    begin = time.monotonic()
    try:
        assert a.plugin.wait_sick()
        says_so(a)
        # It has its seed for three minutes; one that starts has none: it neither reads nor writes.
        assert writes(a, "locked")
        b.restart(ready=False)
        time.sleep(5)
        assert b.health()[0] != 200 and not writes(b, "locked")
        if LONG:
            wait_for(lambda: not writes(a, "locked"), "writes stop", SEED_LIFE + STATUS, every=1)
            assert time.monotonic() - begin > SEED_LIFE - 2 * STATUS
            assert a.value("kept") == b"from before"
    finally:
        unlock_token(cluster, faults)
    recovers(a, 120)
    if b.process.poll() is not None:
        b.restart()  # it gave up, as its service manager would see
    recovers(b, 120)


def test_while_kekd_is_frozen_what_was_read_is_readable_and_writes_go_on(cluster):
    a, b = cluster.servers
    assert a.value("kept") == b"from before"
    for node in cluster.pair.nodes:
        node.suspend()
    try:
        says_so(a)
        assert a.value("kept") == b"from before"
        assert writes(a, "frozen")
        # Its seeds went with its memory.
        b.restart(ready=False)
        time.sleep(5)
        assert b.health()[0] != 200
    finally:
        for node in cluster.pair.nodes:
            node.resume()
    cluster.pair.active(60)
    recovers(a)
    if b.process.poll() is not None:
        b.restart()
    recovers(b)
