# SPDX-License-Identifier: Apache-2.0
"""Both nodes of a pair are updated one after the other, while clients wrap, unwrap and rotate; and
back again, for as long as the cluster's level has not been raised."""

import os

import pytest

from etcd import PRESENT
from kekd import BUILD
from pair_load import Load, peers, settled

NEXT = os.path.join(BUILD, "tests", "next", "kekd-net")
pytestmark = [pytest.mark.skipif(not PRESENT, reason="etcd is not installed"),
              pytest.mark.skipif(not os.path.exists(NEXT), reason="make tests/next/kekd-net")]


def install(node, net):
    """What the node runs from its next start on."""
    directory = node.path("libexec")
    os.makedirs(directory, exist_ok=True)
    for program in (net, os.path.join(BUILD, "kekd-hsm")):
        link = os.path.join(directory, os.path.basename(program))
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(program, link)
    node.environment["KEKD_LIBEXECDIR"] = directory


def update(pair, load, node, net):
    """As a package's update does: the service is stopped, and started as another release."""
    install(node, net)
    node.stop()
    load.computes()
    node.start()
    settled(pair)
    load.rotates()


def levels(node):
    return {name: m["level"] for name, m in peers(node).items()}


@pytest.fixture
def pair(make_pair):
    pair = make_pair().start()
    settled(pair)
    return pair


def test_a_rolling_update_fails_no_request_whoever_is_active(pair):
    a, b = pair.roles()
    with Load(pair) as load:
        load.rotates()
        update(pair, load, b, NEXT)  # the runbook's order: the standby first
        assert levels(a) == {a.name: 1, b.name: 2}
        assert pair.active() is a
        update(pair, load, a, NEXT)
        assert pair.roles() == (b, a)
        assert set(levels(b).values()) == {2}


def test_an_update_is_taken_back_while_the_level_was_not_raised(pair):
    old = os.path.join(BUILD, "kekd-net")
    with Load(pair) as load:
        for net in (NEXT, old):
            a, b = pair.roles()
            update(pair, load, a, net)  # the active first: the roles change each time
            assert pair.roles() == (b, a)
            update(pair, load, b, net)
        assert set(levels(pair.active()).values()) == {1}


def test_a_level_that_was_raised_under_load_fails_no_request(pair):
    with Load(pair) as load:
        for node in reversed(pair.nodes):
            update(pair, load, node, NEXT)
        pair.kekctl("cluster", "level", "2")
        load.rotates()
        update(pair, load, pair.active(), NEXT)
