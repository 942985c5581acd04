# SPDX-License-Identifier: Apache-2.0
"""kekd-kms' socket: whose it is, what is in its way, a restart that nobody notices, an end that
nobody can put off."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from kekd import PATIENCE, kill, suspended, wait_for
from kms import Beside, Code, Failed, Reader

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def hold(plugin, data=b""):
    """A connection that says this and then nothing."""
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(plugin.socket)
    s.settimeout(5)
    s.sendall(data)
    return s


# ---- its place ----

@pytest.mark.parametrize("wanted", ["0600", "0660", "0640"])
def test_the_socket_has_the_mode_of_the_configuration(server, make_plugin, wanted):
    plugin = make_plugin(server, socket={"mode": wanted})
    plugin.start(ready=False)
    assert mode(plugin.socket) == int(wanted, 8)


def test_the_socket_is_for_its_owner_alone_by_default(server, make_plugin):
    plugin = make_plugin(server)
    plugin.start(ready=False)
    assert mode(plugin.socket) == 0o600


def test_the_socket_has_the_owner_of_the_configuration(server, make_plugin, root):
    plugin = make_plugin(server, socket={"owner": "nobody", "group": "nogroup"})
    plugin.start(ready=False)
    there = os.stat(plugin.socket)
    assert (there.st_uid, there.st_gid) == (65534, 65534)


def test_an_owner_that_only_root_can_give_is_told_in_one_line(server, make_plugin, root):
    plugin = make_plugin(server, socket={"owner": "root"})
    for directory, _, names in os.walk(plugin.dir):
        for name in (directory, *(os.path.join(directory, n) for n in names)):
            os.chown(name, 65534, 65534)
    plugin.wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    status, said = plugin.run()
    assert status == 1 and "cannot be given to user 0" in said and said.count("error:") == 1, said
    assert not os.path.exists(plugin.socket)


def test_no_instant_has_the_socket_open_for_everybody(server, make_plugin):
    """Whatever umask it is started with."""
    plugin = make_plugin(server)
    plugin.wrapper = ["sh", "-c", 'umask 0; exec "$@"', "sh"]
    seen, ended = set(), threading.Event()

    def watch():
        while not ended.is_set():
            try:
                seen.add(mode(plugin.socket))
            except FileNotFoundError:
                pass

    thread = threading.Thread(target=watch)
    thread.start()
    plugin.start(ready=False)
    wait_for(lambda: seen, "the socket is looked at")
    ended.set()
    thread.join()
    assert seen == {0o600}


def test_a_socket_that_kill_9_left_is_taken_away(server, make_plugin):
    plugin = make_plugin(server).start()
    plugin.kill()
    assert os.path.exists(plugin.socket)
    plugin.start()
    assert plugin.stub().encrypt()


def test_the_socket_goes_with_a_clean_end(server, make_plugin):
    plugin = make_plugin(server).start()
    assert plugin.stop() == 0
    assert not os.path.exists(plugin.socket)


def test_a_live_socket_of_another_instance_is_left_to_it(server, make_plugin):
    plugin = make_plugin(server).start()
    inode = os.stat(plugin.socket).st_ino
    status, said = plugin.run()
    assert status != 0 and plugin.socket in said
    assert os.stat(plugin.socket).st_ino == inode
    assert plugin.stub().encrypt()


def test_a_second_instance_does_not_take_the_first_ones_socket_at_its_end(server, make_plugin):
    """The path is another's by then."""
    plugin, other = make_plugin(server), make_plugin(server)
    plugin.start()
    os.unlink(plugin.socket)
    other.settings["socket"]["path"] = other.socket = plugin.socket
    other.write_config()
    other.start()
    assert plugin.stop() == 0
    assert other.stub().encrypt()


@pytest.mark.parametrize("what", ["file", "directory", "link", "fifo"])
def test_what_is_no_socket_is_left_as_it_is(server, make_plugin, what):
    plugin = make_plugin(server)
    aside = plugin.path("aside")
    with open(aside, "wb") as f:
        f.write(b"precious")
    {"file": lambda: os.rename(aside, plugin.socket), "directory": lambda: os.mkdir(plugin.socket),
     "link": lambda: os.symlink(aside, plugin.socket),
     "fifo": lambda: os.mkfifo(plugin.socket)}[what]()
    before = os.lstat(plugin.socket)
    status, said = plugin.run()
    assert status != 0 and plugin.socket in said
    after = os.lstat(plugin.socket)
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino, before.st_mode, before.st_size)


