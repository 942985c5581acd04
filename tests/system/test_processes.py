# SPDX-License-Identifier: Apache-2.0
"""Three kinds of processes, told apart by what they cannot do."""

import os
import re
import signal

import pytest

from kekd import HSM_USER, USER, alive, comm, descriptors, kill, proc_status, wait_for


def credentials(pid):
    """Real, effective, saved and file system ids; supplementary groups."""
    fields = proc_status(pid)
    return ({int(u) for u in fields["Uid"].split()}, {int(g) for g in fields["Gid"].split()},
            fields["Groups"].split(), fields)


def as_user(uid, action):
    """Runs the action in a child under the user's rights; did it end without PermissionError?"""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setegid(uid)
            os.seteuid(uid)
            action()
        except PermissionError:
            os._exit(13)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 13), status
    return status == 0


def sockets(pid):
    matches = [re.fullmatch(r"socket:\[(\d+)\]", d) for d in descriptors(pid).values()]
    return {m[1] for m in matches if m}


def listening(pid):
    """The inodes of this process's sockets that listen, of any family."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{name}", encoding="ascii") as f:
            for line in f.readlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    inodes.add(fields[9])
    with open(f"/proc/{pid}/net/unix", encoding="ascii", errors="replace") as f:
        for line in f.readlines()[1:]:
            fields = line.split()
            if int(fields[3], 16) & 0x10000:
                inodes.add(fields[6])
    return sockets(pid) & inodes


def maps(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as f:
        return f.read()


def test_the_parent_has_one_kekd_net_and_its_workers(server):
    assert server.net()
    assert len(server.workers()) == 2
    assert len(server.family()) == 4


def test_each_child_has_its_own_user_for_good(separate):
    for pid, uid in [(separate.net(), USER), *((w, HSM_USER) for w in separate.workers())]:
        uids, gids, groups, fields = credentials(pid)
        assert uids == {uid} and gids == {uid}, comm(pid)
        assert "0" not in groups
        for capability in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(fields[capability], 16) == 0, (comm(pid), capability)
        assert fields["NoNewPrivs"] == "1"


def test_kekd_net_cannot_open_the_pin_file_or_the_token(separate):
    net, = credentials(separate.net())[0]

    def read_pin():
        with open(separate.pin_path, "rb") as f:
            assert f.read()

    assert not as_user(net, read_pin)
    assert not as_user(net, lambda: os.listdir(separate.path("tokens")))
    assert as_user(HSM_USER, read_pin)


def test_kekd_net_does_not_even_hold_the_pin_files_descriptor(separate):
    files = descriptors(separate.net()).values()
    assert not [f for f in files if f.startswith((separate.pin_path, separate.path("tokens")))]


def test_the_module_is_mapped_by_the_workers_alone(separate):
    for pid in (separate.net(), separate.process.pid):
        assert "libsofthsm2.so" not in maps(pid)
    for pid in separate.workers():
        assert "libsofthsm2.so" in maps(pid)


def test_no_worker_and_no_parent_serves_the_network(separate):
    assert len(listening(separate.net())) == 1
    for pid in separate.workers():
        assert listening(pid) == set()
        with open(f"/proc/{pid}/net/tcp", encoding="ascii") as f:
            tcp = {line.split()[9] for line in f.readlines()[1:]}
        assert not sockets(pid) & tcp, "a worker has a TCP socket"


def test_workers_cannot_reach_the_metadata_the_audit_log_or_the_servers_key(separate):
    for path in ("state", "audit"):
        assert not as_user(HSM_USER, lambda p=path: os.listdir(separate.path(p)))
    assert not as_user(HSM_USER, lambda: open(separate.path("server.key"), "rb").close())


def test_what_the_children_write_is_for_their_own_eyes(separate):
    for folder in ("state", "audit", "state-hsm"):
        for where, _, names in os.walk(separate.path(folder)):
            for name in names:
                mode = os.stat(os.path.join(where, name)).st_mode & 0o777
                assert mode & 0o077 == 0, (where, name, oct(mode))


def test_directories_that_others_could_write_to_are_closed_to_them(make_server):
    server = make_server().init()
    for folder in ("state", "audit", "state-hsm"):
        os.chmod(server.path(folder), 0o777)
    server.start()
    for folder in ("state", "audit", "state-hsm"):
        assert os.stat(server.path(folder)).st_mode & 0o022 == 0, folder
    assert "others than its owner could write" in server.log()


def test_started_by_a_user_all_run_as_that_user(make_server, root):
    """An ordinary user's lab: everything belongs to the caller."""
    server = make_server(user=USER, hsm_user=USER)
    os.chown(server.dir, USER, USER)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(USER)
            os.setuid(USER)
            server.init().start().stop()
        except BaseException as e:
            print(e, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, server.log()


@pytest.mark.parametrize("who", ["net", "worker"])
def test_a_child_that_dies_is_started_again(own, who):
    old = own.net() if who == "net" else own.workers()[0]
    kill(old)
    wait_for(lambda: len(own.family()) == 4 and old not in own.family(), "it is back")
    own.wait_ready()
    with own.http("app") as app:
        assert app.unwrap(app.wrap(b"x")) == b"x"


def test_the_children_end_with_the_parent(own):
    family = own.family()
    kill(own.process.pid, signal.SIGKILL)
    own.process.wait()
    own.process = None
    wait_for(lambda: not any(alive(p) for p in family), "all children have ended", 10)
    own.start()
    with own.http("app") as app:
        assert app.unwrap(app.wrap(b"x")) == b"x"


def test_no_environment_of_the_caller_reaches_kekd_net_with_secrets(server):
    with open(f"/proc/{server.net()}/environ", "rb") as f:
        assert b"4711-test-pin" not in f.read()
    for pid in server.family():
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            assert b"4711-test-pin" not in f.read()
