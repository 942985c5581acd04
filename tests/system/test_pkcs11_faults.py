# SPDX-License-Identifier: Apache-2.0
"""contrib/pkcs11-faults by itself: built with its one command, used with pkcs11-tool as its README
says, by programs that know nothing of kekd."""

import hashlib
import os
import shutil
import signal
import subprocess

import pytest

from kekd import FAULTY_MODULE, PIN, SO_PIN, TOP, Faults

FUNCTIONS = 68  # of PKCS#11 2.40's list


class Token(Faults):
    """A SoftHSM token, pkcs11-tool, and the module between them."""

    def __init__(self, directory):
        super().__init__(directory)
        os.mkdir(os.path.join(directory, "tokens"))
        configuration = os.path.join(directory, "softhsm2.conf")
        with open(configuration, "w", encoding="utf-8") as f:
            f.write(f"directories.tokendir = {directory}/tokens\nlog.level = ERROR\n")
        self.environment = dict(os.environ, SOFTHSM2_CONF=configuration, **self.environment)
        subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "lab", "--pin", PIN,
                        "--so-pin", SO_PIN], env=self.environment, check=True,
                       capture_output=True)

    def tool(self, *arguments):
        return subprocess.run(
            ["pkcs11-tool", "--module", FAULTY_MODULE, "--token-label", "lab", *arguments],
            env=self.environment, check=False, capture_output=True, timeout=30)

    def random(self):
        done = self.tool("--generate-random", "8")
        return done.stdout if done.returncode == 0 else None


@pytest.fixture
def token(tmp_path):
    return Token(str(tmp_path))


def test_it_is_built_alone_with_one_command(tmp_path):
    for part in ("contrib/pkcs11-faults", "tests/faults"):
        shutil.copytree(os.path.join(TOP, part), tmp_path / part)
    subprocess.run(["make", "-C", tmp_path / "contrib/pkcs11-faults"], check=True,
                   capture_output=True)
    assert os.path.exists(tmp_path / "contrib/pkcs11-faults/p11faults.so")


def test_it_has_every_function_of_the_standard(token):
    """In a process of its own: the module keeps what it was first told."""
    script = (
        "import ctypes, sys\n"
        f"lib = ctypes.CDLL({FAULTY_MODULE!r})\n"
        "list = ctypes.POINTER(ctypes.c_void_p)()\n"
        "assert lib.C_GetFunctionList(ctypes.byref(list)) == 0\n"
        f"print(sum(1 for i in range(1, {FUNCTIONS} + 1) if list[i]))\n")
    done = subprocess.run(["python3", "-c", script], env=token.environment, check=True,
                          capture_output=True, text=True)
    assert int(done.stdout) == FUNCTIONS


def test_the_next_call_fails_and_the_one_after_works(token):
    token.set("C_GenerateRandom return CKR_DEVICE_ERROR times=1")
    assert token.random() is None
    assert len(token.random()) == 8
    assert token.answers("C_GenerateRandom") == ["CKR_DEVICE_ERROR", "CKR_OK"]


def test_counts_are_of_all_processes_together_or_of_each(token):
    token.set("C_GenerateRandom return CKR_DEVICE_ERROR skip=1 times=2")
    assert [bool(token.random()) for _ in range(4)] == [True, False, False, True]
    token.set("C_GenerateRandom return CKR_DEVICE_ERROR times=1 each")
    assert [bool(token.random()) for _ in range(3)] == [False, False, False]
    token.set("C_GenerateRandom return CKR_DEVICE_ERROR one")
    assert [bool(token.random()) for _ in range(3)] == [False, True, True]


def test_new_rules_begin_to_count_anew(token):
    for _ in range(2):
        token.set("C_GenerateRandom return CKR_DEVICE_ERROR times=1")
        assert token.random() is None
        assert token.random()


def test_flags_are_shown(token):
    token.set("C_GetTokenInfo flags CKF_USER_PIN_FINAL_TRY|CKF_USER_PIN_COUNT_LOW")
    shown = token.tool("-L").stdout
    assert b"final user PIN try" in shown and b"user PIN count low" in shown


def test_a_result_can_be_spoilt(token, tmp_path):
    (tmp_path / "data").write_bytes(b"data")
    digest = ["--hash", "--mechanism", "SHA256", "--input-file", tmp_path / "data"]
    good = token.tool(*digest).stdout
    assert good == hashlib.sha256(b"data").digest()
    token.set("C_Digest,C_DigestFinal flip 0")
    assert token.tool(*digest).stdout == good[:-1] + bytes([good[-1] ^ 1])
    token.set("C_Digest,C_DigestFinal short 4")
    assert token.tool(*digest).stdout == good[:-4]


def test_a_crash_is_one(token):
    token.set("C_GenerateRandom crash")
    assert token.tool("--generate-random", "8").returncode == -signal.SIGSEGV
    assert token.lines()[-1][0] == "C_GenerateRandom"


def test_a_rule_that_is_wrong_ends_the_program(token):
    token.set("C_Encrypt retrun CKR_DEVICE_ERROR")
    done = token.tool("-L")
    assert done.returncode == -signal.SIGABRT
    assert b"rules:1: there is no such action" in done.stderr


def test_the_log_has_no_pin(token):
    token.tool("--login", "--pin", PIN, "--generate-random", "8")
    assert token.calls("C_Login")
    with open(token.log, "rb") as f:
        assert PIN.encode() not in f.read()
