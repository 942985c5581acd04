# SPDX-License-Identifier: Apache-2.0
"""The active ends, in every way, and the other node follows in the time that is promised; no client
that knows both of them notices."""

import signal
import threading
import time

import pytest

from etcd import PRESENT
from kekd import kill, wait_for
from pair import LEASE
from pair_load import Load, logs_verify, settled

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")

BEYOND = 2  # s, after the lease
CLEAN = 1  # s
ELECTION = 10  # s, at the most: etcd's own, of one or more rounds of 1 s to 2 s


class Election(threading.Thread):
    """How long from now on until another member of etcd leads."""

    def __init__(self, etcd, but):
        super().__init__(daemon=True)
        self.others = [m for m in etcd.members if m is not but]
        self.begin, self.took = time.monotonic(), None
        self.start()

    def run(self):
        while not any(m.leads() for m in self.others):
            time.sleep(0.02)
        self.took = time.monotonic() - self.begin


def kill_at_once(node):
    for pid in node.family():
        kill(pid, signal.SIGKILL)


@pytest.fixture
def pair(make_pair):
    pair = make_pair().start()
    settled(pair)
    return pair


def test_when_the_active_is_killed_no_data_key_is_refused_and_the_other_follows_in_time(pair):
    a, b = pair.roles()
    epoch = pair.epoch()
    with Load(pair) as load:
        load.rotates()
        kill_at_once(a)
        begin = time.monotonic()
        a.kill_all()
        took = pair.takes_over(LEASE + BEYOND, a)
        assert time.monotonic() - begin <= LEASE + BEYOND, took
        assert pair.epoch() > epoch and pair.leader() == b.name
        load.computes()
        a.start()
        assert settled(pair) == (b, a)
        load.rotates()


def test_both_nodes_are_killed_in_turn_and_no_rotation_is_lost(pair):
    epochs = [pair.epoch()]
    with Load(pair) as load:
        for _ in range(3):
            load.rotates()
            a, b = pair.roles()
            a.kill_all()
            pair.takes_over(LEASE + BEYOND, a)
            a.start()
            assert settled(pair) == (b, a)
            epochs.append(pair.epoch())
        load.rotates()
    assert epochs == sorted(set(epochs))
    logs_verify(pair)


def test_when_the_standby_is_killed_nothing_is_refused_and_the_active_stays(pair):
    a, b = pair.roles()
    epoch = pair.epoch()
    with Load(pair) as load:
        b.kill_all()
        time.sleep(LEASE + BEYOND)
        assert pair.active() is a and pair.epoch() == epoch
        load.computes()
        b.start()
        settled(pair)
        load.rotates()
    assert pair.epoch() == epoch


def test_a_clean_stop_under_load_hands_over_within_a_second(pair):
    with Load(pair) as load:
        for _ in range(2):
            load.rotates()
            a, b = pair.roles()
            stopper = threading.Thread(target=a.stop)
            begin = time.monotonic()
            stopper.start()
            wait_for(b.is_active, "the other one is active", LEASE + BEYOND, 0.01)
            took = time.monotonic() - begin
            stopper.join()
            assert took < CLEAN
            load.computes()
            a.start()
            assert settled(pair) == (b, a)
        load.rotates()


def test_the_active_and_the_leader_of_etcd_killed_together_are_followed_in_time(make_pair):
    pair = make_pair(members=3).start()
    a, b = settled(pair)
    with Load(pair) as load:
        load.rotates()
        member = pair.etcd.leader()
        kill_at_once(a)
        member.process.kill()
        election = Election(pair.etcd, member)
        a.kill_all()
        member.kill()
        pair.active(ELECTION + LEASE + BEYOND, but=a)
        took = time.monotonic() - election.begin
        assert election.took < ELECTION
        assert took <= election.took + LEASE + BEYOND
        load.computes()
        a.start()
        assert settled(pair) == (b, a)
        load.rotates()  # with two members of three
        member.start()
        pair.etcd.wait_healthy()


def test_the_leader_of_etcd_killed_alone_changes_no_role(make_pair):
    pair = make_pair(members=3).start()
    a, b = settled(pair)
    with Load(pair) as load:
        load.rotates()
        pair.etcd.leader().kill()
        pair.etcd.leader()
        load.rotates()
        load.computes()
    assert settled(pair) == (a, b)
