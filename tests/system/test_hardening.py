# SPDX-License-Identifier: Apache-2.0
"""What each process has given up, read from /proc; and what the programs were built with."""

import glob
import os
import platform
import re
import shutil
import subprocess

import pytest

from intruder import intrude
from kekd import (BUILD, CONFIG, HSM_USER, TOOLS, TOP, USER, comm, descriptors, kill,
                  proc_status, wait_for)
from test_crash import all_workers_ready

FILTERS = "#define HAVE_SECCOMP 1" in CONFIG and not TOOLS
PROGRAMS = ("kekd", "kekd-net", "kekd-hsm", "kekctl")

plain = pytest.mark.skipif(TOOLS, reason="sanitizers and gcov need what is given up here")
filtered = pytest.mark.skipif(not FILTERS, reason="built without a filter of system calls")


def kilobytes(field):
    return int(field.split()[0])


def all_threads(pid):
    return [f"{pid}/task/{t}" for t in os.listdir(f"/proc/{pid}/task")]


def test_no_process_can_gain_privileges(separate):
    for pid in separate.family():
        assert proc_status(pid)["NoNewPrivs"] == "1", comm(pid)


@filtered
def test_every_thread_of_every_process_is_filtered(separate):
    for pid in separate.family():
        threads = all_threads(pid)
        assert comm(pid) != "kekd-net" or len(threads) > 3
        for thread in threads:
            assert proc_status(thread)["Seccomp"] == "2", (comm(pid), thread)


@filtered
def test_the_children_are_filtered_more_than_the_parent(separate):
    def filters(pid):
        return int(proc_status(pid)["Seccomp_filters"])

    own = filters(separate.process.pid)
    assert own >= 1 and filters(separate.net()) > own
    for worker in separate.workers():  # one after the other they get as far as that
        wait_for(lambda w=worker: filters(w) > own, "the worker is filtered")


def test_the_children_have_users_of_their_own_and_no_capability(separate):
    for pid, uid in [(separate.net(), USER), *((w, HSM_USER) for w in separate.workers())]:
        for thread in all_threads(pid):
            fields = proc_status(thread)
            assert fields["Uid"].split() == [str(uid)] * 4, (comm(pid), fields["Uid"])
            assert fields["Gid"].split() == [str(uid)] * 4, (comm(pid), fields["Gid"])
            for capability in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(fields[capability], 16) == 0, (comm(pid), capability)


def test_no_process_dumps_core(separate):
    for pid in separate.family():
        with open(f"/proc/{pid}/limits", encoding="utf-8") as f:
            core = next(line for line in f if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"], (comm(pid), core)


@plain
def test_nobody_of_the_same_user_looks_into_a_process(separate):
    """What is not dumpable has /proc files that are root's."""
    for pid in separate.family():
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0, comm(pid)
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0, comm(pid)
    for pid, uid in [(separate.net(), USER), *((w, HSM_USER) for w in separate.workers())]:
        for command in (["head", "-c1", f"/proc/{pid}/environ"], ["ls", f"/proc/{pid}/fd"]):
            done = subprocess.run(command, user=uid, group=uid, extra_groups=[], check=False,
                                  capture_output=True, text=True)
            assert "Permission denied" in done.stderr, (comm(pid), command)


def test_secrets_are_locked_in_memory(separate):
    for pid in separate.family():
        assert kilobytes(proc_status(pid)["VmLck"]) >= 64, comm(pid)


@plain
def test_locked_memory_stays_out_of_core_dumps(separate):
    """MADV_DONTDUMP shows as the flag dd beside lo, in every process."""
    for pid in separate.family():
        with open(f"/proc/{pid}/smaps", encoding="utf-8") as f:
            flags = [set(line.split()[1:]) for line in f if line.startswith("VmFlags:")]
        locked = [s for s in flags if "lo" in s]
        assert locked and all("dd" in s for s in locked), comm(pid)


def test_what_any_process_makes_is_for_its_user_alone(separate):
    for pid in (separate.net(), *separate.workers()):
        assert proc_status(pid)["Umask"] == "0077", comm(pid)


def kinds(pid, server):
    """The descriptors, each by what it is; files of the server by their place."""
    out = []
    for target in descriptors(pid).values():
        target = target.removesuffix(" (deleted)")
        target = re.sub(r"^" + re.escape(server.dir) + "/", "", target)
        out.append(re.sub(r":\[\d+\]$", "", target))
    return out


NET_FILES = re.compile(r"/dev/null|kekd\.log|socket|pipe|anon_inode:.*|audit|audit/.*|"
                       r"state|state/.*|server\.(pem|key)|ca\.pem")
WORKER_FILES = re.compile(r"/dev/null|kekd\.log|socket|state-hsm|anon_inode:.*|tokens/.*|"
                          r"/dev/urandom|pipe")


def test_each_child_holds_only_the_descriptors_that_it_should(separate):
    net = kinds(separate.net(), separate)
    assert [k for k in net if not NET_FILES.fullmatch(k)] == []
    for pid in separate.workers():
        worker = kinds(pid, separate)
        assert [k for k in worker if not WORKER_FILES.fullmatch(k)] == []
        # To kekd, to kekd-net: and none besides.
        assert worker.count("socket") == 2
        assert worker.count("state-hsm") == 1


def test_a_child_that_is_started_again_inherits_nothing_more(own):
    def worker():
        pid, = own.workers()[:1]
        return pid, sorted(kinds(pid, own))
    pid, before = worker()
    others = set(own.workers())
    kill(pid)
    wait_for(lambda: len(set(own.workers()) - others) == 1, "another worker has its place")
    own.wait_ready()
    new, = set(own.workers()) - others
    wait_for(lambda: sorted(kinds(new, own)) == before, "it holds the same descriptors")


def readelf(*arguments):
    return subprocess.run(["readelf", *arguments], check=True, text=True,
                          capture_output=True).stdout


@pytest.mark.parametrize("program", PROGRAMS)
@plain
def test_programs_are_hardened_by_the_compiler(program):
    path = os.path.join(BUILD, program)
    assert "DYN (Position-Independent Executable" in readelf("-h", path)
    dynamic = readelf("-d", path)
    assert "BIND_NOW" in dynamic or "NOW" in dynamic
    segments = readelf("-lW", path)
    assert "GNU_RELRO" in segments
    stack = next(line for line in segments.splitlines() if "GNU_STACK" in line)
    assert " RWE " not in stack
    symbols = readelf("--dyn-syms", "-W", path)
    assert "__stack_chk_fail" in symbols
    assert re.search(r"__\w+_chk", symbols.replace("__stack_chk_fail", ""))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="another machine's feature")
