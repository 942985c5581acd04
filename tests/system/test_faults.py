# SPDX-License-Identifier: Apache-2.0
"""What kekd makes of a token that fails: every call, every class of error. A module that makes
calls go wrong on command (contrib/pkcs11-faults) stands between kekd and SoftHSM."""

import itertools
import time

import pytest

from kekd import FAULTY_MODULE, LONG, PATIENCE, Faults, wait_for

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return Faults(str(tmp_path_factory.mktemp("faults")))


@pytest.fixture(scope="module")
def server(make_shared_server, faults):
    server = make_shared_server(module=FAULTY_MODULE, environment=faults.environment)
    return server.init().start().populate()


@pytest.fixture(autouse=True)
def no_faults_before_and_after(request):
    """The token of the shared server is well again, and so is the server."""
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("faults").set()
        settle(request.getfixturevalue("server"))


def ready_workers(server):
    with server.http("admin-1") as admin:
        return [w for t in admin.status()["tokens"] for w in t["workers"]
                if w["state"] == "ready"]


def settle(server, workers=2):
    wait_for(lambda: len(ready_workers(server)) == workers, "all workers are ready")


# ---- what kekd is asked to do, by the calls that it makes for it ----

class Work:
    """A connection each, a key that exists and one that does not."""

    def __init__(self, server):
        self.app = server.http("app")
        self.admin = server.http("admin-1")
        self.blob = self.app.wrap(b"before")
        self.name = f"key-{next(_numbers)}"

    def close(self):
        self.app.close()
        self.admin.close()

    def wrap(self):
        return self.app.call("POST", "/v1/keys/demo/wrap", {"plaintext": "eA=="})

    def unwrap(self):
        return self.app.try_unwrap(self.blob)

    def generate(self):
        return self.app.call("POST", "/v1/keys/demo/generate", {"bytes": 32})

    def create(self):
        return self.admin.call("POST", "/v1/keys", {"name": self.name}, create=True)

    def rotate(self):
        etag = self.admin.get("/v1/keys/demo").etag
        return self.admin.call("POST", "/v1/keys/demo/rotate", {}, etag=etag)

    def check(self):
        """Afterwards all is well, without help."""
        assert self.app.unwrap(self.blob) == b"before"
        for _ in range(4):
            assert self.app.unwrap(self.app.wrap(b"after")) == b"after"


@pytest.fixture
def work(server):
    w = Work(server)
    yield w
    w.close()


CALLS = [
    ("wrap", "C_EncryptInit"), ("wrap", "C_Encrypt"),
    ("unwrap", "C_DecryptInit"), ("unwrap", "C_Decrypt"),
    ("generate", "C_GenerateRandom"),
    ("create", "C_FindObjectsInit"), ("create", "C_FindObjects"), ("create", "C_FindObjectsFinal"),
    ("create", "C_GetSessionInfo"), ("create", "C_GenerateKey"), ("create", "C_GetAttributeValue"),
    ("create", "C_CopyObject"), ("create", "C_SignInit"), ("create", "C_Sign"),
    ("rotate", "C_FindObjects"), ("rotate", "C_GenerateKey"), ("rotate", "C_Sign"),
]
SESSION = ["CKR_SESSION_HANDLE_INVALID", "CKR_SESSION_CLOSED", "CKR_OPERATION_ACTIVE",
           "CKR_OPERATION_NOT_INITIALIZED"]
OBJECT = ["CKR_KEY_HANDLE_INVALID", "CKR_OBJECT_HANDLE_INVALID"]
LOGIN = ["CKR_USER_NOT_LOGGED_IN"]
RESTART = ["CKR_DEVICE_ERROR", "CKR_FUNCTION_FAILED", "CKR_HOST_MEMORY", "CKR_GENERAL_ERROR",
           "0x80000001"]
GONE = ["CKR_DEVICE_REMOVED", "CKR_TOKEN_NOT_PRESENT", "CKR_CRYPTOKI_NOT_INITIALIZED",
        "CKR_SLOT_ID_INVALID"]
OPERATOR = ["CKR_KEY_FUNCTION_NOT_PERMITTED", "CKR_KEY_SIZE_RANGE", "CKR_KEY_TYPE_INCONSISTENT",
            "CKR_MECHANISM_INVALID", "CKR_SESSION_COUNT", "CKR_TOKEN_WRITE_PROTECTED",
            "CKR_FUNCTION_NOT_SUPPORTED", "CKR_DEVICE_MEMORY", "CKR_TOKEN_NOT_RECOGNIZED"]
CALLER = ["CKR_ENCRYPTED_DATA_INVALID", "CKR_ENCRYPTED_DATA_LEN_RANGE", "CKR_DATA_INVALID",
          "CKR_DATA_LEN_RANGE", "CKR_SIGNATURE_INVALID", "CKR_GENERAL_ERROR"]


def matrix(calls, codes):
    """Every call and every code; each with each in the long run."""
    if LONG:
        return [(*call, code) for call in calls for code in codes]
    n = max(len(calls), len(codes))
    return [(*calls[i % len(calls)], codes[i % len(codes)]) for i in range(n)]


