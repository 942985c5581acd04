# SPDX-License-Identifier: Apache-2.0
"""No loop of ours locks a token: every C_Login is counted by a module that logs and passes on."""

import os
import time

import pytest

from kekd import LOGGING_MODULE, MODULE, PIN, children, kill, wait_for


@pytest.fixture
def logged(make_server, tmp_path):
    log = str(tmp_path / "p11.log")
    with open(log, "wb"):
        pass

    def make(**options):
        server = make_server(module=LOGGING_MODULE, environment={
            "KEKD_TEST_MODULE": MODULE, "KEKD_TEST_LOG": log}, **options)
        server.logins = lambda: read(log).count("C_Login")
        server.forget_logins = lambda: os.truncate(log, 0)
        return server
    return make


def read(path):
    with open(path, encoding="utf-8") as f:
        return [line.split()[0].strip("():") if line.split() else "" for line in f]


def prepared(server):
    """Initialised and used with the right PIN, then stopped."""
    server.init().start().populate()
    server.stop()
    server.forget_logins()
    return server


def test_each_worker_logs_in_once_whatever_the_number_of_sessions(logged):
    server = prepared(logged(workers=2, sessions=4))
    server.start()
    wait_for(lambda: server.logins() == 2, "both workers have logged in")
    with server.http("app") as app:
        for _ in range(50):
            app.unwrap(app.wrap(b"x"))
    assert server.logins() == 2


def test_a_wrong_pin_is_tried_exactly_once_over_workers_and_restarts(logged):
    server = prepared(logged(workers=4))
    server.write_pin("wrong-pin-0815")
    server.start(ready=False)
    wait_for(lambda: server.logins() >= 1, "the PIN was tried")
    time.sleep(3)
    for pid in children(server.process.pid):
        kill(pid)
    time.sleep(3)
    assert server.logins() == 1
    server.stop()
    server.start(ready=False)
    time.sleep(3)
    assert server.health()[0] == 503
    server.stop()
    assert server.logins() == 1


def test_a_refused_pin_is_told_in_health_and_log_and_never_shown(logged):
    server = prepared(logged())
    server.write_pin("wrong-pin-0815")
    server.start(ready=False)
    wait_for(lambda: "PIN" in server.log() and server.health()[0] == 503, "it is told")
    assert server.health("live")[0] == 200
    assert "0815" not in server.log() and PIN not in server.log()
    for folder in ("state-hsm", "state"):
        for where, _, names in os.walk(server.path(folder)):
            for name in names:
                with open(os.path.join(where, name), "rb") as f:
                    assert b"wrong-pin-0815" not in f.read()
                assert os.stat(os.path.join(where, name)).st_mode & 0o077 == 0


def test_right_after_the_pin_file_changes_it_logs_in(logged):
    server = prepared(logged(workers=2))
    server.write_pin("wrong-pin-0815")
    server.start(ready=False)
    wait_for(lambda: server.logins() == 1, "the wrong PIN was tried")
    time.sleep(1)
    server.write_pin(PIN)
    server.wait_ready()
    with server.http("app") as app:
        assert app.unwrap(app.wrap(b"x")) == b"x"
    wait_for(lambda: server.logins() == 3, "both workers have logged in")


def test_a_second_wrong_pin_is_tried_once_more(logged):
    server = prepared(logged(workers=2))
    server.write_pin("wrong-pin-0815")
    server.start(ready=False)
    wait_for(lambda: server.logins() == 1, "the wrong PIN was tried")
    time.sleep(1)
    server.write_pin("wrong-pin-0816")
    wait_for(lambda: server.logins() == 2, "the second wrong PIN was tried")
    time.sleep(3)
    assert server.logins() == 2


def test_a_refused_pin_that_is_written_again_is_not_tried_again(logged):
    """What counts is the PIN, not its file."""
    server = prepared(logged(workers=1))
    server.write_pin("wrong-pin-0815")
    server.start(ready=False)
    wait_for(lambda: "refused the PIN" in server.log(), "the wrong PIN was refused")
    assert server.logins() == 1
    server.write_pin("wrong-pin-0815")
    time.sleep(3)
    assert server.logins() == 1
    server.stop()
    server.start(ready=False)
    time.sleep(3)
    assert server.logins() == 1


def test_workers_killed_in_their_login_do_not_try_again_and_again(logged):
    """The try is on disk before the token is asked. Only one whose answer nobody heard, and of
    which the token knows nothing, is repeated, once."""
    server = prepared(logged(workers=1))
    server.write_pin("wrong-pin-0815")
    server.start(ready=False)
    wait_for(lambda: server.logins() == 1, "the wrong PIN was tried", every=0.0001)
    for _ in range(5):
        for pid in server.workers():
            kill(pid)
        time.sleep(1)
    server.stop()
    server.start(ready=False)
    time.sleep(3)
    assert server.logins() <= 2


def test_workers_that_are_logged_in_serve_on_after_the_pin_file_went_wrong(logged):
    server = prepared(logged(workers=2))
    server.start()
    wait_for(lambda: server.logins() == 2, "both workers have logged in")
    server.write_pin("wrong-pin-0815")
    kill(server.workers()[0])
    wait_for(lambda: server.logins() == 3, "the new worker tries the new PIN")
    time.sleep(2)
    assert server.logins() == 3
    with server.http("app") as app, server.http("admin-1") as admin:
        for _ in range(20):
            assert app.unwrap(app.wrap(b"x")) == b"x"
        states = [w["state"] for w in admin.status()["tokens"][0]["workers"]]
        assert sorted(states) == ["pin_refused", "ready"]
