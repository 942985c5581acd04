# SPDX-License-Identifier: Apache-2.0
"""What the processes' memory holds after requests: no data key, and no PIN but where it belongs.

Every data key of a test begins and ends with bytes of that test, so that a search for few patterns
finds any of them, whole or half overwritten, as raw bytes, base64 or hex."""

import base64
import json
import os
import re

import pytest

from kekd import LONG, PATIENCE, PIN, TOOLS, b64, comm, in_threads, wait_for

pytestmark = pytest.mark.skipif(
    TOOLS, reason="sanitizers keep what was freed, to find who uses it")

ROUNDS = 10000 if LONG else 1000


class Keys:
    """Data keys of 32 bytes, and what to look for."""

    def __init__(self):
        self.head = os.urandom(12)
        self.tail = os.urandom(11)

    def new(self):
        return self.head + os.urandom(9) + self.tail

    def patterns(self):
        for part in (self.head, self.tail[:9]):  # both begin where base64 begins a group
            yield from (part, base64.b64encode(part), part.hex().encode(),
                        part.hex().upper().encode())


@pytest.fixture
def keys():
    return Keys()


@pytest.fixture
def serving(server, root):
    return server


def mappings(pid):
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as f:
        for line in f:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)", line)
            if found:
                first, last = int(found[1], 16), int(found[2], 16)
                name, readable = found[4].strip(), found[3].startswith("r")
            elif line.startswith("VmFlags:"):
                if readable and not name.startswith(("[vvar", "[vsyscall")):
                    yield first, last, name, line.split()[1:]


def search(pid, patterns):
    """Where it is: (mapping's name or size, its flags, what surrounds it)."""
    found = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for first, last, name, flags in mappings(pid):
            data = b""
            memory.seek(first)
            while first + len(data) < last:
                try:
                    part = memory.read(last - first - len(data))
                except OSError:
                    break  # what was taken back by now, or is a device
                if not part:
                    break
                data += part
            for pattern in patterns:
                at = data.find(pattern)
                while at >= 0:
                    found.append((name or f"{(last - first) >> 10} KiB", flags,
                                  data[max(0, at - 32):at + 48]))
                    at = data.find(pattern, at + 1)
    return found


def everywhere(server, patterns):
    return {(comm(pid), pid, *where[:1], where[2]) for pid in server.family()
            for where in search(pid, patterns)}


def assert_forgotten(server, keys):
    """A connection's end is noticed a moment later."""
    patterns = list(keys.patterns())
    wait_for(lambda: not everywhere(server, patterns) or None, "nothing is left", 10, 0.2)


def head(path, length, media="application/json"):
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\n"
            f"Content-Length: {length}\r\n\r\n").encode()


def body(keys, items=1):
    if items == 1:
        return json.dumps({"plaintext": b64(keys.new())}).encode()
    return json.dumps({"items": [{"plaintext": b64(keys.new())} for _ in range(items)]}).encode()


class Wire:
    """A connection that can misbehave."""

    def __init__(self, server, name="app"):
        self.http = server.http(name)
        self.http.connect().connect()
        self.socket = self.http.connection.sock

    def send(self, data):
        self.socket.sendall(data)
        return self

    def answer(self):
        self.socket.settimeout(PATIENCE)
        return self.socket.recv(65536)

    def close(self):
        self.http.close()


def test_the_search_finds_a_data_key_while_its_request_is_under_way(serving, keys):
    """Without this, the others would prove nothing."""
    text = body(keys)
    wire = Wire(serving).send(head("/v1/keys/demo/wrap", len(text) + 1) + text)
    patterns = list(keys.patterns())
    wait_for(lambda: search(serving.net(), patterns), "the half request is in memory")
    wire.close()
    assert_forgotten(serving, keys)


def test_no_data_key_is_left_after_a_thousand_wraps_and_unwraps(serving, keys):
    connections = [serving.http("app") for _ in range(8)]
    for i in range(ROUNDS):
        http, key = connections[i % len(connections)], keys.new()
        assert http.unwrap(http.wrap(key)) == key
    assert_forgotten(serving, keys)  # half of the connections' last request was an unwrap
    for http in connections[::2]:
        http.wrap(keys.new())
    assert_forgotten(serving, keys)  # of these a wrap
    for http in connections:
        http.close()
    assert_forgotten(serving, keys)


