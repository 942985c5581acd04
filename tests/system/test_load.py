# SPDX-License-Identifier: Apache-2.0
"""Under load every answer is right."""

import os
import threading

import pytest

from kekd import LONG, b64, in_threads, unb64


@pytest.mark.parametrize("workers, sessions", [(2, 1), (1, 4)])
def test_a_thousand_wraps_in_32_connections_all_unwrap(make_server, workers, sessions):
    server = make_server(workers=workers, sessions=sessions).init().start().populate()
    wraps = 10000 if LONG else 1000

    def wrap(n):
        made = []
        with server.http("app") as h:
            for i in range(n, wraps, 32):
                plain = os.urandom(32)
                made.append((plain, {"n": str(i)}, h.wrap(plain, context={"n": str(i)})))
        return made

    made = [m for part in in_threads(32, wrap) for m in part]
    assert len(made) == wraps
    assert len({blob[22:34] for _, _, blob in made}) == wraps

    def unwrap(n):
        with server.http("app") as h:
            for plain, context, blob in made[n::32]:
                assert h.unwrap(blob, context=context) == plain

    in_threads(32, unwrap)
    assert server.audited_wraps() == wraps


def test_batches_singles_and_changes_at_once(make_server):
    server = make_server().init().start().populate()
    stop = threading.Event()

    def administer(_):
        with server.http("admin-1") as admin:
            for n in range(8):
                admin.rotate()
                admin.create_key(f"extra{n}")
        stop.set()

    def use(n):
        with server.http("app") as h:
            rounds = 0
            while not stop.is_set() or rounds < 3:
                rounds += 1
                plain = [os.urandom(1 + n) for _ in range(30)]
                made = h.ok("POST", "/v1/keys/demo/wrap",
                            {"items": [{"plaintext": b64(p)} for p in plain]}).json["items"]
                back = h.ok("POST", "/v1/keys/demo/unwrap", {"items": [
                    {"ciphertext": m["ciphertext"]} for m in made]}).json["items"]
                assert [unb64(b["plaintext"]) for b in back] == plain
                assert h.unwrap(h.wrap(b"single")) == b"single"

    in_threads(9, lambda n: administer(n) if n == 0 else use(n))
    with server.http("admin-1") as admin:
        assert admin.key()["primary"] == 9
