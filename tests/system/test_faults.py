# SPDX-License-Identifier: Apache-2.0
"""What kekd makes of a token that fails: every call, every class of error. A module that makes
calls go wrong on command (contrib/pkcs11-faults) stands between kekd and SoftHSM."""

import pytest

from kekd import FAULTY_MODULE, Faults, wait_for


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return Faults(str(tmp_path_factory.mktemp("faults")))


@pytest.fixture(scope="module")
def server(make_shared_server, faults):
    server = make_shared_server(module=FAULTY_MODULE, environment=faults.environment)
    return server.init().start().populate()


def test_a_session_that_is_lost_is_opened_again_and_nobody_notices(server, faults, app):
    faults.set("C_EncryptInit return CKR_SESSION_HANDLE_INVALID times=1")
    assert app.unwrap(app.wrap(b"x")) == b"x"
    wait_for(lambda: "opened a new session" in server.log(), "the log tells")
