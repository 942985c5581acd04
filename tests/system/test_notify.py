# SPDX-License-Identifier: Apache-2.0
"""What a service manager hears: ready when it serves, reloading, stopping, and that it lives."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from kekd import BUILD, PIN, kill, wait_for


class Manager:
    """The socket that systemd would give it, and what came there."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.setblocking(False)
        self.heard = []

    def listen(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard += self.socket.recv(65536).decode().split("\n")
        return self.heard

    def statuses(self):
        return [m.removeprefix("STATUS=") for m in self.listen() if m.startswith("STATUS=")]

    def hears(self, text, times=1):
        wait_for(lambda: self.listen().count(text) >= times, f"{text}, heard: {self.heard}")


@pytest.fixture(scope="module", autouse=True)
def linked():
    libraries = subprocess.run(["ldd", os.path.join(BUILD, "kekd")], check=True, text=True,
                               stdout=subprocess.PIPE).stdout
    if "libsystemd" not in libraries:
        pytest.skip("built without libsystemd")


@pytest.fixture
def managed(make_server):
    server = make_server()
    manager = Manager(server.path("notify"))
    server.environment["NOTIFY_SOCKET"] = manager.path
    server.init()
    assert manager.listen() == [], "making the cluster is no service"
    yield server, manager
    manager.socket.close()


def test_it_is_ready_when_it_serves_and_no_sooner(managed):
    server, manager = managed
    server.write_pin("wrong-pin")
    server.start(ready=False)
    wait_for(lambda: "starting; token main: 0 of 2 workers, its PIN was refused or cannot be read"
             in manager.statuses(), "it says what it waits for")
    assert "READY=1" not in manager.listen()
    server.write_pin(PIN)
    manager.hears("READY=1")
    assert server.health()[0] in (200, 503)
    wait_for(lambda: manager.statuses()[-1] == "serving; token main: 2 of 2 workers",
             "it says how many serve")
    server.wait_ready()


def test_it_says_that_it_stops(managed):
    server, manager = managed
    server.start()
    assert server.stop() == 0
    heard = manager.listen()
    assert heard.index("READY=1") < heard.index("STOPPING=1")
    assert manager.statuses()[-1].startswith("stopping")


def test_it_reloads_between_two_words(managed):
    server, manager = managed
    server.start()
    manager.hears("READY=1")  # who is not ready yet does not tell of a reload either
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    kill(server.process.pid, signal.SIGHUP)
    manager.hears("READY=1", times=2)
    heard = manager.listen()
    at = heard.index("RELOADING=1")
    assert heard.index("READY=1") < at
    stamp = re.fullmatch(r"MONOTONIC_USEC=(\d+)", heard[at + 1])
    assert before <= int(stamp[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert "READY=1" in heard[at:]
    server.wait_ready()


def test_it_says_when_a_part_of_it_is_gone_and_when_it_is_back(managed):
    server, manager = managed
    server.start()
    wait_for(lambda: manager.statuses()[-1] == "serving; token main: 2 of 2 workers", "all serve")
    kill(server.net())
    manager.hears("READY=1", times=2)
    wait_for(lambda: manager.statuses()[-1] == "serving; token main: 2 of 2 workers",
             "all serve again")
    assert any(s.startswith("starting") for s in manager.statuses()[1:])


def test_the_watchdog_hears_of_the_parents_loop_while_it_runs(managed):
    server, manager = managed
    server.environment["WATCHDOG_USEC"] = "400000"
    server.start()
    manager.hears("WATCHDOG=1", times=5)
    kill(server.process.pid, signal.SIGSTOP)
    try:
        time.sleep(0.5)
        heard = manager.listen().count("WATCHDOG=1")
        time.sleep(1)
        assert manager.listen().count("WATCHDOG=1") == heard, "a stopped parent says nothing"
    finally:
        kill(server.process.pid, signal.SIGCONT)
    manager.hears("WATCHDOG=1", times=heard + 3)


def test_nobody_watches_another_process(managed):
    server, manager = managed
    server.environment.update(WATCHDOG_USEC="100000", WATCHDOG_PID="1")
    server.start()
    manager.hears("READY=1")
    time.sleep(0.5)
    assert "WATCHDOG=1" not in manager.listen()


def test_what_is_between_it_and_its_manager_reaches_no_child(managed):
    server, manager = managed
    server.environment["WATCHDOG_USEC"] = "60000000"
    server.start()
    manager.hears("READY=1")
    for pid in (server.net(), *server.workers()):
        with open(f"/proc/{pid}/environ", "rb") as f:
            environment = f.read()
        assert b"NOTIFY_SOCKET" not in environment and b"WATCHDOG" not in environment


def test_a_reload_that_is_refused_ends_too(managed):
    server, manager = managed
    server.start()
    manager.hears("READY=1")
    server.write_config("cluster: [\n")
    kill(server.process.pid, signal.SIGHUP)
    manager.hears("READY=1", times=2)
    assert "RELOADING=1" in manager.listen()
    server.wait_ready()