def used(faults, function, code):
    """The rule was: nothing is shown by a call that nobody made."""
    return any(a in (code, "?") for a in faults.answers(function))


# A tag that SoftHSM does not verify is CKR_GENERAL_ERROR; whether a key was made after an error of
# the device is not known, so that is not done again.
ONCE = [case for codes in (SESSION, OBJECT, LOGIN, RESTART) for case in matrix(CALLS, codes)
        if case[1:] != ("C_Decrypt", "CKR_GENERAL_ERROR")
        and not (case[1] == "C_GenerateKey" and codes is RESTART)]


@pytest.mark.parametrize("doing,function,code", ONCE)
def test_what_fails_once_is_mended_and_nobody_notices(server, faults, work, doing, function, code):
    workers = sorted(server.workers())
    faults.forget()
    faults.set(f"{function} return {code} times=1")
    reply = getattr(work, doing)()
    assert reply.status in (200, 201), reply
    assert used(faults, function, code)
    work.check()
    assert sorted(server.workers()) == workers
    assert not faults.calls("C_Login")


@pytest.mark.parametrize("code", RESTART)
@pytest.mark.parametrize("doing", ["create", "rotate"])
def test_a_key_whose_making_failed_is_not_made_twice(server, faults, work, doing, code):
    faults.forget()
    faults.set(f"C_GenerateKey answer {code} times=1")
    reply = getattr(work, doing)()
    assert (reply.status, reply.code) == (503, "hsm_unavailable"), reply
    assert len(faults.calls("C_GenerateKey")) == 1
    work.check()
    # The same again takes the key that is there.
    reply = getattr(work, doing)()
    assert reply.status in (200, 201), reply
    assert len(faults.calls("C_GenerateKey")) == 1
    work.check()


@pytest.mark.parametrize("doing,function,code", matrix(
    [c for c in CALLS if c[1] != "C_CopyObject"], OPERATOR))
def test_what_the_token_will_not_do_is_told_and_restarts_nobody(
        server, faults, work, doing, function, code):
    workers = sorted(server.workers())
    faults.forget()
    faults.set(f"{function} return {code} times=1")
    reply = getattr(work, doing)()
    assert reply.status in (503, 409), reply
    assert reply.code in ("hsm_unavailable", "store_unavailable"), reply
    assert used(faults, function, code)
    faults.set()
    work.check()
    assert sorted(server.workers()) == workers
    reply = getattr(work, doing)()
    assert reply.status in (200, 201), reply


@pytest.mark.parametrize("code", CALLER)
def test_a_ciphertext_that_does_not_verify_is_the_callers_fault(server, faults, work, code):
    workers = sorted(server.workers())
    faults.set(f"C_Decrypt return {code} times=1")
    reply = work.unwrap()
    assert (reply.status, reply.code) == (400, "unwrap_failed"), reply
    work.check()
    assert sorted(server.workers()) == workers


@pytest.mark.parametrize("code", SESSION + OBJECT + LOGIN + RESTART + OPERATOR)
def test_a_key_that_cannot_be_copied_is_used_as_it_is(server, faults, work, code):
    faults.set(f"C_CopyObject return {code} times=2")
    assert work.create().status == 201
    for _ in range(4):
        assert work.app.unwrap(work.app.wrap(b"x", key=work.name), key=work.name) == b"x"
    work.check()


@pytest.mark.parametrize("action", ["close", "close-all", "logout"])
@pytest.mark.parametrize("doing,function", [
    ("wrap", "C_EncryptInit"), ("wrap", "C_Encrypt"), ("unwrap", "C_DecryptInit"),
    ("generate", "C_GenerateRandom"), ("create", "C_FindObjectsInit"), ("create", "C_FindObjects"),
    ("create", "C_GenerateKey"), ("create", "C_CopyObject"), ("create", "C_SignInit")])
def test_sessions_and_logins_that_are_really_gone_come_back(
        server, faults, work, doing, function, action):
    workers = sorted(server.workers())
    faults.forget()
    faults.set(f"{function} {action} times=1")
    reply = getattr(work, doing)()
    assert reply.status in (200, 201), reply
    work.check()
    assert sorted(server.workers()) == workers
    assert len(faults.calls("C_Login")) <= 1


@pytest.mark.parametrize("code", SESSION[:1] + LOGIN + RESTART[:1])
def test_a_token_that_stays_ill_restarts_workers_ever_more_slowly(server, faults, work, code):
    old, since = sorted(server.workers()), len(server.log())
    faults.forget()
    faults.set(f"C_EncryptInit return {code}")
    end = time.monotonic() + 3
    while time.monotonic() < end or not faults.calls("C_Initialize"):
        reply = work.wrap()
        assert (reply.status, reply.code) == (503, "hsm_unavailable"), reply
        assert time.monotonic() < end + PATIENCE
        time.sleep(0.01)
    assert not set(old) & set(server.workers())
    assert "failed 3 times in a row" in server.log()[since:]
    assert len(faults.calls("C_Initialize")) <= 20
    assert len(faults.calls("C_Login")) <= len(faults.calls("C_Initialize"))
    faults.set()
    wait_for(lambda: work.wrap().status == 200, "it serves again")
    work.check()