@plain
def test_programs_are_built_for_control_flow_enforcement():
    """All objects of ours are marked for both kinds. A program bears IBT's mark only where the C
    library's start code does; its code has the landing pads all the same."""
    objects = [o for o in glob.glob(os.path.join(BUILD, "src", "**", "*.o"), recursive=True)
               if "openapi" not in os.path.basename(o)]
    assert len(objects) > 50
    for start in range(0, len(objects), 50):
        notes = readelf("-nW", *objects[start:start + 50])
        assert notes.count("x86 feature: IBT, SHSTK") == len(objects[start:start + 50])
    for program in PROGRAMS:
        path = os.path.join(BUILD, program)
        assert "SHSTK" in readelf("-nW", path), program
        code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], check=True, text=True,
                              capture_output=True).stdout
        assert re.search(r"<main>:\n[^\n]*\bendbr64\b", code), program


# ---- what becomes of an intruder ----

def needs(program):
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    return pytest.mark.skipif(path is None, reason=f"{program} is not installed")


debugged = [filtered,
            pytest.mark.skipif(platform.machine() != "x86_64", reason="other numbers of calls")]


def marked(test):
    for mark in debugged:
        test = mark(test)
    return test


@marked
@pytest.mark.parametrize("call", ["execve", "ptrace"])
def test_kekd_net_ends_when_made_to_do_what_intruders_do(own, root, call):
    net = own.net()
    assert intrude(net, "getpid") == net, "calls can be made in it"
    assert intrude(net, call, 0, 0, 0, 0) is None
    wait_for(lambda: own.net() not in (None, net), "the parent started another")
    own.wait_ready()
    assert "killed by signal 31" in own.log()
    with own.http("app") as app:
        assert app.unwrap(app.wrap(b"x")) == b"x"


@marked
def test_kekd_net_makes_no_socket_and_lives_on(own, root):
    net = own.net()
    for family in (1, 2, 10):
        assert intrude(net, "socket", family, 1, 0) == -38, family
    with own.http("app") as app:
        assert app.unwrap(app.wrap(b"x")) == b"x"
    assert own.net() == net


@marked
def test_a_worker_runs_no_program_and_reaches_no_network(own, root):
    worker = own.workers()[0]
    assert intrude(worker, "execve", 0, 0, 0) == -1
    assert intrude(worker, "socket", 2, 1, 0) == -97
    with own.http("app") as app:
        assert app.unwrap(app.wrap(b"x")) == b"x"
    assert worker in own.workers()