def test_a_path_too_long_for_a_socket_is_refused(server, make_plugin):
    plugin = make_plugin(server)
    plugin.settings["socket"]["path"] = plugin.path("x" * 120)
    plugin.write_config()
    status, said = plugin.run()
    assert status != 0 and "socket" in said


def test_a_directory_that_is_missing_is_told(server, make_plugin):
    plugin = make_plugin(server)
    plugin.settings["socket"]["path"] = plugin.path("missing", "kms.sock")
    plugin.write_config()
    status, said = plugin.run()
    assert status != 0 and "missing" in said


# ---- held open by somebody else ----

def test_under_socket_activation_the_socket_is_not_its_own(server, make_plugin):
    plugin = make_plugin(server, held=True)
    inode = os.stat(plugin.socket).st_ino
    plugin.start()
    assert plugin.stub().encrypt()
    assert plugin.stop() == 0
    assert os.stat(plugin.socket).st_ino == inode


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_calls_during_a_restart_succeed_where_the_socket_is_held_open(server, make_plugin, how):
    """The kernel keeps who connects until somebody accepts."""
    plugin = make_plugin(server, held=True).start()
    api = plugin.stub()
    sealed = api.encrypt()
    getattr(plugin, how)()
    waiting = [plugin.stub().start_decrypt(sealed, timeout=20) for _ in range(8)]
    time.sleep(0.3)
    plugin.start(ready=False)
    assert all(sealed.seed in f.result() for f in waiting)


def test_a_channel_is_back_within_about_a_second_where_the_socket_is_held_open(server, make_plugin):
    plugin = make_plugin(server, held=True).start()
    api = plugin.stub()
    sealed = api.encrypt()
    plugin.stop()
    time.sleep(3)
    plugin.start(ready=False)
    begin = time.monotonic()

    def opens():
        try:
            return api.opens(sealed, timeout=3)
        except Failed:
            return False

    wait_for(opens, "the channel works", 10)
    assert time.monotonic() - begin < 3


def test_api_servers_that_retry_notice_nothing_of_ten_restarts(server, make_plugin):
    plugin = make_plugin(server, held=True).start()
    api = plugin.stub()
    sealed = api.encrypt()

    def opens():
        """As an API server does that finds its connection closed: once more."""
        try:
            return api.opens(sealed, timeout=10)
        except Failed as e:
            if e.code not in (Code.UNAVAILABLE, Code.CANCELLED):
                raise
            return api.opens(sealed, timeout=10)

    with Beside(opens) as beside:
        for n in range(10):
            plugin.kill() if n % 2 else plugin.stop()
            plugin.start(ready=False)
            served = len(beside.results)
            wait_for(lambda s=served: len(beside.results) > s or beside.errors, "a call is served")
    assert len(beside.results) >= 10


CONNECT_AS = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.settimeout(10)
s.connect(sys.argv[1])
s.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes(9))
print(len(s.recv(100)))
"""


@pytest.mark.parametrize(("uid", "served"), [(0, True), (65534, False)])
def test_who_connects_is_looked_at_whatever_the_sockets_mode(
        server, make_plugin, root, uid, served):
    """The service manager may have made it for everybody."""
    plugin = make_plugin(server, held=True)
    os.chmod(plugin.dir, 0o755)
    os.chmod(plugin.socket, 0o666)
    plugin.start()
    done = subprocess.run([sys.executable, "-c", CONNECT_AS, plugin.socket, str(uid)], check=False,
                          capture_output=True, text=True)
    got = done.stdout.strip()
    assert (got not in ("", "0")) == served, (done.stdout, done.stderr)
    assert ("refused" in plugin.log()) != served
    assert plugin.stub().encrypt()


def test_several_sockets_from_the_service_manager_are_told(server, make_plugin):
    """Rather than one of them being served by chance."""
    plugin = make_plugin(server)
    plugin.wrapper = ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=2; export LISTEN_PID LISTEN_FDS; '
                      'exec "$@" 3</dev/null 4</dev/null', "sh"]
    status, said = plugin.run()
    assert status != 0 and said


def run_with(plugin, listener):
    """With this as the service manager's socket: (exit status, what it said)."""
    plugin.listener = listener
    done = subprocess.run(plugin.command(), check=False, text=True, timeout=PATIENCE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          pass_fds=(listener.fileno(),))
    plugin.listener = None
    return done.returncode, done.stdout


