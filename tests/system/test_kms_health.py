# SPDX-License-Identifier: Apache-2.0
"""kekd-kms tells the truth about itself: Status from a probe that wraps and unwraps, the reason in
log and metrics, and nothing secret left in its memory."""

import hashlib
import os
import re
import socket
import time

import pytest

from kekd import FAULTY_MODULE, TOOLS, TOP, Faults, free_port, suspended, wait_for
from kms import GRANTS, Code, Quiet
from pki import spiffe
from test_memory import Keys, search

# From a fault to an error of Status: the probe's interval (1 s), the probe itself, a busy machine.
SOON = 8


@pytest.fixture
def plugin(server, make_plugin):
    return make_plugin(server).start()


def probe_states(plugin):
    """By direction: 1 or 0."""
    return {s.labels["direction"]: s.value for s in plugin.samples("kekd_kms_probe_success")}


def assert_told(plugin, reason):
    """The log says why."""
    wait_for(lambda: re.search(reason, plugin.log()), f"the log says {reason}", SOON)


# ---- the probe ----

def test_status_asks_nothing_of_kekd(server, make_plugin):
    plugin = make_plugin(server, probe="60s").start()
    api = plugin.stub()
    with Quiet(plugin):
        assert len({api.key_id() for _ in range(300)}) == 1


def test_the_probe_wraps_and_unwraps_again_and_again(plugin):
    wait_for(lambda: len(plugin.asked("wrap")) >= 3 and len(plugin.asked("unwrap")) >= 3,
             "three probes", 15)
    assert all(r["result"] == "ok" for r in plugin.asked("wrap") + plugin.asked("unwrap"))
    assert probe_states(plugin) == {"wrap": 1, "unwrap": 1}


@pytest.mark.parametrize(("without", "fails", "works"), [
    ("wrap", "wrap", "unwrap"), ("unwrap", "unwrap", "wrap"), ("key.read", "wrap", "unwrap")])
def test_a_grant_taken_away_is_an_error_of_status_and_given_back_it_recovers(
        plugin, without, fails, works):
    plugin.grant(*(g for g in GRANTS if g != without))
    text = plugin.wait_sick(SOON)
    assert "grant" in text or "denied" in text or "forbidden" in text, text
    assert text.startswith(f"{fails} fails, {works} works: ")
    assert_told(plugin, f"probe: {fails} fails, {works} works: .*(denied|forbidden|grant)")
    assert probe_states(plugin) == {fails: 0, works: 1}
    plugin.grant(*GRANTS)
    plugin.wait_ready(SOON)
    assert probe_states(plugin) == {"wrap": 1, "unwrap": 1}
    assert plugin.stub().encrypt()


def test_without_anything_wrapped_unwrap_is_not_said_to_fail(server, make_plugin):
    plugin = make_plugin(server, grants=("unwrap", "key.read")).start(ready=False)
    text = plugin.wait_sick(SOON, about="unwrap was not tried")
    assert text.startswith("wrap fails, unwrap was not tried: ")
    assert probe_states(plugin) == {"wrap": 0}
    plugin.grant(*GRANTS)
    plugin.wait_ready(SOON)
    plugin.grant("key.read")
    plugin.wait_sick(SOON, about="wrap and unwrap fail: ")
    assert probe_states(plugin) == {"wrap": 0, "unwrap": 0}


def test_a_client_that_kekd_does_not_know_is_told_and_known_it_recovers(server, make_plugin):
    plugin = make_plugin(server, record=False).start(ready=False)
    assert plugin.wait_sick(SOON)
    with server.http("admin-1") as admin:
        if admin.get(f"/v1/keys/{plugin.key}").status == 404:
            admin.create_key(plugin.key)
        admin.put_client(plugin.name, ["uri:" + spiffe(plugin.name)],
                         [{"keys": plugin.key, "operations": list(GRANTS)}])
    plugin.wait_ready(SOON)


def test_a_key_that_is_missing_is_told_and_made_it_recovers(server, make_plugin):
    plugin = make_plugin(server, key="made-later", record=False)
    with server.http("admin-1") as admin:
        admin.put_client(plugin.name, ["uri:" + spiffe(plugin.name)],
                         [{"keys": "made-later", "operations": list(GRANTS)}])
        plugin.start(ready=False)
        assert plugin.wait_sick(SOON, about="made-later")
        admin.create_key("made-later")
    plugin.wait_ready(SOON)


def test_a_frozen_key_stops_writes_and_reads_go_on(server, make_plugin):
    plugin = make_plugin(server, key="to-freeze").start()
    api = plugin.stub()
    sealed = api.encrypt()
    with server.http("admin-1") as admin:
        def freeze(value):
            etag = admin.ok("GET", "/v1/keys/to-freeze").etag
            admin.ok("PATCH", "/v1/keys/to-freeze", {"frozen": value}, etag=etag)

        freeze(True)
        assert plugin.wait_sick(SOON)
        assert probe_states(plugin) == {"wrap": 0, "unwrap": 1}
        assert api.opens(sealed)
        api.refuses((Code.FAILED_PRECONDITION, Code.UNAVAILABLE), "encrypt")
        freeze(False)
    plugin.wait_ready(SOON)
    assert api.opens(api.encrypt())


