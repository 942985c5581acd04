# SPDX-License-Identifier: Apache-2.0
"""What kekd makes of a token that fails: every call, every class of error. A module that makes
calls go wrong on command (contrib/pkcs11-faults) stands between kekd and SoftHSM."""

import itertools
import time

import pytest

from kekd import FAULTY_MODULE, LONG, PATIENCE, Faults, kill, wait_for

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return Faults(str(tmp_path_factory.mktemp("faults")))


@pytest.fixture(scope="module")
def server(make_shared_server, faults):
    server = make_shared_server(module=FAULTY_MODULE, environment=faults.environment)
    server.init().start().populate()
    settle(server)
    return server


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


# ---- a module or a token that is gone, crashes, hangs ----

@pytest.fixture(scope="module")
def many_faults(tmp_path_factory):
    return Faults(str(tmp_path_factory.mktemp("many")))


@pytest.fixture(scope="module")
def many(make_shared_server, many_faults):
    """Four workers: some may be on their way back."""
    server = make_shared_server(module=FAULTY_MODULE, environment=many_faults.environment,
                                workers=4, hsm={"deadline": "1s", "hang": "2s"})
    return server.init().start().populate()


@pytest.fixture
def many_work(many, many_faults):
    many_faults.set()
    wait_for(lambda: len(ready_workers(many)) >= 3, "enough workers are ready")
    w = Work(many)
    many_faults.forget()
    yield w
    many_faults.set()
    w.close()


def lost_one(before, server):
    return wait_for(lambda: set(before) - set(server.workers()), "a worker ended")


ENDS = [f"return {code}" for code in GONE] + ["crash", "exit 1"]


@pytest.mark.parametrize("doing,function,end", matrix(
    [c for c in CALLS if c[0] in ("wrap", "unwrap", "generate")], ENDS))
def test_what_only_computes_is_done_by_another_worker(
        many, many_faults, many_work, doing, function, end):
    before = many.workers()
    many_faults.set(f"{function} {end} times=1")
    reply = getattr(many_work, doing)()
    assert reply.status == 200, reply
    assert len(lost_one(before, many)) == 1
    many_work.check()


def test_what_ends_two_workers_is_not_given_to_a_third(many, many_faults, many_work):
    before = many.workers()
    many_faults.set("C_Encrypt crash")
    reply = many_work.wrap()
    assert (reply.status, reply.code) == (503, "hsm_unavailable"), reply
    many_faults.set()
    assert len(lost_one(before, many)) <= 2
    many_work.check()


@pytest.mark.parametrize("end", ["crash", "return CKR_DEVICE_REMOVED"])
def test_the_making_of_a_key_is_never_given_to_another_worker(
        many, many_faults, many_work, end):
    before = many.workers()
    many_faults.set(f"C_GenerateKey {end} times=1")
    reply = many_work.create()
    assert (reply.status, reply.code) == (503, "hsm_unavailable"), reply
    assert len(lost_one(before, many)) == 1
    assert len(many_faults.calls("C_GenerateKey")) == 1
    many_work.check()
    assert many_work.create().status == 201
    many_work.check()


def test_a_call_that_hangs_is_given_up_and_its_worker_replaced(many, many_faults, many_work):
    before = many.workers()
    many_faults.set("C_Encrypt hang times=1")
    reply = many_work.wrap()
    assert (reply.status, reply.code) == (503, "hsm_timeout"), reply
    many_work.check()
    assert len(lost_one(before, many)) == 1
    many_work.check()


def test_a_token_that_is_taken_out_and_put_back_is_served_again(many, many_faults, many_work):
    many_faults.set("C_GetSlotList empty", "C_* return CKR_DEVICE_REMOVED")
    wait_for(lambda: many_work.wrap().status == 503 and not ready_workers(many),
             "nobody is ready")
    reply = many_work.wrap()
    assert (reply.status, reply.code) == (503, "hsm_unavailable"), reply
    assert many.health()[0] == 503
    many_faults.set()
    wait_for(lambda: many_work.wrap().status == 200, "it is served again")
    many_work.check()