@pytest.mark.parametrize("what", ["tcp", "datagram", "abstract", "not listening", "no socket"])
def test_what_the_service_manager_passed_must_be_a_unix_socket_with_a_path(
        server, make_plugin, what):
    """Another has no mode: everybody could connect."""
    plugin = make_plugin(server)
    if what == "no socket":
        listener = open(plugin.path("log"), "a", encoding="ascii")
    else:
        family = socket.AF_INET if what == "tcp" else socket.AF_UNIX
        kind = socket.SOCK_DGRAM if what == "datagram" else socket.SOCK_STREAM
        listener = socket.socket(family, kind)
        listener.bind({"tcp": ("127.0.0.1", 0), "abstract": "\0kekd-kms-test"}.get(
            what, plugin.socket))
        if what in ("tcp", "abstract"):
            listener.listen()
    with listener:
        status, said = run_with(plugin, listener)
    assert status == 1 and "no unix stream socket" in said, said
    assert "its unit needs ListenStream=/PATH" in said


def test_a_socket_at_another_path_than_the_configurations_is_served_and_told(server, make_plugin):
    plugin = make_plugin(server, held=True)
    plugin.settings["socket"]["path"] = plugin.path("elsewhere.sock")
    plugin.write_config()
    plugin.start()
    assert plugin.stub().encrypt()
    assert (f"the service manager's socket is {plugin.socket}, not socket.path "
            f"{plugin.path('elsewhere.sock')}") in plugin.log()
    assert not os.path.exists(plugin.path("elsewhere.sock"))


def test_an_environment_meant_for_another_process_is_not_taken(server, make_plugin):
    plugin = make_plugin(server)
    plugin.environment.update(LISTEN_PID="1", LISTEN_FDS="1")
    plugin.start()
    assert plugin.stub().encrypt()


# ---- who hangs ----

def test_connections_that_say_nothing_are_in_nobodys_way(server, make_plugin):
    plugin = make_plugin(server).start()
    silent = [hold(plugin, data) for data in (b"", PREFACE[:7], PREFACE + SETTINGS) * 20]
    api = plugin.stub()
    assert api.opens(api.encrypt())
    for s in silent:
        s.close()
    assert api.opens(api.encrypt())


def test_more_connections_than_it_takes_are_refused_and_later_ones_served(server, make_plugin):
    plugin = make_plugin(server).start()
    api = plugin.stub()
    assert api.key_id()
    many = [hold(plugin, PREFACE + SETTINGS) for _ in range(200)]
    wait_for(lambda: plugin.metric("kekd_kms_connections_total", result="refused") >= 100,
             "the rest is refused")
    assert api.opens(api.encrypt()), "who was there is served"
    for s in many:
        s.close()

    def served():
        with plugin.stub(kept=False) as stub:
            return stub.healthy()

    wait_for(served, "a new one is served", 20, 0.2)


def test_many_connections_come_and_go_and_none_is_left(server, make_plugin):
    plugin = make_plugin(server).start()
    api = plugin.stub()
    assert api.key_id()

    def descriptors():
        return len(os.listdir(f"/proc/{plugin.pid}/fd"))

    before = descriptors()
    for _ in range(300):
        hold(plugin, PREFACE + SETTINGS).close()
    wait_for(lambda: descriptors() <= before + 5, "their descriptors are closed", 20, 0.1)
    assert api.key_id()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_while_streams_hang(own, make_plugin, number):
    """Peers that never read, calls that kekd does not answer."""
    plugin = make_plugin(own, probe="60s").start()
    api = plugin.stub()
    seals = [api.encrypt() for _ in range(20)]
    silent = [hold(plugin, data) for data in (b"", PREFACE, PREFACE + SETTINGS)]
    with suspended(*own.family()):
        waiting = [api.start_decrypt(s, timeout=60) for s in seals]
        time.sleep(0.3)
        begin = time.monotonic()
        kill(plugin.pid, number)
        assert plugin.process.wait(15) == 0, plugin.log()
        assert time.monotonic() - begin < 10
        assert all(f.exception() for f in waiting)
    plugin.process = None
    for s in silent:
        s.close()
    assert not os.path.exists(plugin.socket)


def test_calls_in_hand_at_the_end_are_answered(own, make_plugin):
    plugin = make_plugin(own, probe="60s").start()
    api = plugin.stub()
    seals = [api.encrypt() for _ in range(20)]
    with suspended(*own.family()):
        futures = [api.start_decrypt(s, timeout=20) for s in seals]
        wait_for(lambda: plugin.metric("kekd_kms_grpc_calls_in_flight") == len(seals), "all wait")
        kill(plugin.pid, signal.SIGTERM)
        wait_for(lambda: "stopping" in plugin.log(), "it ends")
    for sealed, future in zip(seals, futures):
        assert sealed.seed in future.result()
    assert plugin.process.wait(15) == 0


