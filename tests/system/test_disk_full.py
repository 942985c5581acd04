# SPDX-License-Identifier: Apache-2.0
"""A full disk under the audit log: nothing is answered unrecorded, and it recovers by itself."""

import os
import time

from disk import fill
from kekd import b64, wait_for


def wrap(app):
    return app.call("POST", "/v1/keys/demo/wrap", {"plaintext": b64(b"x")})


def test_a_full_audit_disk_stops_crypto_and_it_recovers_by_itself(small_disk):
    acknowledged = 0
    with small_disk.http("app") as app, small_disk.http("admin-1") as admin:
        assert wrap(app).status == 200
        acknowledged += 1
        ballast = fill(small_disk.audit_dir)
        for _ in range(2000):
            reply = wrap(app)
            if reply.status != 200:
                break
            acknowledged += 1
        assert (reply.status, reply.code) == (503, "audit_unavailable")
        assert reply.headers["Retry-After"]
        for _ in range(20):
            assert wrap(app).code == "audit_unavailable"
        status, body = small_disk.health()
        assert status == 503 and "audit" in str(body)
        assert small_disk.health("live")[0] == 200
        assert admin.status()["audit"]["ok"] is False
        assert app.get("/v1/whoami").status == 200
        change = admin.call("POST", "/v1/keys", {"name": "unrecorded"}, create=True)
        assert change.code == "audit_unavailable"

        os.unlink(ballast)
        wait_for(lambda: small_disk.health()[0] == 200, "it recovers")
        assert wrap(app).status == 200
        acknowledged += 1
        assert admin.get("/v1/keys/unrecorded").status == 404
    assert small_disk.audited_wraps() >= acknowledged
    done = small_disk.kekctl("audit", "verify", small_disk.audit_dir)
    assert b"gap" in (done.stdout + done.stderr).lower()


def test_a_start_with_a_full_audit_disk_answers_health_and_recovers(small_disk):
    small_disk.stop()
    ballast = fill(small_disk.audit_dir)
    small_disk.start(ready=False)
    wait_for(lambda: small_disk.health()[0] == 503 and "audit" in str(small_disk.health()[1]),
             "health says why")
    time.sleep(0.5)
    os.unlink(ballast)
    small_disk.wait_ready()
    with small_disk.http("app") as app:
        assert wrap(app).status == 200
    small_disk.kekctl("audit", "verify", small_disk.audit_dir)
