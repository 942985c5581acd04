# SPDX-License-Identifier: Apache-2.0
"""What contrib/kubernetes/reencrypt needs of a Kubernetes API server, with faults on command.

For faults alone: that an empty patch rewrites an object is shown on a real API server, in
tests/e2e/kubernetes/."""

import http.server
import json
import ssl
import threading
import time
import urllib.parse

TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
COLUMNS = [{"name": "Age", "format": ""}, {"name": "Name", "format": "name"}]


class Object:
    def __init__(self, revision):
        self.revision, self.stale = revision, True
        self.patches = 0


class ApiServer:
    """Objects by collection and name; each begins stale, and a patch makes it current."""

    def __init__(self, pki, page=None):
        self.lock = threading.RLock()
        self.revision = 1000
        self.objects = {}
        self.page = page  # at most so many a page, whatever limit says
        self.latency = 0
        self.forbidden = set()  # verbs
        self.answers = {}  # name of an object: statuses that its patches are answered with
        self.before = None  # called with (method, path) ahead of each answer: may return a status
        self.expire = 0  # so many continue tokens are answered with 410
        self.give_token = True  # and a token to go on with comes along
        self.seen = []  # (time, method, path)
        self.unfit = []  # requests that this program must not make
        for name in ("kube-system", "default", "shop"):
            self.add("/api/v1/namespaces", name)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.server.pem, pki.server.key)
        context.load_verify_locations(pki.ca.pem)
        context.verify_mode = ssl.CERT_REQUIRED
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                 do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, collection, name):
        with self.lock:
            self.revision += 1
            self.objects.setdefault(collection, {})[name] = Object(self.revision)

    def secrets(self, count, namespace="default", resource="secrets"):
        for i in range(count):
            self.add(f"/api/v1/namespaces/{namespace}/{resource}", f"s{i:04}")

    def of(self, namespace="default", resource="secrets"):
        return self.objects.get(f"/api/v1/namespaces/{namespace}/{resource}", {})

    def stale(self, namespace="default", resource="secrets"):
        return [n for n, o in self.of(namespace, resource).items() if o.stale]

    def patches(self):
        return [(when, path) for when, method, path in self.seen if method == "PATCH"]

    # -- Answers ---------------------------------------------------------------------------------

    def table(self, names, token=None, remaining=None, revision=None):
        meta = {"resourceVersion": str(revision or self.revision)}
        meta.update({"continue": token} if token else {})
        meta.update({"remainingItemCount": remaining} if remaining is not None else {})
        return 200, {"kind": "Table", "metadata": meta, "columnDefinitions": COLUMNS,
                     "rows": [{"cells": ["1d", n]} for n in names]}

    def everywhere(self, path):
        """The collection; over all namespaces where the path names none."""
        if path in self.objects:
            return sorted(self.objects[path])
        head, _, resource = path.rpartition("/")
        return sorted(n for where, found in self.objects.items() for n in found
                      if where.startswith(head + "/namespaces/") and
                      where.endswith("/" + resource))

    def list(self, path, query):
        after, limit = query.get("continue", ""), int(query.get("limit", 500))
        if self.page and limit > 1:
            limit = min(limit, self.page)
        if after and self.expire:
            self.expire -= 1
            meta = {"continue": after} if self.give_token else {}
            return 410, {"message": "the continue parameter is too old", "metadata": meta}
        names = [n for n in self.everywhere(path) if n > after]
        rest = len(names) - limit
        return self.table(names[:limit], names[limit - 1] if rest > 0 else None,
                          rest if rest > 0 else None)

    def patch(self, path):
        collection, _, name = path.rpartition("/")
        thing = self.objects.get(collection, {}).get(name)
        if self.answers.get(name):
            return self.answers[name].pop(0), {"message": f"so it is with {name}"}
        if not thing:
            return 404, {"message": f"{name} not found"}
        thing.patches += 1
        if thing.stale:
            self.revision += 1
            thing.revision, thing.stale = self.revision, False
        return self.table([name], revision=thing.revision)

    def discovery(self, path):
        kinds = {
            "/api/v1": [("secrets", True, "get list patch"), ("configmaps", True, "list patch"),
                        ("namespaces", False, "list patch"), ("bindings", True, "create")],
            "/apis/shop.example/v2": [("orders", False, "list patch")]}
        if path == "/apis/shop.example":
            return 200, {"preferredVersion": {"version": "v2"},
                         "versions": [{"version": "v1"}, {"version": "v2"}]}
        if path not in kinds:
            named = path.startswith("/apis/") and path.count("/") == 2
            return (404, {"message": "no such group"}) if named else None
        return 200, {"resources": [{"name": n, "namespaced": ns, "verbs": v.split()}
                                   for n, ns, v in kinds[path]]}

    def review(self, body):
        verb = body["spec"]["resourceAttributes"]["verb"]
        return 201, {"status": {"allowed": verb not in self.forbidden}}

    def namespace(self, name):
        if name in self.objects["/api/v1/namespaces"]:
            return 200, {"metadata": {"uid": "7a7b"}}
        return 404, {"message": f'namespaces "{name}" not found'}

    def answer(self, method, path, query, headers, body):
        if method == "POST":
            return self.review(json.loads(body))
        found = self.discovery(path)
        if found:
            return found
        if method == "GET" and path.rpartition("/")[0] == "/api/v1/namespaces":
            return self.namespace(path.rpartition("/")[2])
        if headers["Accept"] != TABLE or query.get("includeObject") != "None":
            self.unfit.append((method, path, headers["Accept"]))
        if method == "GET":
            return self.list(path, query)
        if body != b"{}" or headers["Content-Type"] != "application/merge-patch+json":
            self.unfit.append((method, path, body))
        return self.patch(path)

    def handler(server):  # noqa: N805: self is the handler within
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self):
                parts = urllib.parse.urlsplit(self.path)
                query = dict(urllib.parse.parse_qsl(parts.query))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = urllib.parse.unquote(parts.path)
                time.sleep(server.latency)
                headers = {}
                with server.lock:
                    server.seen.append((time.monotonic(), self.command, path))
                    status = server.before(self.command, path) if server.before else None
                    if status == "drop":
                        self.close_connection = True
                        return
                    if isinstance(status, tuple):
                        status, headers = status
                    status, content = (status, {"message": "told to"}) if status else \
                        server.answer(self.command, path, query, self.headers, body)
                content = json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PATCH = do_POST = serve

            def log_message(self, *_):
                pass

        return Handler