def test_restarts_take_no_call_from_a_client_that_reads(server, make_plugin):
    """Told goodbye, it makes its next calls over the next connection. One may cross with the
    goodbye."""
    plugin = make_plugin(server, held=True).start()
    with Reader(plugin.socket, timeout=20) as reader:
        for _ in range(10):
            reader.passes(5)
            assert plugin.stop() == 0
            plugin.start(ready=False)
    assert len(reader.failed) <= 2, reader.failed


# ---- state_dir ----

def test_a_second_plugin_in_one_state_dir_is_refused(server, make_plugin):
    """The two would write over each other what was announced."""
    plugin = make_plugin(server).start()
    other = make_plugin(server, state_dir=plugin.path("state"))
    status, said = other.run()
    assert status == 1, said
    assert f"state_dir {plugin.path('state')}" in said and "state_dir of its own" in said
    assert not os.path.exists(other.socket)
    assert plugin.run("doctor")[0] == 0, "which only reads"
    plugin.kill()
    other.start()


def test_a_new_instance_waits_for_the_end_of_the_old_one(server, make_plugin):
    """As with a service manager that holds the socket and starts the next one early."""
    plugin = make_plugin(server, held=True).start()
    for turn in range(3):
        old, plugin.process = plugin.process, None
        plugin.start(ready=False)
        wait_for(lambda n=turn: plugin.log().count("waiting for the end") > n, "it waits")
        kill(old.pid, signal.SIGTERM)
        assert old.wait(15) == 0
        plugin.wait_ready()
        assert plugin.metric("kekd_kms_healthy") == 1


def test_an_instance_that_waits_for_another_ends_when_it_is_told(server, make_plugin):
    plugin = make_plugin(server).start()
    other = make_plugin(server, state_dir=plugin.path("state"))
    other.start(ready=False)
    wait_for(lambda: "waiting for the end" in other.log(), "it waits")
    assert other.stop() == 0
    assert plugin.stub().healthy()


# ---- configuration ----

@pytest.mark.parametrize(("words", "told"), [
    (("doctor", "-o", "yaml"), "-o yaml: there is json"),
    (("doctor", "--to", "kekd"), "use it as: kekd-kms doctor"),
    (("doctor", "--check"), "use it as: kekd-kms doctor"),
    (("migrate-plan",), "use it as: kekd-kms migrate-plan"),
    (("--check", "-o", "json"), "use it as: kekd-kms [--config FILE] [--check]"),
    (("serve",), 'no command "serve"'),
])
def test_wrong_use_is_told_and_ends_with_2(server, make_plugin, words, told):
    status, said = make_plugin(server).run(*words)
    assert status == 2 and told in said, said


def test_check_finds_nothing_in_a_good_configuration_and_binds_nothing(server, make_plugin):
    plugin = make_plugin(server)
    status, said = plugin.run("--check")
    assert status == 0, said
    assert not os.path.exists(plugin.socket)


@pytest.mark.parametrize(("change", "named"), [
    ({"provider": None}, "provider"), ({"cluster": None}, "cluster"), ({"key": None}, "key"),
    ({"endpoints": []}, "endpoints"), ({"endpoints": ["http://127.0.0.1:1"]}, "endpoints"),
    ({"provider": "Not A Name"}, "provider"), ({"provider": "with:colon"}, "provider"),
    ({"cluster": ""}, "cluster"), ({"key": "../x"}, "key"), ({"socket": {"mode": "999"}}, "mode"),
    ({"probe": "0s"}, "probe"), ({"probe": "often"}, "probe"),
    ({"socket": {"mode": "0666"}}, "mode"),
    ({"socket": {"owner": "nobody-of-that-name"}}, "owner"), ({"timeout": "1h"}, "timeout"),
    ({"certificate": "missing.pem"}, "missing.pem"), ({"unknown": 1}, "unknown")])
def test_a_configuration_that_is_wrong_is_refused_with_the_settings_name(
        server, make_plugin, change, named):
    plugin = make_plugin(server, record=False)
    for name, value in change.items():
        if value is None:
            del plugin.settings[name]
        elif isinstance(value, dict):
            plugin.settings[name].update(value)
        else:
            plugin.settings[name] = value
    plugin.write_config()
    status, said = plugin.run("--check")
    assert status not in (0, None) and status > 0
    assert named in said, said


@pytest.mark.parametrize("text", ["", "- a", "provider: [", "\0", "provider: x\nprovider: y\n"])
def test_a_configuration_that_is_none_is_refused(server, make_plugin, text):
    plugin = make_plugin(server, record=False)
    plugin.write_config(text)
    status, said = plugin.run("--check")
    assert status > 0 and said
