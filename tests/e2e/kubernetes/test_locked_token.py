# SPDX-License-Identifier: Apache-2.0
"""The token is locked: API servers say so, stop writing three minutes later, and go on by
themselves when it is unlocked. It waits for those minutes: a file of its own, beside the others."""

import time

import pytest

from kekd import FAULTY_MODULE
from outage import keeps_out, recovers, recovers_or_starts, says_so, writes, writes_stop

LOCKED = ("C_Login return CKR_PIN_LOCKED", "C_EncryptInit,C_DecryptInit logout")


@pytest.fixture(scope="module")
def cluster(make_cluster, faults):
    cluster = make_cluster(module=FAULTY_MODULE, environment=faults.environment)
    cluster.servers[0].create("kept", b"from before")
    return cluster


def unlock(cluster, faults):
    """As the security officer does it, and then the operator."""
    faults.set()
    for node in cluster.pair.nodes:
        done = node.run("retry-pin")
        assert done.returncode == 0 or "nobody waits" in done.stdout, done.stdout


def test_a_locked_token_is_told_of_at_once_keeps_a_new_start_out_and_recovers(cluster, faults):
    a, b = cluster.servers
    faults.set(*LOCKED)
    begin = time.monotonic()
    try:
        assert a.plugin.wait_sick(about="hsm_unavailable")
        says_so(a, "hsm_unavailable")
        # It has its seed for three minutes; one that starts has none.
        assert writes(a, "locked")
        keeps_out(b)
        writes_stop(a, begin)
    finally:
        unlock(cluster, faults)
    recovers(a, 120)
    recovers_or_starts(b)