@pytest.mark.parametrize(("function", "direction"), [("C_EncryptInit", "wrap"),
                                                     ("C_DecryptInit", "unwrap")])
def test_a_token_that_fails_in_one_direction_is_an_error_of_status(
        make_server, make_plugin, tmp_path, function, direction):
    faults = Faults(str(tmp_path))
    server = make_server(module=FAULTY_MODULE, environment=faults.environment)
    plugin = make_plugin(server.init().start().populate()).start()
    faults.set(f"{function} return CKR_DEVICE_ERROR")
    assert plugin.wait_sick(20)
    other = {"wrap": "unwrap", "unwrap": "wrap"}[direction]
    wait_for(lambda: probe_states(plugin) == {direction: 0, other: 1}, "the metric says so", SOON)
    assert_told(plugin, direction)
    faults.set()
    plugin.wait_ready()
    assert plugin.stub().encrypt()


def test_a_locked_token_stops_writes_and_they_recover(make_server, make_plugin, tmp_path):
    faults = Faults(str(tmp_path))
    server = make_server(module=FAULTY_MODULE, environment=faults.environment)
    plugin = make_plugin(server.init().start().populate()).start()
    faults.set("C_*Init return CKR_USER_NOT_LOGGED_IN", "C_Login return CKR_PIN_LOCKED")
    assert plugin.wait_sick(20)
    faults.set()
    server.stop()
    server.start(ready=False)
    # Where a login was refused meanwhile, none is tried again before an operator says so.
    wait_for(lambda: server.run("retry-pin") and server.health()[0] == 200, "kekd is ready")
    plugin.wait_ready()


def test_status_is_answered_while_kekd_hangs_and_soon_as_an_error(own, make_plugin):
    plugin = make_plugin(own).start()
    api = plugin.stub()
    with suspended(*own.family()):
        end, sick = time.monotonic() + 15, False
        while time.monotonic() < end and not sick:
            sick = not api.healthy(timeout=1)
            time.sleep(0.02)
        assert sick
        api.refuses(Code.UNAVAILABLE, "status", timeout=1)  # and not for want of time
    plugin.wait_ready()


def test_status_is_answered_while_calls_are_waiting(own, make_plugin):
    plugin = make_plugin(own, probe="60s").start()
    api = plugin.stub()
    seals = [api.encrypt() for _ in range(30)]
    with suspended(*own.family()):
        waiting = [api.start_decrypt(s, timeout=10) for s in seals]
        for _ in range(50):
            assert api.key_id(timeout=1)
        assert all(f.exception() for f in waiting)
    wait_for(lambda: api.opens(seals[0]), "it recovers")


def test_it_starts_without_kekd_and_recovers(own, make_plugin):
    plugin = make_plugin(own)
    own.stop()
    plugin.start(ready=False)
    api = plugin.stub()
    text = api.refuses(Code.UNAVAILABLE, "status")
    assert text
    begin = time.monotonic()
    api.refuses(Code.UNAVAILABLE, "encrypt")
    assert time.monotonic() - begin < 3
    wait_for(lambda: str(own.port) in api.refuses(Code.UNAVAILABLE, "status"),
             "Status names the endpoint", SOON)
    own.start()
    plugin.wait_ready(SOON)
    assert api.opens(api.encrypt())


def test_an_endpoint_that_is_no_kekd_is_told(server, make_plugin, tmp_path):
    plugin = make_plugin(server, endpoints=[f"https://127.0.0.1:{free_port()}"])
    plugin.start(ready=False)
    assert plugin.wait_sick(SOON)


# ---- metrics ----

def test_the_metrics_parse_and_count_the_calls(plugin):
    api = plugin.stub()
    sealed = api.encrypt()

    def calls(**labels):
        return plugin.metric("kekd_kms_calls_total", **labels)

    def counted():
        return [calls(method=m, status=s) for m, s in (
            ("Encrypt", "OK"), ("Decrypt", "OK"), ("Decrypt", "InvalidArgument"),
            ("Status", "OK"))]

    before = counted()
    for _ in range(5):
        api.opens(sealed)
    api.encrypt()
    api.refuses(Code.INVALID_ARGUMENT, "decrypt", sealed.but(key_id="x"))
    api.key_id()
    rise = [b - a for a, b in zip(before, counted())]
    assert rise == [1, 5, 1, 1], (rise, plugin.metrics_text())
    families = plugin.families()
    assert all(name.startswith("kekd_kms_") for name in families)
    assert all(f.documentation for f in families.values())


