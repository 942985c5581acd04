# SPDX-License-Identifier: Apache-2.0
"""The units of kekd and kekd-kms under a real systemd."""

import os
import stat

import pytest

from conftest import SOCKET, sh, show, user_of
from kekd import children, comm, wait_for
from kms import Reader, Stub


def main_pid(unit):
    return int(show(unit, "MainPID"))


def wait_well(path):
    with Stub(path) as stub:
        wait_for(stub.healthy, "Status is well")


def test_systemd_finds_no_fault_in_the_units(kekd):
    assert sh("systemd-analyze verify kekd.service kekd-kms.service kekd-kms.socket") == ""


def test_kekd_is_active_once_it_answers_and_each_child_has_its_user(kekd):
    assert show("kekd.service", "ActiveState") == "active"
    users = {comm(c): user_of(c) for c in children(main_pid("kekd.service"))}
    assert users == {"kekd-net": "kekd", "kekd-hsm": "kekd-hsm"}


def test_a_reload_keeps_the_process(kekd):
    before = main_pid("kekd.service")
    sh("systemctl reload kekd.service")
    assert main_pid("kekd.service") == before
    wait_for(lambda: "active" == show("kekd.service", "ActiveState"), "kekd is active")
    sh("kekctl key list")


def test_the_socket_is_there_before_the_service_and_has_its_owner_and_mode(plugin):
    status = os.stat(SOCKET)
    assert stat.S_ISSOCK(status.st_mode)
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o600, 0, 0)


def test_the_first_call_starts_the_plugin_as_its_own_user(plugin):
    with Stub(plugin) as stub:
        wait_for(stub.healthy, "Status is well")
        assert stub.opens(stub.encrypt())
    assert user_of(main_pid("kekd-kms.service")) == "kekd-kms"
    status = os.stat("/var/lib/kekd-kms")
    assert stat.S_IMODE(status.st_mode) == 0o700


def test_doctor_finds_all_well(plugin):
    assert "All is well." in sh("kekd-kms doctor")


def inode():
    return os.stat(SOCKET).st_ino


@pytest.fixture
def calls(plugin):
    """An API server in small: each call has the API server's three seconds."""
    wait_well(plugin)
    with Reader(plugin, 0.02) as reader:
        reader.passes(10)
        yield reader


def test_restarts_keep_the_socket_and_calls_wait_in_it(calls):
    before = inode()
    for _ in range(5):
        pid = main_pid("kekd-kms.service")
        sh("systemctl restart kekd-kms.service")
        assert main_pid("kekd-kms.service") != pid
        calls.passes(20)
    assert len(calls.failed) <= 1, calls.failed  # one that crossed with the goodbye
    assert inode() == before


def test_after_a_kill_it_is_there_again_and_only_the_call_under_way_fails(calls):
    before = inode()
    pid = main_pid("kekd-kms.service")
    sh("systemctl kill --signal=KILL kekd-kms.service")
    wait_for(lambda: main_pid("kekd-kms.service") not in (0, pid), "it was started again")
    calls.passes(20)
    assert len(calls.failed) <= 1, calls.failed
    assert inode() == before


def test_a_reload_of_the_plugin_fails_no_call(calls):
    pid = main_pid("kekd-kms.service")
    sh("systemctl reload kekd-kms.service")
    calls.passes(20)
    assert main_pid("kekd-kms.service") == pid
    assert calls.failed == []


def test_a_plugin_that_hangs_is_ended_by_the_watchdog(plugin):
    sh("mkdir -p /run/systemd/system/kekd-kms.service.d && printf '[Service]\\nWatchdogSec=2\\n' "
       ">/run/systemd/system/kekd-kms.service.d/watchdog.conf && systemctl daemon-reload && "
       "systemctl restart kekd-kms.service")
    pid = main_pid("kekd-kms.service")
    sh("systemctl kill --signal=STOP kekd-kms.service")
    wait_for(lambda: main_pid("kekd-kms.service") not in (0, pid), "it was started again")
    wait_well(plugin)
    assert "watchdog" in sh("journalctl --unit kekd-kms.service --no-pager").lower()


def test_a_certificate_that_is_missing_is_told_in_the_journal_and_taken_when_it_is_there(plugin):
    sh("mv /etc/kekd/kms/client.pem /etc/kekd/kms/away && systemctl restart kekd-kms.service || :")
    wait_for(lambda: "client.pem" in sh("journalctl --unit kekd-kms.service --no-pager -n 20"),
             "the journal names the file")
    sh("mv /etc/kekd/kms/away /etc/kekd/kms/client.pem")
    wait_well(plugin)


def test_kekd_that_stops_is_waited_for(plugin):
    with Stub(plugin) as stub:
        wait_for(stub.healthy, "Status is well")
        sealed = stub.encrypt()
        sh("systemctl stop kekd.service")
        wait_for(lambda: not stub.healthy(), "Status is an error")
        sh("systemctl start kekd.service")
        wait_for(stub.healthy, "Status is well")
        assert stub.opens(sealed)
    assert show("kekd-kms.service", "ActiveState") == "active"


def test_stopping_the_socket_removes_it(plugin):
    sh("systemctl stop kekd-kms.socket kekd-kms.service")
    assert not os.path.exists(SOCKET)
    sh("systemctl start kekd-kms.socket")
    wait_well(plugin)
