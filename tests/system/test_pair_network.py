# SPDX-License-Identifier: Apache-2.0
"""One node of a pair is another host: a network namespace of its own, whose cable drops every
packet without a word to either end."""

import itertools
import os
import shutil
import subprocess
import time

import pytest

from etcd import PRESENT, Etcd
from kekd import free_port, wait_for
from pair import LEASE, Node
from pair_load import Load, logs_verify, settled
from proxy import Proxy

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")

BEYOND = 2  # s, after the lease
_numbers = itertools.count(os.getpid() * 7 % 16000)


def tool(*arguments, check=True):
    return subprocess.run(arguments, check=check, capture_output=True, text=True).returncode


class Cable:
    """Between this host (self.near) and one of its own (self.far)."""

    def __init__(self):
        number = next(_numbers) % 16384
        self.space = f"kekd-{number}"
        self.ends = (f"kekd{number}a", f"kekd{number}b")
        net = f"10.213.{number // 64}.{number % 64 * 4}".rpartition(".")
        self.near, self.far = (f"{net[0]}.{int(net[2]) + n}" for n in (1, 2))
        here, there = self.ends
        tool("ip", "netns", "add", self.space)
        tool("ip", "link", "add", here, "type", "veth", "peer", "name", there,
             "netns", self.space)
        tool("ip", "addr", "add", f"{self.near}/30", "dev", here)
        tool("ip", "-n", self.space, "addr", "add", f"{self.far}/30", "dev", there)
        for link in ("lo", there):
            tool("ip", "-n", self.space, "link", "set", link, "up")
        tool("ip", "link", "set", here, "up")

    def each_end(self, *arguments, check=True):
        here, there = self.ends
        tool("tc", "qdisc", arguments[0], "dev", here, *arguments[1:], check=check)
        tool("tc", "-n", self.space, "qdisc", arguments[0], "dev", there, *arguments[1:],
             check=check)

    def drop(self):
        self.each_end("add", "root", "blackhole")

    def mend(self):
        self.each_end("del", "root", check=False)

    def remove(self):
        tool("ip", "link", "del", self.ends[0], check=False)
        tool("ip", "netns", "del", self.space, check=False)


class Remote(Node):
    """A node at the other end of the cable; its clients come through a proxy of this host."""

    cable = None

    def __init__(self, pair, number, **options):
        self.etcd_host = self.cable.near
        super().__init__(pair, number, **options)
        self.wrapper = ["ip", "netns", "exec", self.cable.space]
        inner = free_port()
        self.door = Proxy(inner, target=self.cable.far)
        self.port = self.door.port
        self.settings["listen"] = [f"{self.cable.far}:{inner}"]
        self.settings["url"] = self.url
        self.write_config()

    def remove(self):
        try:
            super().remove()
        finally:
            self.door.close()


@pytest.fixture
def cable(root):
    if not shutil.which("ip") or not shutil.which("tc"):
        pytest.skip("no iproute2 here")
    try:
        made = Cable()
    except subprocess.CalledProcessError as e:
        pytest.skip(f"no network namespace can be made here: {e.stderr}")
    try:
        made.drop()
        made.mend()
    except subprocess.CalledProcessError as e:
        made.remove()
        pytest.skip(f"packets cannot be dropped here: {e.stderr}")
    yield made
    made.mend()
    made.remove()


@pytest.fixture
def pair(pki, make_pair, cable):
    remote = type("Remote", (Remote,), {"cable": cable})
    pair = make_pair(kinds={1: remote}, etcd=Etcd(pki, tls=True, address=cable.near)).start()
    settled(pair)
    yield pair
    cable.mend()


def test_an_active_whose_host_is_cut_off_from_all_is_followed_in_time_and_comes_back_a_standby(
        pair, cable):
    a, b = pair.nodes
    assert pair.roles() == (a, b)
    with Load(pair) as load:
        load.rotates()
        cable.drop()
        pair.takes_over(LEASE + BEYOND, a)
        load.computes()
        with b.http("admin-1") as h:
            etag = h.ok("GET", "/v1/keys/demo").etag
            h.ok("PATCH", "/v1/keys/demo", {"labels": {"made": "meanwhile"}}, etag=etag)
        time.sleep(LEASE)
        cable.mend()
        assert settled(pair, 60) == (b, a)
        load.rotates()
        with a.http("admin-1") as h:
            wait_for(lambda: h.key()["labels"] == {"made": "meanwhile"}, "it has heard of it", 15)
    assert "this node is a standby" in a.log()
    logs_verify(pair)


def test_a_standby_whose_host_is_cut_off_from_all_changes_no_role(pair, cable):
    a, b = pair.nodes
    b.kekctl("cluster", "promote")
    assert settled(pair) == (b, a)
    epoch = pair.epoch()
    with Load(pair) as load:
        load.rotates()
        cable.drop()
        time.sleep(LEASE + BEYOND)
        load.computes()
        assert pair.leader() == b.name and pair.epoch() == epoch
        cable.mend()
        assert settled(pair, 60) == (b, a)
        load.rotates()
    assert pair.epoch() == epoch
    logs_verify(pair)
