# SPDX-License-Identifier: Apache-2.0
"""Logins that fail, with any code: none is repeated so often that it could lock a token, the last
try is an operator's, and an operator's word lets kekd try once."""

import os
import time

import pytest

from kekd import FAULTY_MODULE, LONG, PIN, Faults, kill, wait_for

FINAL_TRY = "C_GetTokenInfo flags CKF_USER_PIN_FINAL_TRY"
QUIET = 2  # seconds in which a loop would have tried again


def some(*codes):
    """All of them in the long run."""
    return codes if LONG else codes[:2]


@pytest.fixture
def faults(tmp_path):
    return Faults(str(tmp_path))


@pytest.fixture
def server(make_server, faults):
    """Two workers, both logged in, and a client that uses them."""
    server = make_server(module=FAULTY_MODULE, environment=faults.environment)
    server.init().start().populate()
    settle(server)
    faults.forget()
    return server


def states(server):
    with server.http("admin-1") as admin:
        return sorted(w["state"] for w in admin.status()["tokens"][0]["workers"])


def settle(server):
    wait_for(lambda: states(server) == ["ready", "ready"], "both workers are ready")


def serves(server):
    with server.http("app") as app:
        for _ in range(4):
            assert app.unwrap(app.wrap(b"x")) == b"x"


def lose_a_worker(server):
    kill(server.workers()[0])


def settle_after(server, faults, logins):
    wait_for(lambda: len(faults.calls("C_Login")) == logins, f"{logins} logins")
    settle(server)
    serves(server)


def wait_for_state(server, state):
    wait_for(lambda: state in states(server), f"a worker is {state}")


# ---- the last try ----

def test_the_last_try_waits_for_an_administrator(server, faults):
    faults.set(FINAL_TRY)
    lose_a_worker(server)
    wait_for_state(server, "pin_final_try")
    time.sleep(QUIET)
    assert not faults.calls("C_Login")
    serves(server)
    for command in (["hsm", "status"], ["status"]):
        shown = server.kekctl(*command).stdout.decode()
        assert "waiting for an operator" in shown and "kekctl hsm retry-pin" in shown
    server.kekctl("hsm", "retry-pin")
    settle(server)
    assert len(faults.calls("C_Login")) == 1
    serves(server)
    records = server.audit_records(operation="hsm.retry_pin")
    assert [r["type"] for r in records] == ["intent", "outcome"]
    # There is nothing left of it for the next one.
    lose_a_worker(server)
    wait_for_state(server, "pin_final_try")
    time.sleep(QUIET)
    assert len(faults.calls("C_Login")) == 1


def test_an_operators_word_is_for_one_login_not_for_the_life_of_a_worker(make_server, faults):
    server = make_server(module=FAULTY_MODULE, environment=faults.environment, workers=1)
    server.init().start().populate()
    faults.set(FINAL_TRY)
    lose_a_worker(server)
    wait_for_state(server, "pin_final_try")
    assert server.run("retry-pin").returncode == 0
    wait_for(lambda: states(server) == ["ready"], "the worker is ready")
    faults.forget()
    faults.set(FINAL_TRY, "C_DecryptInit,C_EncryptInit logout times=1")
    with server.http("app") as app:
        assert app.call("POST", "/v1/keys/demo/wrap", {"plaintext": "eA=="}).status == 503
    wait_for_state(server, "pin_final_try")
    time.sleep(QUIET)
    assert not faults.calls("C_Login")
    faults.set()
    assert server.run("retry-pin").returncode == 0
    wait_for(lambda: states(server) == ["ready"], "the worker is ready")


def test_the_last_try_at_the_start_waits_for_root_on_the_host(server, faults):
    """Nobody can be authorised while no worker is logged in."""
    server.stop()
    # What was said before kekd waited counts for nothing.
    with open(server.path("state-hsm", "retry-pin-main"), "wb"):
        pass
    faults.set(FINAL_TRY)
    server.start(ready=False)
    wait_for(lambda: "waiting for an operator" in server.log(), "it is told")
    time.sleep(QUIET)
    assert not faults.calls("C_Login")
    assert server.health()[0] == 503
    server.kekctl("hsm", "retry-pin", status=7)
    done = server.run("retry-pin")
    assert done.returncode == 0, done.stdout
    server.wait_ready()
    assert len(faults.calls("C_Login")) == 1
    assert os.listdir(server.path("state-hsm")) == []
    faults.set()
    serves(server)


def test_an_operators_word_that_nobody_waits_for_is_refused_and_forgotten(server, faults):
    done = server.run("retry-pin")
    assert done.returncode == 1 and "nobody waits" in done.stdout
    assert os.listdir(server.path("state-hsm")) == []
    refused = server.kekctl("hsm", "retry-pin", status=5)
    assert b"no worker waits" in refused.stderr
    assert server.run("retry-pin", "other").returncode == 2
    assert not faults.calls("C_Login")


def test_only_who_may_change_the_cluster_may_say_it(server):
    with server.http("app") as app:
        reply = app.call("POST", "/v1/hsm/retry-pin", {})
        assert (reply.status, reply.code) == (403, "forbidden")
    with server.http("admin-1") as admin:
        reply = admin.call("POST", "/v1/hsm/retry-pin", {"token": "other"})
        assert (reply.status, reply.code) == (400, "invalid_request")


