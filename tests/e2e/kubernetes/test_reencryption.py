# SPDX-License-Identifier: Apache-2.0
"""contrib/kubernetes/reencrypt after a rotation: broken off and called again it writes every Secret
anew, and none a second time."""

import signal
import subprocess
import time

import pytest

from cluster import sealed
from kekd import LONG, wait_for
from reencryption import command, reencrypt

COUNT, RATE = (5000, 400) if LONG else (300, 60)
INTERRUPTED = 130


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster()


def broken_off(cluster, server, number, part):
    """Ended by this signal when it has written so many anew."""
    with subprocess.Popen(command(cluster, server, "--rate", str(RATE)), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        begin = len(current(cluster))

        def written():
            assert process.poll() is None, process.communicate()
            return len(current(cluster)) >= begin + part
        wait_for(written, f"{part} more are written", 120, every=0.2)
        process.send_signal(number)
        process.communicate(timeout=30)
        return process.returncode


def current(cluster):
    """The Secrets under the key_id of now."""
    key_id = cluster.key()["kms_key_id"]
    return [k for k, v in cluster.all_values().items() if sealed(v).key_id == key_id]


def test_a_reencryption_that_was_broken_off_twice_writes_every_secret_anew_and_none_twice(cluster):
    a, b = cluster.servers
    made = a.fill(COUNT)
    cluster.rotate()
    assert not current(cluster)
    part = COUNT // 6
    assert broken_off(cluster, a, signal.SIGINT, part) == INTERRUPTED
    time.sleep(0.5)
    assert broken_off(cluster, b, signal.SIGKILL, part) == -signal.SIGKILL
    assert 2 * part <= len(current(cluster)) < COUNT
    summary = reencrypt(cluster, a, "--rate", str(max(RATE, 200)))
    assert summary["complete"] and summary["resumed"]
    assert len(current(cluster)) == COUNT
    # Made once, and written once more.
    assert {cluster.entry(name)["version"] for name in made} == {2}
    assert b.values() == made
    again = reencrypt(cluster, b, "--rate", "500")
    assert again["complete"] and not again["resumed"]
    assert {cluster.entry(name)["version"] for name in made} == {2}