def test_every_call_that_arrived_is_counted_by_its_status_or_as_refused(plugin):
    """What an operator looks at first has the malformed ones, too."""
    api = plugin.stub()

    def sums():
        return (plugin.metric("kekd_kms_grpc_calls_total"), plugin.metric("kekd_kms_calls_total"),
                plugin.metric("kekd_kms_grpc_refused_total"),
                plugin.metric("kekd_kms_grpc_refused_total", reason="malformed"))

    def malformed():
        return [plugin.metric("kekd_kms_calls_total", method=m, status="InvalidArgument")
                for m in ("Status", "Encrypt", "Decrypt")]

    before, before_malformed = sums(), malformed()
    assert api.encrypt()
    for method in ("Status", "Encrypt", "Decrypt"):
        api.refuses(Code.INVALID_ARGUMENT, "raw", method, b"\xff\xff")
    api.refuses(Code.UNIMPLEMENTED, "raw", "Rewrap", b"")
    arrived, answered, refused, bad = (b - a for a, b in zip(before, sums()))
    assert (arrived, answered, refused, bad) == (5, 4, 4, 3)
    assert [b - a for a, b in zip(before_malformed, malformed())] == [1, 1, 1]
    for method in ("Status", "Encrypt", "Decrypt"):
        assert_told(plugin, f"{method} is answered with InvalidArgument")


def test_each_family_has_its_row_in_the_documentation(plugin):
    plugin.stub().encrypt()
    with open(os.path.join(TOP, "doc", "metrics.md"), encoding="utf-8") as f:
        documented = set(re.findall(r"\bkekd_kms_[a-z_]+", f.read()))
    there = set(re.findall(r"^# TYPE (kekd_kms_[a-z_]+)", plugin.metrics_text(), re.M))
    assert there and there == documented


def test_the_announced_key_id_is_told_as_a_hash_and_a_number(plugin):
    key_id = plugin.stub().key_id()
    text = plugin.metrics_text()
    assert hashlib.sha256(key_id.encode()).hexdigest()[:16] in text
    assert key_id not in text and key_id.partition(".")[0] not in text


def test_metrics_on_a_unix_socket(server, make_plugin):
    plugin = make_plugin(server, metrics=False)
    plugin.settings["metrics"] = f"unix:{plugin.path('metrics.sock')}"
    plugin.write_config()
    plugin.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(5)
        s.connect(plugin.path("metrics.sock"))
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := s.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200") and b"kekd_kms_" in answer


def test_metrics_are_answered_while_kekd_hangs(own, make_plugin):
    plugin = make_plugin(own).start()
    with suspended(*own.family()):
        wait_for(lambda: 0 in probe_states(plugin).values(), "the probe failed", 15)
    plugin.wait_ready()


@pytest.mark.parametrize("where", ["0.0.0.0:7374", "192.0.2.1:7374", "127.0.0.1", "localhost:x",
                                   "unix:", "tcp:1"])
def test_metrics_anywhere_but_on_this_host_are_refused(server, make_plugin, where):
    plugin = make_plugin(server, metrics=False)
    plugin.settings["metrics"] = where
    plugin.write_config()
    status, said = plugin.run("--check")
    assert status != 0 and "metrics" in said


# ---- memory ----

@pytest.mark.skipif(TOOLS, reason="sanitizers keep what was freed, to find who uses it")
def test_no_seed_is_left_in_memory_after_a_hundred_calls(server, make_plugin, root):
    plugin = make_plugin(server).start()
    keys = Keys()
    patterns = list(keys.patterns())
    api = plugin.stub()
    for _ in range(100):
        assert api.opens(api.encrypt(keys.new()))
    seals = [api.encrypt(keys.new()) for _ in range(50)]
    futures = [api.start_decrypt(s) for s in seals]
    assert all(f.result() for f in futures)
    wait_for(lambda: not search(plugin.pid, patterns) or None, "nothing is left", 10, 0.2)


@pytest.mark.skipif(TOOLS, reason="sanitizers keep what was freed, to find who uses it")
def test_no_seed_is_left_in_memory_by_calls_that_fail(own, make_plugin, root):
    plugin = make_plugin(own).start()
    keys = Keys()
    patterns = list(keys.patterns())
    api = plugin.stub()
    with suspended(*own.family()):
        waiting = [api.start("Encrypt", timeout=20, plaintext=keys.new(), uid="")
                   for _ in range(20)]
        wait_for(lambda: search(plugin.pid, patterns), "the search finds what is there")
        for future in waiting[:10]:
            future.cancel()
        assert all(f.exception() for f in waiting[10:])
    plugin.wait_ready()
    api.refuses(Code.INVALID_ARGUMENT, "encrypt", keys.new() * 40)
    wait_for(lambda: not search(plugin.pid, patterns) or None, "nothing is left", 10, 0.2)