# ---- what the system does for it ----

UNIT = os.path.join(BUILD, "conf", "kekd.service")


def unit():
    """The unit's settings; the last of a name counts."""
    with open(UNIT, encoding="utf-8") as f:
        return dict(line.rstrip("\n").split("=", 1) for line in f
                    if "=" in line and not line.startswith(("#", "[")))


@needs("systemd-analyze")
def test_the_units_exposure_is_at_most_2_3():
    def security(threshold):
        return subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", "--no-pager",
             f"--threshold={threshold}", UNIT], check=False, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
    done = security(23)
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout
    assert security(1).returncode != 0, "the threshold is looked at"


@needs("setpriv")
@plain
def test_kekd_needs_no_other_capability_than_the_units(make_server, root):
    """With root's name and the unit's capabilities alone, on directories as tmpfiles makes them."""
    server = make_server(user=USER, hsm_user=HSM_USER)
    hsm = server.path("state", "hsm")
    os.rename(server.path("state-hsm"), hsm)
    server.settings["hsm"]["state_dir"] = hsm
    server.write_config()
    server.init()
    names = unit()["CapabilityBoundingSet"].lower().replace("cap_", "").split()
    server.wrapper = ["setpriv", "--no-new-privs",
                      "--bounding-set=-all" + "".join(f",+{n}" for n in names)]
    server.start().populate()
    assert bin(int(proc_status(server.process.pid)["CapEff"], 16)).count("1") == len(names)
    all_workers_ready(server)
    kill(server.workers()[0])
    wait_for(lambda: len(server.workers()) == 2, "the parent could start another")
    with server.http("app") as app:
        assert app.unwrap(app.wrap(b"x")) == b"x"
    server.write_pin("wrong-pin-0815")
    kill(server.workers()[0])
    wait_for(lambda: "refused the PIN" in server.log(), "the PIN was refused")
    done = server.run("retry-pin")
    assert done.returncode == 0, done.stdout
    wait_for(lambda: "an operator says so on this host" in server.log(), "the word was heard")
    assert not os.path.exists(os.path.join(hsm, "retry-pin-main"))
    assert server.stop() == 0


@needs("systemd-sysusers")
@needs("systemd-tmpfiles")
def test_users_and_directories_are_made_as_kekd_needs_them(tmp_path, root):
    os.makedirs(tmp_path / "etc")
    conf = os.path.join(TOP, "conf")
    for command in (["systemd-sysusers", f"--root={tmp_path}", f"{conf}/sysusers.conf"],
                    ["systemd-tmpfiles", "--create", f"--root={tmp_path}",
                     f"{conf}/tmpfiles.conf"]):
        subprocess.run(command, check=True, capture_output=True)
    with open(tmp_path / "etc" / "passwd", encoding="utf-8") as f:
        users = {line.split(":")[0]: int(line.split(":")[2]) for line in f}
    assert users["kekd"] != users["kekd-hsm"] and 0 not in users.values()
    for path, user in (("var/lib/kekd", "kekd"), ("var/lib/kekd/hsm", "kekd-hsm"),
                       ("var/log/kekd", "kekd")):
        found = os.stat(tmp_path / path)
        assert (found.st_uid, found.st_mode & 0o7777) == (users[user], 0o700), path


@needs("apparmor_parser")
def test_the_apparmor_profile_is_understood(tmp_path):
    def parse(path):
        return subprocess.run(["apparmor_parser", "-Q", "-K", path], check=False,
                              capture_output=True, text=True,
                              env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
    profile = os.path.join(BUILD, "conf", "apparmor", "usr.sbin.kekd")
    done = parse(profile)
    assert done.returncode == 0, done.stderr
    with open(profile, encoding="utf-8") as f:
        text = f.read()
    assert "@" not in re.sub(r"@\{\w+\}", "", text), "every place is filled in"
    broken = tmp_path / "broken"
    broken.write_text(text.replace("capability setuid,", "capability setuidd,"), encoding="utf-8")
    assert parse(broken).returncode != 0, "the parser looks at it"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_what_the_system_reads_is_installed(tmp_path):
    subprocess.run(["make", "-s", "-C", BUILD, "install-data", f"DESTDIR={tmp_path}"], check=True,
                   capture_output=True)
    installed = {os.path.relpath(os.path.join(where, name), tmp_path)
                 for where, _, names in os.walk(tmp_path) for name in names}
    for end in ("lib/systemd/system/kekd.service", "lib/sysusers.d/kekd.conf",
                "lib/tmpfiles.d/kekd.conf"):
        assert any(path.endswith(end) for path in installed), end
