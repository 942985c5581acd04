# SPDX-License-Identifier: Apache-2.0
"""A full disk under the audit log: nothing is answered unrecorded, and it recovers by itself."""

import contextlib
import os
import subprocess
import time

import pytest

from kekd import b64, wait_for


@pytest.fixture
def small(make_server, root):
    """A server whose audit directory has one MiB in all."""
    server = make_server()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs",
                           server.audit_dir], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield server.init().start().populate()
    finally:
        server.stop()
        subprocess.run(["umount", "-l", server.audit_dir], check=True)


def fill(server):
    path = os.path.join(server.audit_dir, "ballast")
    with open(path, "wb", buffering=0) as f:
        with contextlib.suppress(OSError):
            while True:
                f.write(bytes(4096))
    return path


def wrap(app):
    return app.call("POST", "/v1/keys/demo/wrap", {"plaintext": b64(b"x")})


def test_a_full_audit_disk_stops_crypto_and_it_recovers_by_itself(small):
    acknowledged = 0
    with small.http("app") as app, small.http("admin-1") as admin:
        assert wrap(app).status == 200
        acknowledged += 1
        ballast = fill(small)
        for _ in range(2000):
            reply = wrap(app)
            if reply.status != 200:
                break
            acknowledged += 1
        assert (reply.status, reply.code) == (503, "audit_unavailable")
        assert reply.headers["Retry-After"]
        for _ in range(20):
            assert wrap(app).code == "audit_unavailable"
        status, body = small.health()
        assert status == 503 and "audit" in str(body)
        assert small.health("live")[0] == 200
        assert admin.status()["audit"]["ok"] is False
        assert app.get("/v1/whoami").status == 200
        change = admin.call("POST", "/v1/keys", {"name": "unrecorded"}, create=True)
        assert change.code == "audit_unavailable"

        os.unlink(ballast)
        wait_for(lambda: small.health()[0] == 200, "it recovers")
        assert wrap(app).status == 200
        acknowledged += 1
        assert admin.get("/v1/keys/unrecorded").status == 404
    assert small.audited_wraps() >= acknowledged
    done = small.kekctl("audit", "verify", small.audit_dir)
    assert b"gap" in (done.stdout + done.stderr).lower()


def test_a_start_with_a_full_audit_disk_answers_health_and_recovers(small):
    small.stop()
    ballast = fill(small)
    small.start(ready=False)
    wait_for(lambda: small.health()[0] == 503 and "audit" in str(small.health()[1]),
             "health says why")
    time.sleep(0.5)
    os.unlink(ballast)
    small.wait_ready()
    with small.http("app") as app:
        assert wrap(app).status == 200
    small.kekctl("audit", "verify", small.audit_dir)