# ---- a refused PIN ----

def test_a_pin_that_was_refused_and_is_right_is_tried_on_an_operators_word(server, faults):
    faults.set("C_Login return CKR_PIN_INCORRECT times=1")
    lose_a_worker(server)
    wait_for_state(server, "pin_refused")
    time.sleep(QUIET)
    assert len(faults.calls("C_Login")) == 1
    server.kekctl("hsm", "retry-pin", "main")
    settle(server)
    assert len(faults.calls("C_Login")) == 2
    serves(server)


def test_the_api_cannot_be_made_to_try_one_pin_again_and_again(server, faults):
    server.write_pin("wrong-pin-0815")
    lose_a_worker(server)
    wait_for_state(server, "pin_refused")
    for _ in range(3):
        server.kekctl("hsm", "retry-pin")
        time.sleep(1)
    assert len(faults.calls("C_Login")) == 2
    assert "was tried again before" in server.log()
    serves(server)
    server.write_pin(PIN)
    settle(server)
    assert len(faults.calls("C_Login")) == 3


@pytest.mark.parametrize("code", some(
    "CKR_PIN_INCORRECT", "CKR_PIN_EXPIRED", "CKR_PIN_LOCKED", "CKR_PIN_INVALID",
    "CKR_PIN_LEN_RANGE"))
def test_whatever_is_said_of_the_pin_it_is_not_tried_twice(server, faults, code):
    faults.set(f"C_Login return {code}")
    lose_a_worker(server)
    wait_for(lambda: faults.calls("C_Login"), "the PIN was tried")
    time.sleep(QUIET)
    lose_a_worker(server)
    time.sleep(1)
    assert len(faults.calls("C_Login")) == 1
    assert "4711-test-pin" not in server.log()
    faults.set()
    assert server.run("retry-pin").returncode == 0
    settle(server)
    serves(server)


@pytest.mark.parametrize("code", some(
    "CKR_FUNCTION_FAILED", "0x80000001", "CKR_GENERAL_ERROR", "CKR_ARGUMENTS_BAD"))
def test_a_code_that_may_mean_the_pin_gets_two_tries(server, faults, code):
    faults.set(f"C_Login return {code}")
    lose_a_worker(server)
    wait_for_state(server, "pin_refused")
    time.sleep(QUIET)
    assert len(faults.calls("C_Login")) == 2
    serves(server)
    faults.set()
    server.kekctl("hsm", "retry-pin")
    settle(server)


def test_a_code_that_may_mean_the_pin_is_forgotten_when_the_next_try_is_good(server, faults):
    faults.set("C_Login return CKR_GENERAL_ERROR times=1")
    lose_a_worker(server)
    settle_after(server, faults, logins=2)
    assert os.listdir(server.path("state-hsm")) == []


def test_a_wrong_pin_under_another_code_shows_in_the_tokens_flags(server, faults):
    faults.set("C_Login answer CKR_FUNCTION_FAILED")
    server.write_pin("wrong-pin-0815")
    lose_a_worker(server)
    wait_for_state(server, "pin_refused")
    time.sleep(QUIET)
    assert len(faults.calls("C_Login")) == 1


@pytest.mark.parametrize("code", some(
    "CKR_DEVICE_ERROR", "CKR_SESSION_HANDLE_INVALID", "CKR_DEVICE_REMOVED", "CKR_HOST_MEMORY"))
def test_a_login_that_failed_for_another_reason_is_tried_again_ever_more_slowly(
        server, faults, code):
    faults.set(f"C_Login return {code}")
    lose_a_worker(server)
    wait_for(lambda: len(faults.calls("C_Login")) >= 3, "it was tried again")
    time.sleep(QUIET)
    assert len(faults.calls("C_Login")) <= 8
    serves(server)
    faults.set()
    settle(server)
    serves(server)
    assert os.listdir(server.path("state-hsm")) == []


def test_few_tries_left_are_for_a_pin_that_was_never_refused(server, faults):
    low = "C_GetTokenInfo flags CKF_USER_PIN_COUNT_LOW"
    faults.set(low)
    lose_a_worker(server)
    settle_after(server, faults, logins=1)
    faults.set(low, "C_Login return CKR_PIN_INCORRECT times=1")
    lose_a_worker(server)
    wait_for_state(server, "pin_refused")
    server.write_pin(PIN)  # another file, the same PIN
    time.sleep(QUIET)
    assert len(faults.calls("C_Login")) == 2


def test_a_token_that_says_its_pin_is_locked_is_not_asked(server, faults):
    faults.set("C_GetTokenInfo flags CKF_USER_PIN_LOCKED")
    lose_a_worker(server)
    wait_for_state(server, "pin_locked")
    server.kekctl("hsm", "retry-pin")
    time.sleep(QUIET)
    assert not faults.calls("C_Login")
    serves(server)
    faults.set()
    assert server.run("retry-pin").returncode == 0
    settle(server)
