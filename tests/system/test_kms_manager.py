# SPDX-License-Identifier: Apache-2.0
"""kekd-kms and its service manager: what it tells it, SIGHUP, who may connect, and for how long."""

import http.client
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest

from kekd import free_port, kill, wait_for
from kms import Code, Failed

# As another user: connects, says what HTTP/2 begins with, and waits for an answer.
STRANGER = """
import os, socket, sys
os.setgroups([int(group) for group in sys.argv[4:]])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[3]))
s = socket.socket(socket.AF_UNIX)
s.settimeout(5)
s.connect(sys.argv[1])
try:
    s.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    print(len(s.recv(9)))
except (BrokenPipeError, ConnectionResetError):
    print(0)
"""
NOBODY = 65534


class Manager:
    """What systemd is to it: a datagram socket that hears all."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(0.1)
        self.heard = []

    def listen(self):
        try:
            while True:
                self.heard += self.socket.recv(4096).decode().split("\n")
        except TimeoutError:
            return self.heard

    def wait(self, text, times=1):
        wait_for(lambda: sum(text in line for line in self.listen()) >= times,
                 f"the service manager is told {text}")

    def forget(self):
        self.listen()
        self.heard = []


@pytest.fixture
def manager(tmp_path):
    m = Manager(str(tmp_path / "notify"))
    yield m
    m.socket.close()


@pytest.fixture
def managed(server, make_plugin, manager):
    plugin = make_plugin(server)
    plugin.environment["NOTIFY_SOCKET"] = manager.path
    return plugin


def test_the_service_manager_is_told_of_start_health_and_end(managed, manager):
    managed.start()
    manager.wait("READY=1")
    manager.wait("STATUS=serving: kekd wraps and unwraps")
    managed.grant("wrap", "key.read")
    manager.wait("STATUS=serving, but Status is an error")
    managed.stop()
    manager.wait("STOPPING=1")


def test_the_watchdog_is_fed(managed, manager):
    managed.environment["WATCHDOG_USEC"] = "400000"
    managed.start()
    manager.wait("WATCHDOG=1", times=3)


def test_it_is_ready_without_kekd(make_plugin, server, manager):
    plugin = make_plugin(server, endpoints=["https://127.0.0.1:1"])
    plugin.environment["NOTIFY_SOCKET"] = manager.path
    plugin.start(ready=False)
    manager.wait("READY=1")
    manager.wait("STATUS=serving, but Status is an error")


def test_sighup_changes_the_sockets_mode_and_tells_what_takes_a_restart(managed, manager):
    managed.start()
    manager.forget()
    before = os.stat(managed.socket).st_ino
    managed.settings["socket"].update(mode="0660")
    managed.settings.update(probe="2s", endpoints=["https://127.0.0.1:1"])
    managed.write_config()
    kill(managed.pid, signal.SIGHUP)
    manager.wait("RELOADING=1")
    manager.wait("READY=1")
    there = os.stat(managed.socket)
    assert (stat.S_IMODE(there.st_mode), there.st_ino) == (0o660, before)
    assert "a restart is needed for: endpoints, probe" in managed.log()
    with managed.stub() as api:
        assert api.opens(api.encrypt())


def test_sighup_names_every_setting_that_takes_a_restart(managed, manager):
    managed.start()
    manager.forget()
    for name in ("ca.pem", "client.pem", "client.key"):
        shutil.copy(managed.path(name), managed.path("other-" + name))
    changes = {"provider": "other", "cluster": "prod-2", "key": "other",
               "ca": managed.path("other-ca.pem"), "certificate": managed.path("other-client.pem"),
               "certificate_key": managed.path("other-client.key"),
               "socket": {"path": managed.path("other.sock")},
               "state_dir": managed.path("other-state"), "metrics": "127.0.0.1:1",
               "timeout": "1s"}
    managed.settings.update(changes)
    managed.write_config()
    kill(managed.pid, signal.SIGHUP)
    manager.wait("READY=1")
    assert ("a restart is needed for: provider, cluster, key, ca, certificate, certificate_key, "
            "socket.path, state_dir, metrics, timeout\n") in managed.log()
    with managed.stub() as api:
        assert api.opens(api.encrypt()), "as before"


def test_sighup_with_a_faulty_configuration_changes_nothing(managed, manager):
    managed.start()
    manager.forget()
    managed.settings["socket"].update(mode="0666")
    managed.write_config()
    kill(managed.pid, signal.SIGHUP)
    manager.wait("READY=1")
    assert stat.S_IMODE(os.stat(managed.socket).st_mode) == 0o600
    assert "lets everybody" in managed.log() and "all stays as it was" in managed.log()
    assert managed.stub().healthy()


def test_a_socket_that_was_removed_is_told_and_what_took_its_place_is_left_alone(managed, manager):
    managed.start()
    os.unlink(managed.socket)
    manager.wait("STATUS=nobody can connect")
    assert f"{managed.socket} is gone" in managed.log()
    other = managed.path("other")
    with open(other, "w", encoding="ascii"):
        os.chmod(other, 0o600)
    os.symlink(other, managed.socket)
    manager.forget()
    managed.settings["socket"].update(mode="0660")
    managed.write_config()
    kill(managed.pid, signal.SIGHUP)
    manager.wait("READY=1")
    assert stat.S_IMODE(os.stat(other).st_mode) == 0o600
    managed.stop()
    assert os.path.islink(managed.socket)


def test_a_socket_that_is_put_back_is_told_to_be_there_again(managed, manager):
    managed.start()
    manager.wait("STATUS=serving: kekd wraps and unwraps")
    os.rename(managed.socket, managed.path("aside"))
    manager.wait("STATUS=nobody can connect")
    manager.forget()
    os.rename(managed.path("aside"), managed.socket)
    manager.wait("STATUS=serving: kekd wraps and unwraps")
    assert f"{managed.socket} is there again" in managed.log()
    with managed.stub() as api:
        assert api.opens(api.encrypt())


def test_without_descriptors_who_is_connected_is_answered_and_others_later(managed):
    """Some of its requests to kekd need a new connection, too."""
    managed.start()
    api = managed.stub()
    sealed = api.encrypt()
    files = set(os.listdir(f"/proc/{managed.pid}/fd"))
    before = resource.prlimit(managed.pid, resource.RLIMIT_NOFILE)
    free = next(n for n in range(before[0]) if str(n) not in files)
    resource.prlimit(managed.pid, resource.RLIMIT_NOFILE, (free, before[1]))
    wait_for(lambda: "connections cannot be accepted" in managed.log(), "it is told")
    assert "LimitNOFILE" in managed.log()
    with managed.stub() as later:
        for method in ("status", "decrypt") * 10:
            try:
                getattr(api, method)(*([sealed] if method == "decrypt" else []))
            except Failed as e:
                assert e.code == Code.UNAVAILABLE, e
            later.refuses((Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED), "status", timeout=0.1)
        assert managed.log().count("connections cannot be accepted") == 1
        resource.prlimit(managed.pid, resource.RLIMIT_NOFILE, before)
        wait_for(later.healthy, "later ones are served", 30, 0.2)
    assert "connections can be accepted again" in managed.log()
    managed.wait_ready()
    assert api.opens(sealed)


def ask(plugin, path, method="GET", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", plugin.metrics_port, timeout=5)
    connection.request(method, path, body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def answered(plugin, group, user, *others):
    """others: groups that it is in besides."""
    done = subprocess.run([sys.executable, "-c", STRANGER, plugin.socket,
                           *map(str, (group, user, *others))],
                          check=True, text=True, stdout=subprocess.PIPE)
    return int(done.stdout) > 0


def test_a_stranger_is_not_served_although_the_mode_lets_it_in(managed, root):
    """The mode is looked at when one connects: what was open for a moment is closed here."""
    managed.start()
    os.chmod(managed.dir, 0o755)
    os.chmod(managed.socket, 0o666)
    assert not answered(managed, NOBODY, NOBODY)
    assert f"user {NOBODY}, group {NOBODY} is refused" in managed.log()
    os.chown(managed.socket, NOBODY, -1)
    assert answered(managed, 1, NOBODY)
    os.chown(managed.socket, 0, NOBODY)
    assert answered(managed, NOBODY, 1)
    assert managed.stub().healthy()


def test_the_sockets_group_is_served_to_whom_it_is_a_further_group(managed, root):
    managed.start()
    os.chmod(managed.dir, 0o755)
    os.chown(managed.socket, 0, NOBODY)
    os.chmod(managed.socket, 0o660)
    assert answered(managed, 1, 1, 7, NOBODY, 9)
    os.chmod(managed.socket, 0o666)  # the kernel lets all in
    assert not answered(managed, 1, 1, 7, 9)


def test_metrics_are_told_over_ipv6(managed):
    if not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 here")
    port = free_port()
    managed.settings["metrics"] = f"[::1]:{port}"
    managed.write_config()
    managed.start()
    connection = http.client.HTTPConnection("::1", port, timeout=5)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_port_for_metrics_that_is_taken_is_told_and_nothing_is_left(managed):
    with socket.create_server(("127.0.0.1", managed.metrics_port)):
        status, said = managed.run()
    assert status == 1, said
    assert (f"metrics: cannot listen on 127.0.0.1:{managed.metrics_port}: Address already in use: "
            "take another port") in said
    assert not os.path.exists(managed.socket)
    managed.start()


@pytest.mark.parametrize("path, status, text", [
    ("/health", 200, "ok"), ("/metrics", 200, "kekd_kms_healthy 1"), ("/", 404, "/metrics"),
])
def test_what_is_told_over_http(managed, path, status, text):
    managed.start()
    answer = ask(managed, path)
    assert answer[0] == status and text in answer[1]


def test_health_is_an_error_with_the_reason_while_status_is_one(managed):
    managed.start()
    managed.grant("unwrap", "key.read")
    managed.wait_sick()
    status, text = ask(managed, "/health")
    assert status == 503 and "wrap" in text


def test_nothing_but_get_is_taken_over_http(managed):
    managed.start()
    for method in ("POST", "PUT", "DELETE", "TRACE"):
        assert ask(managed, "/metrics", method, b"x" * 100000)[0] == 405
    assert ask(managed, "/health")[0] == 200


def test_calls_whose_message_never_comes_hold_no_place_for_ever(managed):
    """Without a deadline of their own, and more than there are places."""
    managed.start()
    stubs = [managed.stub() for _ in range(6)]
    silent = threading.Event()

    def nothing():
        silent.wait()
        yield from ()

    calls = [s.channel.stream_unary("/v2.KeyManagementService/Decrypt").future(nothing())
             for s in stubs for _ in range(200)]
    try:
        wait_for(lambda: managed.metric("kekd_kms_grpc_refused_total", reason="full") > 0,
                 "all places are taken")
        wait_for(lambda: managed.metric("kekd_kms_grpc_calls_in_flight") == 0,
                 "they are free again", 30, 0.5)
        wait_for(lambda: all(c.done() for c in calls), "the callers hear of it")
        assert managed.stub().healthy()
    finally:
        silent.set()