def test_calls_that_fail_at_the_start_are_made_again_later(many, many_faults, many_work):
    calls = ["C_Initialize", "C_GetInfo", "C_GetSlotList", "C_GetTokenInfo", "C_OpenSession",
             "C_FindObjectsInit", "C_GetAttributeValue"]
    many_faults.set(*(f"{call} return CKR_DEVICE_ERROR times=1" for call in calls))
    for pid in many.workers():
        kill(pid)
    wait_for(lambda: len(ready_workers(many)) == 4, "all workers are back", 3 * PATIENCE)
    for call in calls:
        assert "CKR_DEVICE_ERROR" in many_faults.answers(call), call
    many_work.check()


# ---- results that are wrong ----

@pytest.mark.parametrize("doing,function", [
    ("wrap", "C_Encrypt"), ("unwrap", "C_Decrypt"), ("create", "C_Sign")])
@pytest.mark.parametrize("wrong", ["short 1", "empty"])
def test_a_result_of_a_wrong_length_is_never_an_answer(
        server, faults, work, doing, function, wrong):
    faults.set(f"{function} {wrong} times=1")
    reply = getattr(work, doing)()
    assert reply.status in (200, 201), reply
    if doing == "unwrap":
        assert reply.json["plaintext"] == "YmVmb3Jl"
    work.check()
    faults.set(f"{function} {wrong}")
    w = Work.__new__(Work)
    w.app, w.admin, w.blob, w.name = work.app, work.admin, work.blob, work.name + "-2"
    assert getattr(w, doing)().status == 503
    faults.set()
    settle(server)
    work.check()


def test_random_bytes_that_nobody_made_are_never_a_data_key(server, faults, work):
    faults.set("C_GenerateRandom return CKR_OK times=1")
    reply = work.generate()
    assert reply.status == 200
    assert len(set(reply.json["plaintext"])) > 8


@pytest.mark.parametrize("function", ["C_Encrypt", "C_Decrypt"])
def test_a_token_that_computes_wrongly_makes_no_version_primary(server, faults, work, function):
    before = work.admin.key()["primary"]
    faults.set(f"{function} flip 3")
    reply = work.rotate()
    assert reply.status in (409, 503), reply
    faults.set()
    assert work.admin.key()["primary"] == before
    work.check()
    assert work.rotate().status == 200
    work.check()


def test_a_wrong_bit_of_a_ciphertext_is_found_when_it_is_unwrapped(server, faults, work):
    faults.set("C_Encrypt flip 20 times=1")
    blob = work.app.wrap(b"a data key of 32 bytes, or nearly")
    reply = work.app.try_unwrap(blob)
    assert (reply.status, reply.code) == (400, "unwrap_failed")


@pytest.mark.parametrize("skip", range(4))
def test_a_wrong_seal_is_never_written(server, faults, work, skip):
    """It would be taken for a change from outside when it is read again."""
    faults.forget()
    faults.set(f"C_Sign flip 0 times=1 skip={skip}")
    reply = work.create()
    assert (reply.status, reply.code) == (503, "hsm_unavailable"), reply
    faults.set()
    assert work.create().status in (201, 412)
    with server.http("admin-1") as admin:
        store = admin.status()["store"]
    assert store["hold"] == "none" and store["refused"] == []
    work.check()


# ---- nothing is left out ----

def test_every_call_that_kekd_makes_is_tested_here(server, faults):
    at_the_start_or_end = {"C_Initialize", "C_Finalize", "C_GetInfo", "C_GetSlotList",
                           "C_GetTokenInfo", "C_OpenSession", "C_CloseSession", "C_Login",
                           "C_DestroyObject"}
    faults.forget()
    server.stop()
    server.start()
    work = Work(server)
    for doing in ("wrap", "unwrap", "generate", "create", "rotate"):
        assert getattr(work, doing)().status in (200, 201)
    work.close()
    made = {words[0] for words in faults.lines() if words[0] != "="}
    assert made <= {call for _, call in CALLS} | at_the_start_or_end


@pytest.mark.parametrize("code", ["CKR_SESSION_HANDLE_INVALID", "CKR_DEVICE_ERROR"])
def test_what_cannot_be_tidied_up_hinders_nobody(server, faults, work, code):
    """C_CloseSession and C_DestroyObject are made for order's sake."""
    faults.set(f"C_CloseSession,C_DestroyObject return {code}",
               "C_EncryptInit return CKR_SESSION_CLOSED times=1",
               "C_DecryptInit return CKR_KEY_HANDLE_INVALID times=1 skip=1")
    for _ in range(4):
        assert work.wrap().status == 200
        assert work.unwrap().status == 200
    work.check()
