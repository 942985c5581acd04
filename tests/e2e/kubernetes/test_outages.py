# SPDX-License-Identifier: Apache-2.0
"""What an outage of kekd or of the plugin is for a cluster: who goes on, for how long, who says so,
and how it ends."""

import time

import pytest

from cluster import KEY
from kekd import LONG, PATIENCE, wait_for
from kms import Load
from outage import (Writes, keeps_out, recovers, recovers_or_starts, says_so, writes,
                    writes_stop)


@pytest.fixture(scope="module")
def shared(make_cluster):
    cluster = make_cluster()
    cluster.servers[0].create("kept", b"from before")
    return cluster


@pytest.fixture
def cluster(shared):
    """Well: both API servers serve, and had a good Status only now."""
    for server in shared.servers:
        wait_for(lambda s=server: s.kms_health()[0] == 200, f"{server.name} is well", 90, 0.5)
    return shared


def test_no_write_fails_while_the_active_is_killed_and_an_api_server_starts(cluster):
    a, b = cluster.servers
    active = cluster.pair.active()
    # Writes have a seed already; Load is Encrypts and Decrypts, one of which the kill meets.
    with Writes([a], "killed") as written, Load(a.plugin):
        written.more(3)
        active.kill_all()
        # It needs an Encrypt to begin with, from the node that is left.
        b.restart()
        assert b.value("kept") == b"from before"
        assert writes(b, "killed")
        cluster.pair.takes_over(PATIENCE, but=active)
        active.start()
        cluster.pair.all_ready()
        # The next seed of each API server is of the new active's making.
        cluster.rotate()
        written.more()


def test_writes_go_on_while_the_plugin_is_down_for_less_than_three_minutes(cluster):
    a = cluster.servers[0]
    with Writes([a], "no-plugin") as written:
        a.plugin.stop()
        try:
            says_so(a, "kms-provider-0")
            time.sleep(120 if LONG else 5)
            written.more()
            assert a.value("kept") == b"from before"
        finally:
            a.plugin.start(ready=False)
        # The socket was held open throughout: no back-off of minutes.
        recovers(a, 30)


def test_while_kekd_stands_still_what_was_read_is_readable_and_writes_go_on(cluster):
    a, b = cluster.servers
    assert a.value("kept") == b"from before"
    for node in cluster.pair.nodes:
        node.suspend()
    try:
        says_so(a, "kms-provider-0")
        assert a.value("kept") == b"from before"
        assert writes(a, "still")
        # Its seeds went with its memory.
        keeps_out(b)
    finally:
        for node in cluster.pair.nodes:
            node.resume()
    cluster.pair.active(60)
    recovers(a)
    recovers_or_starts(b)


def test_a_frozen_key_unwraps_and_does_not_wrap_as_the_runbook_has_it(cluster):
    a, b = cluster.servers
    kept = cluster.sealed("kept")
    cluster.pair.kekctl("key", "freeze", KEY)
    begin = time.monotonic()
    try:
        assert a.plugin.wait_sick(about="frozen")
        for server in (a, b):
            says_so(server, f"kekctl key unfreeze {KEY}")
        # Reads go on, also of seeds that have to be unwrapped.
        assert a.value("kept") == b.value("kept") == b"from before"
        answer = a.plugin.stub().call("Decrypt", ciphertext=kept.seed, uid="e2e",
                                      key_id=kept.key_id, annotations=kept.annotations)
        assert len(answer.plaintext) == 32
        assert writes(a, "frozen")
        keeps_out(b)
        if LONG:
            writes_stop(a, begin)
    finally:
        cluster.pair.kekctl("key", "unfreeze", KEY)
    # Nothing has to be done to plugins or API servers.
    recovers(a, 60)
    recovers_or_starts(b)