def test_no_data_key_is_left_after_batches(serving, keys):
    with serving.http("app") as http:
        for _ in range(3):
            wrapped = http.ok("POST", "/v1/keys/demo/wrap", json.loads(body(keys, 1000))).json
            items = [{"ciphertext": w["ciphertext"]} for w in wrapped["items"]]
            opened = http.ok("POST", "/v1/keys/demo/unwrap", {"items": items}).json["items"]
            assert all(base64.b64decode(o["plaintext"]).startswith(keys.head) for o in opened)
        assert_forgotten(serving, keys)
    assert_forgotten(serving, keys)


def test_no_generated_data_key_is_left(serving):
    """These come from the token: each is looked for itself."""
    with serving.http("app") as http:
        made = [base64.b64decode(http.ok("POST", "/v1/keys/demo/generate", {}).json["plaintext"])
                for _ in range(50)]
        patterns = [p for k in made for p in (k, base64.b64encode(k), k.hex().encode())]
        assert len(set(patterns)) == 150
        wait_for(lambda: not everywhere(serving, patterns) or None, "nothing is left", 10, 0.2)


def test_no_data_key_is_left_by_connections_that_break_off(serving, keys):
    small, large = body(keys), body(keys, 3000)
    for text in (small, large, large[:40000]):
        wires = [Wire(serving).send(head("/v1/keys/demo/wrap", len(text) + 9) + text)
                 for _ in range(4)]
        for wire in wires:
            wire.close()
    assert_forgotten(serving, keys)


def test_no_data_key_is_left_when_nobody_reads_the_answer(serving, keys):
    with serving.http("app") as http:
        wrapped = http.ok("POST", "/v1/keys/demo/wrap", json.loads(body(keys, 1000))).json
    text = json.dumps({"items": [{"ciphertext": w["ciphertext"]}
                                 for w in wrapped["items"]]}).encode()
    for _ in range(6):
        Wire(serving).send(head("/v1/keys/demo/unwrap", len(text)) + text).close()
    assert_forgotten(serving, keys)


@pytest.mark.parametrize("why, status", [
    ("no such key", 404), ("no grant", 403), ("no such path", 404), ("media type", 415),
    ("not JSON", 400), ("cut off", 400), ("no member", 400), ("not base64", 400)])
def test_no_data_key_is_left_by_a_request_that_is_refused(serving, keys, why, status):
    path, media, text = "/v1/keys/demo/wrap", "application/json", body(keys)
    if why in ("no such key", "no grant", "no such path"):
        path = {"no such key": "/v1/keys/none/wrap", "no grant": "/v1/keys/demo/rotate",
                "no such path": "/v1/nowhere"}[why]
    elif why == "media type":
        media = "text/plain"
    elif why == "not JSON":
        text = text.replace(b'"}', b'",]')
    elif why == "cut off":
        text = text[:-2]
    elif why == "no member":
        text = text.replace(b"plaintext", b"plainness")
    else:
        text = text.replace(b'"}', b'!"}')
    wire = Wire(serving).send(head(path, len(text), media) + text)
    assert f" {status} ".encode() in wire.answer()[:20]
    assert_forgotten(serving, keys)
    wire.close()
    assert_forgotten(serving, keys)


def test_no_data_key_is_left_by_many_clients_at_once(serving, keys):
    def client(_):
        with serving.http("app") as http:
            for _ in range(30):
                key = keys.new()
                assert http.unwrap(http.wrap(key)) == key
            http.wrap(keys.new())

    in_threads(16, client)
    assert_forgotten(serving, keys)


def test_the_pin_is_in_the_workers_locked_memory_alone(serving):
    pin = PIN.encode()
    for pid in (serving.process.pid, serving.net()):
        assert not search(pid, [pin]), comm(pid)
    for pid in serving.workers():
        found = search(pid, [pin])
        assert found, "the search finds it where it is"
        for name, flags, _ in found:
            assert {"lo", "dd"} <= set(flags), (name, flags)


def test_the_servers_private_key_is_not_left_as_text(serving):
    with open(serving.path("server.key"), encoding="ascii") as f:
        line = f.read().splitlines()[1].encode()
    assert not search(serving.net(), [line])
