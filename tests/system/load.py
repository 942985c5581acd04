# SPDX-License-Identifier: Apache-2.0
"""Load in processes of its own: wraps over keep-alive connections, each answer timed."""

import collections
import http.client
import io
import json
import multiprocessing
import socket
import ssl
import threading
import time

import openapi
from kekd import PATIENCE

BODY = json.dumps({"plaintext": "eA=="}).encode()
KEPT_MAX = 20000  # answers of a process that are held against the API's description afterwards
FORK = multiprocessing.get_context("fork")


def request(path="/v1/keys/demo/wrap", body=BODY):
    return (b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (path.encode(), len(body))) + body


def tls(server, name=None, timeout=PATIENCE):
    """A connection whose bytes are the test's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(server.pki.ca.pem)
    if name:
        certificate = server.pki.clients[name]
        context.load_cert_chain(certificate.pem, certificate.key)
    plain = socket.create_connection(("127.0.0.1", server.port), timeout)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def answer(s, buffered=b""):
    """(status, head, body, what came after it) of the next answer."""
    data = buffered
    while b"\r\n\r\n" not in data:
        chunk = s.recv(65536)
        if not chunk:
            raise ConnectionError(f"closed after {data[:200]!r}")
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(rest) < length:
        chunk = s.recv(65536)
        if not chunk:
            raise ConnectionError("closed within a body")
        rest += chunk
    return int(head.split(b" ", 2)[1]), head, rest[:length], rest[length:]


def check(message, status, head, body):
    """As kekd.py does with each answer; here when the load is over."""
    first, _, rest = message.partition(b"\r\n")
    lines, _, data = rest.partition(b"\r\n\r\n")
    method, path = first.decode().split(" ")[:2]
    sent = http.client.parse_headers(io.BytesIO(lines + b"\r\n\r\n"))
    got = http.client.parse_headers(io.BytesIO(head.partition(b"\r\n")[2] + b"\r\n\r\n"))
    openapi.check(method, path, sent, data, status, got, body)


def percentile(times, part):
    times = sorted(times)
    return times[min(len(times) - 1, int(len(times) * part))]


class Load:
    """Wraps until stopped. interval: seconds between the begins of two requests of a connection
    (0: as soon as the answer is there). A refused one does not wait: that is what it is for."""

    def __init__(self, server, name="app", connections=1, interval=0.0, message=None, processes=1):
        self.message = message or request()
        self.stopping = FORK.Event()
        self.queue = FORK.Queue()
        self.interval = interval
        self.made = [FORK.Process(target=self.run, args=(server, name, connections), daemon=True)
                     for _ in range(processes)]
        for process in self.made:
            process.start()
        self.results = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    def run(self, server, name, connections):
        results, errors, bare = collections.defaultdict(list), [], [0]
        kept = []

        def one():
            try:
                with tls(server, name) as s:
                    begin = time.monotonic()
                    while not self.stopping.is_set():
                        s.sendall(self.message)
                        status, head, body, _ = answer(s)
                        results[status].append(time.monotonic() - begin)
                        if status in (429, 503) and b"Retry-After: " not in head:
                            bare[0] += 1
                        if len(kept) < KEPT_MAX:
                            kept.append((status, head, body))
                        if self.interval:
                            time.sleep(max(0, begin + self.interval - time.monotonic()))
                        begin = time.monotonic()
            except (OSError, ConnectionError) as e:
                errors.append(repr(e))

        threads = [threading.Thread(target=one) for _ in range(connections)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.queue.put((dict(results), errors, bare[0], kept))

    def stop(self):
        """{status: [seconds]}; every 429 and 503 had its Retry-After, no connection ended."""
        if self.results is not None:
            return self.results
        self.stopping.set()
        self.results = collections.defaultdict(list)
        for _ in self.made:
            results, errors, bare, kept = self.queue.get(timeout=2 * PATIENCE)
            assert not errors, errors[:3]
            assert bare == 0
            for status, head, body in kept:
                check(self.message, status, head, body)
            for status, times in results.items():
                self.results[status] += times
        for process in self.made:
            process.join()
        return self.results


def run(server, seconds, **options):
    with Load(server, **options) as load:
        time.sleep(seconds)
        return load.stop()
