# SPDX-License-Identifier: Apache-2.0
"""A real kekd on a real SoftHSM token, and what speaks to it: mTLS clients and kekctl."""

import base64
import contextlib
import glob
import http.client
import itertools
import json
import os
import pty
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

import openapi
from pki import spiffe

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("KEKD_BUILD", os.path.join(TOP, "build-test"))
MODULE = next((p for p in ("/usr/lib/softhsm/libsofthsm2.so",
                           "/usr/lib64/pkcs11/libsofthsm2.so",
                           "/usr/local/lib/softhsm/libsofthsm2.so") if os.path.exists(p)),
              "/usr/lib/softhsm/libsofthsm2.so")
FAULTY_MODULE = os.path.join(BUILD, "tests", "faults", "p11faults.so")
LOGGING_MODULE = os.path.join(BUILD, "tests", "modules", "p11log.so")
with open(os.path.join(BUILD, "config.h"), encoding="utf-8") as built:
    CONFIG = built.read()
# Whether it was built with what needs memory and system calls of its own.
TOOLS = bool(re.search(r"^#define KEKD_(SANITIZERS|COVERAGE) 1$", CONFIG, re.M))
# As in production: users of their own for kekd-net and for the workers.
USER, HSM_USER = 64201, 64202
PIN = "4711-test-pin"
SO_PIN = "0815-test-so-pin"
LONG = bool(os.environ.get("KEKD_TEST_LONG"))
# Sanitizers slow everything down, and a machine may be busy: how long is "never"?
PATIENCE = 30
DATA = ["wrap", "unwrap", "generate", "rewrap"]


def b64(data):
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def unb64(text):
    return base64.b64decode(text, validate=True)


# Below the range that the kernel takes the clients' own ports from: a server that is stopped and
# started again in a test must find its port free. Each process of a parallel run has its own part.
_ports = itertools.count(15000 + 2000 * int(
    os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) + os.getpid() % 1000)


def free_port():
    for port in _ports:
        with socket.socket() as s, contextlib.suppress(OSError):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            return port
    return None


def samples(text):
    """{name with labels: value} of Prometheus' text."""
    return {k: float(v) for k, _, v in (line.rpartition(" ") for line in text.splitlines()
                                        if not line.startswith("#"))}


def wait_for(condition, what, seconds=PATIENCE, every=0.02):
    """The condition's first true value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"did not happen in {seconds} s: {what}")
        time.sleep(every)


def in_threads(count, work):
    """work(n) in so many threads; what they returned."""
    results, errors = [None] * count, []

    def run(n):
        try:
            results[n] = work(n)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return results


def yaml(value, indent=0):
    """Block style, so that a fault is on a line of its own."""
    pad = "  " * indent
    if isinstance(value, dict):
        out = ""
        for k, v in value.items():
            if isinstance(v, (dict, list)):
                out += f"{pad}{k}:\n{yaml(v, indent + 1)}"
            else:
                out += f"{pad}{k}: {scalar(v)}\n"
        return out
    out = ""
    for v in value:
        if isinstance(v, (dict, list)):
            inner = yaml(v, indent + 1)
            out += f"{pad}- {inner[len(pad) + 2:]}"
        else:
            out += f"{pad}- {scalar(v)}\n"
    return out


def scalar(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else json.dumps(value)


def overlay(settings, changes):
    """Sections are joined, all else is replaced."""
    for section, value in changes.items():
        if isinstance(value, dict):
            settings.setdefault(section, {}).update(value)
        else:
            settings[section] = value


# ---- processes ----

def stat_fields(pid):
    """State, parent and so on of /proc/PID/stat, from the third field on; None: it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def alive(pid):
    """Does it still hold anything? A first thread that is a zombie may have others that do."""
    try:
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = stat_fields(pid)
    return fields is not None and (threads > 1 or fields[0] not in "ZX")


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
            return f.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_fields(int(name))
            if fields and int(fields[1]) == pid and fields[0] not in "ZX":
                found.append(int(name))
    return sorted(found)


def proc_status(pid):
    """/proc/PID/status, by its fields' names; pid: also PID/task/TID."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def descriptors(pid):
    """{number: what it is}."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def kill(pid, number=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_stopped(pid):
    """With all of its threads, which the signal reaches one by one; or gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return True
    states = [stat_fields(f"{pid}/task/{thread}") for thread in threads]
    return all(s is None or s[0] in "TZX" for s in states)


@contextlib.contextmanager
def suspended(*pids):
    """They are there and do nothing while the block runs."""
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: all(is_stopped(p) for p in pids), "all stand still")
        yield
    finally:
        for pid in reversed(pids):
            kill(pid, signal.SIGCONT)


class Program:
    """One that runs, or does not, with its log in a file: process and log_path are the heir's."""

    process = None

    def spawn(self, command, **options):
        """Does not wait for more than its start."""
        assert self.process is None
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, **options)

    def running(self):
        return self.process is not None and self.process.poll() is None

    def end(self, number):
        """By this signal; what does not go by it is killed."""
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def log(self):
        with contextlib.suppress(FileNotFoundError):
            with open(self.log_path, encoding="utf-8", errors="replace") as f:
                return f.read()
        return ""


# ---- mTLS ----

class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body
        self.etag = headers.get("ETag")
        self.json = None
        if "json" in headers.get("Content-Type", ""):
            self.json = json.loads(body)

    @property
    def code(self):
        return self.json.get("code") if isinstance(self.json, dict) else None

    def __repr__(self):
        return f"<{self.status} {self.body[:400]!r}>"


class Unavailable(AssertionError):
    """503 where an answer was expected; tests that kill the server may take it for an end."""


class Http:
    """One keep-alive connection (made when first used) of one client."""

    def __init__(self, server, certificate=None, ca=None, timeout=PATIENCE):
        self.address = ("127.0.0.1", server.port)
        self.timeout = timeout
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(ca or server.pki.ca.pem)
        if certificate:
            self.context.load_cert_chain(certificate.pem, certificate.key)
        self.connection = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def connect(self):
        if self.connection is None:
            self.connection = http.client.HTTPSConnection(
                *self.address, context=self.context, timeout=self.timeout)
        return self.connection

    def raw(self, method, path, body=None, headers=()):
        """One request as it is given; a connection that failed is dropped. The answer must be one
        that the API's description has."""
        try:
            connection = self.connect()
            connection.request(method, path, body=body, headers=dict(headers))
            answer = connection.getresponse()
            reply = Reply(answer.status, answer.headers, answer.read())
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if answer.will_close:
            self.close()
        openapi.check(method, path, dict(headers), body, reply.status, reply.headers, reply.body)
        return reply

    def call(self, method, path, body=None, etag=None, create=False, headers=()):
        headers = dict(headers)
        if etag:
            headers["If-Match"] = etag
        if create:
            headers["If-None-Match"] = "*"
        data = None
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            data = json.dumps(body).encode()
        return self.raw(method, path, data, headers)

    def get(self, path):
        return self.call("GET", path)

    def ok(self, method, path, body=None, status=None, **options):
        reply = self.call(method, path, body, **options)
        good = (200, 201, 204) if status is None else (status,)
        if reply.status == 503 and 503 not in good:
            raise Unavailable(f"{method} {path}: {reply}")
        assert reply.status in good, f"{method} {path}: {reply}"
        return reply

    # The data plane, in the words of a user: bytes in, bytes out.

    def wrap(self, plaintext, key="demo", context=None, **more):
        body = {"plaintext": b64(plaintext), **more}
        if context is not None:
            body["context"] = context
        return unb64(self.ok("POST", f"/v1/keys/{key}/wrap", body).json["ciphertext"])

    def try_unwrap(self, blob, key="demo", context=None, **more):
        body = {"ciphertext": b64(blob), **more}
        if context is not None:
            body["context"] = context
        return self.call("POST", f"/v1/keys/{key}/unwrap", body)

    def unwrap(self, blob, key="demo", context=None):
        reply = self.try_unwrap(blob, key, context)
        assert reply.status == 200, reply
        return unb64(reply.json["plaintext"])

    # Keys, with the precondition taken from what is there now.

    def create_key(self, name, **more):
        return self.ok("POST", "/v1/keys", {"name": name, **more}, create=True)

    def key(self, name="demo"):
        return self.ok("GET", f"/v1/keys/{name}").json

    def change(self, key, path, body=None, status=200):
        etag = self.ok("GET", f"/v1/keys/{key}").etag
        return self.ok("POST", f"/v1/keys/{key}/{path}", body or {}, etag=etag, status=status)

    def rotate(self, key="demo"):
        return self.change(key, "rotate").json

    def put_client(self, name, identities, grants, **more):
        body = {"identities": identities, "grants": grants, **more}
        return self.ok("PUT", f"/v1/clients/{name}", body, create=True)

    def status(self):
        return self.ok("GET", "/v1/status").json


# ---- faults of the token ----

class Faults:
    """The rules and the log of p11faults.so (contrib/pkcs11-faults) in a directory."""

    def __init__(self, directory):
        os.chmod(directory, 0o777)
        self.rules = os.path.join(directory, "rules")
        self.log = os.path.join(directory, "p11.log")
        self.environment = {"P11FAULTS_MODULE": MODULE, "P11FAULTS_RULES": self.rules,
                            "P11FAULTS_LOG": self.log}
        self.set()
        self.forget()

    def set(self, *rules):
        """From the next call on, these and no others."""
        with open(self.rules + ".new", "w", encoding="ascii") as f:
            f.write("".join(rule + "\n" for rule in rules))
        os.rename(self.rules + ".new", self.rules)

    def forget(self):
        with open(self.log, "wb"):
            pass

    def lines(self):
        with open(self.log, encoding="ascii") as f:
            return [line.split() for line in f]

    def calls(self, function):
        """The processes that called it, each time that they did."""
        return [int(words[1]) for words in self.lines() if words[0] == function]

    def answers(self, function):
        return [words[3] for words in self.lines() if words[:2] == ["=", function]]


# ---- the server ----

class Kekd(Program):
    """A kekd with a directory, a token and a port of its own."""

    def __init__(self, pki, directory=None, workers=2, sessions=1, user=None, hsm_user=None,
                 module=MODULE, environment=None, tokens=("main",), pin=PIN, **settings):
        self.pki = pki
        self.dir = directory or tempfile.mkdtemp(prefix="kekd-test-")
        os.chmod(self.dir, 0o755)
        self.port = free_port()
        self.process = None
        self.wrapper = []  # a command that kekd is started with
        self.uid = user
        self.hsm_uid = hsm_user
        self.module = module
        self.tokens = list(tokens)
        self.environment = dict(os.environ, KEKD_LIBEXECDIR=BUILD,
                                SOFTHSM2_CONF=self.path("softhsm2.conf"), **(environment or {}))
        self.log_path = self.path("kekd.log")
        self.config_path = self.path("kekd.yaml")
        self.pin_path = self.path("pin")
        self.audit_dir = self.path("audit")
        self.token_files = {}  # path: its content
        self.make_token(pin)
        self.make_state()
        self.settings = self.default_settings(workers, sessions)
        overlay(self.settings, settings)
        self.write_config()

    def path(self, *names):
        return os.path.join(self.dir, *names)

    # -- what it stands on

    def as_hsm_user(self):
        """Arguments of subprocess: run as the workers' user."""
        return {} if self.hsm_uid is None else {
            "user": self.hsm_uid, "group": self.hsm_uid, "extra_groups": []}

    def own(self, path, uid, mode):
        os.chmod(path, mode)
        if uid is not None:
            os.chown(path, uid, uid)

    def write_softhsm_conf(self, directory):
        with open(self.path("softhsm2.conf"), "w", encoding="utf-8") as f:
            f.write(f"directories.tokendir = {directory}\n"
                    "objectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n")

    def make_token(self, pin):
        os.mkdir(self.path("tokens"))
        self.own(self.path("tokens"), self.hsm_uid, 0o700)
        self.write_softhsm_conf(self.path("tokens"))
        for token in self.tokens:
            self.softhsm("--init-token", "--free", "--label", token, "--pin", PIN,
                         "--so-pin", SO_PIN)
        for path in glob.glob(self.path("tokens", "*", "token.object")):
            with open(path, "rb") as f:
                self.token_files[path] = f.read()
        self.write_pin(pin)

    def write_pin(self, pin):
        with open(self.pin_path + ".new", "w", encoding="utf-8") as f:
            f.write(pin + "\n")
        self.own(self.pin_path + ".new", self.hsm_uid, 0o600)
        os.rename(self.pin_path + ".new", self.pin_path)

    def make_state(self):
        for name, uid in (("state", self.uid), ("audit", self.uid), ("state-hsm", self.hsm_uid)):
            os.mkdir(self.path(name))
            self.own(self.path(name), uid, 0o700)
        shutil.copy(self.pki.server.key, self.path("server.key"))
        self.own(self.path("server.key"), self.uid, 0o600)
        for source, name in ((self.pki.server.pem, "server.pem"), (self.pki.ca.pem, "ca.pem")):
            shutil.copy(source, self.path(name))
            os.chmod(self.path(name), 0o644)

    def default_settings(self, workers, sessions):
        return {
            "cluster": "test",
            "node": "node-1",
            "state_dir": self.path("state"),
            "user": str(self.uid if self.uid is not None else os.getuid()),
            "listen": [f"127.0.0.1:{self.port}"],
            "tls": {"certificate": self.path("server.pem"), "key": self.path("server.key"),
                    "client_ca": self.path("ca.pem")},
            "tokens": [{"name": t, "uri": f"pkcs11:token={t}", "module": self.module,
                        "pin-source": self.pin_path} for t in self.tokens],
            "hsm": {"user": str(self.hsm_uid if self.hsm_uid is not None else os.getuid()),
                    "state_dir": self.path("state-hsm"), "workers": workers,
                    "sessions": sessions},
            "audit": {"dir": self.audit_dir},
            "admins": [{"name": n, "identities": ["uri:" + spiffe(n)]}
                       for n in ("admin-1", "admin-2")],
            "policy": {"approvals": 1, "destroy_wait": "0s"},
        }

    def write_config(self, text=None):
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(text if text is not None else yaml(self.settings))
        os.chmod(self.config_path, 0o644)

    def softhsm(self, *arguments):
        subprocess.run(["softhsm2-util", *arguments], env=self.environment, check=True,
                       capture_output=True, cwd="/", **self.as_hsm_user())

    def pkcs11_tool(self, *arguments, token="main", check=True):
        done = subprocess.run(
            ["pkcs11-tool", "--module", MODULE, "--token-label", token, "--login", "--pin", PIN,
             *arguments], env=self.environment, check=False, text=True, cwd="/",
            capture_output=True, **self.as_hsm_user())
        said = done.stdout + done.stderr  # one behind the other: no line is cut by the other's
        assert not check or done.returncode == 0, said
        return said

    # -- running it

    def run(self, *arguments, timeout=PATIENCE, before=None):
        """kekd in the foreground, to its end. before: called in its process before it is kekd."""
        return subprocess.run(
            [os.path.join(BUILD, "kekd"), *arguments, "--config", self.config_path],
            env=self.environment, check=False, text=True, timeout=timeout, preexec_fn=before,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def init(self):
        done = self.run("init")
        assert done.returncode == 0, done.stdout
        return self

    def start(self, ready=True, before=None):
        """before: called in its process before it is kekd."""
        self.spawn([*self.wrapper, os.path.join(BUILD, "kekd"), "--config", self.config_path],
                   env=self.environment, preexec_fn=before)
        if ready:
            self.wait_ready()
        return self

    def health(self, name="ready"):
        """(status, body); (0, None) while nobody listens."""
        try:
            with Http(self, timeout=5) as h:
                reply = h.get(f"/health/{name}")
                return reply.status, reply.json
        except (OSError, http.client.HTTPException):
            return 0, None

    def wait_ready(self, seconds=PATIENCE):
        def ready():
            assert self.process.poll() is None, "kekd ended:\n" + self.log()
            return self.health()[0] == 200
        try:
            wait_for(ready, "kekd is ready", seconds)
        except AssertionError as e:
            raise AssertionError(f"{e}; health: {self.health()}\n{self.log()}") from None

    def net(self):
        return next((p for p in children(self.process.pid) if comm(p) == "kekd-net"), None)

    def workers(self):
        return [p for p in children(self.process.pid) if comm(p) == "kekd-hsm"]

    def family(self):
        return [self.process.pid, *children(self.process.pid)]

    def stop(self, seconds=PATIENCE):
        """SIGTERM; nobody may be left. The exit status."""
        if self.process is None:
            return None
        family = self.family()
        kill(self.process.pid, signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in family:
                kill(pid)
            self.process.wait()
            self.process = None
            raise AssertionError("kekd did not stop:\n" + self.log()[-4000:]) from None
        self.process = None
        wait_for(lambda: not any(alive(p) for p in family), "no process is left", 5)
        return status

    def kill_all(self):
        """kill -9 of everything at once."""
        family = self.family()
        for pid in family:
            kill(pid)
        self.process.wait()
        self.process = None
        wait_for(lambda: not any(alive(p) for p in family), "no process is left", 5)
        self.mend_tokens()

    def mend_tokens(self):
        """SoftHSM empties and writes the token's own file in place at every login. A process that
        is killed between the two leaves no token, which no program above it can help: then the
        file, that is always the same but for a flag, is put back."""
        for path, content in self.token_files.items():
            if os.path.exists(path) and os.path.getsize(path) < len(content):
                print("SoftHSM lost its token: put back")
                with open(path, "r+b") as f:
                    f.write(content)

    def remove(self):
        try:
            self.stop()
            fault = re.search(r"AddressSanitizer|LeakSanitizer|runtime error:", self.log())
            assert not fault, self.log()[-8000:]
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    # -- speaking to it

    def http(self, name=None, certificate=None, **options):
        return Http(self, certificate or (self.pki.clients[name] if name else None), **options)

    def populate(self):
        """Key "demo", client "app" with the data plane on every key."""
        with self.http("admin-1") as admin:
            admin.create_key("demo")
            admin.put_client("app", ["uri:" + spiffe("app")],
                             [{"keys": "*", "operations": DATA}])
        return self

    def kekctl_config(self, name, endpoints=None):
        path = self.path(f"kekctl-{name}{'-all' if endpoints else ''}.yaml")
        certificate = self.pki.clients[name]
        # Several threads of a test may ask for it at once.
        fresh = f"{path}.{threading.get_ident()}"
        with open(fresh, "w", encoding="utf-8") as f:
            f.write(yaml({"endpoints": endpoints or [f"https://localhost:{self.port}"],
                          "ca": self.pki.ca.pem, "certificate": certificate.pem,
                          "key": certificate.key}))
        os.replace(fresh, path)
        return path

    def kekctl(self, *arguments, name="admin-1", stdin=None, status=0, endpoints=None):
        """Runs kekctl; status None: any. Standard output stays bytes: it may be a blob."""
        done = subprocess.run(
            [os.path.join(BUILD, "kekctl"), "--config", self.kekctl_config(name, endpoints),
             *arguments],
            input=stdin if stdin is not None else b"", check=False, capture_output=True,
            timeout=PATIENCE, env=dict(os.environ, LC_ALL="C.UTF-8"))
        assert status is None or done.returncode == status, (
            f"kekctl {' '.join(arguments)}: {done.returncode}, not {status}\n"
            f"{done.stdout!r}\n{done.stderr.decode()}")
        return done

    def on_a_terminal(self, *arguments, name="app", stdin=b"", **environment):
        """kekctl with its output and errors on a terminal: (exit status, what it showed)."""
        master, slave = pty.openpty()
        try:
            with subprocess.Popen(
                    [os.path.join(BUILD, "kekctl"), "--config", self.kekctl_config(name),
                     *arguments], stdin=subprocess.PIPE, stdout=slave, stderr=slave,
                    env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8",
                         **environment}) as process:
                os.close(slave)
                process.stdin.write(stdin)
                process.stdin.close()
                shown = b""
                with contextlib.suppress(OSError):  # EIO: the last one closed it
                    while piece := os.read(master, 65536):
                        shown += piece
                return process.wait(PATIENCE), shown
        finally:
            os.close(master)

    # -- what it wrote

    def audit_files(self):
        return sorted(os.path.join(self.audit_dir, n) for n in os.listdir(self.audit_dir)
                      if n.endswith(".jsonl"))

    def audit_lines(self):
        lines = []
        for path in self.audit_files():
            with open(path, "rb") as f:
                lines += f.read().split(b"\n")[:-1]
        return lines

    def audit_records(self, **wanted):
        records = [json.loads(line) for line in self.audit_lines()]
        return [r for r in records if all(r.get(k) == v for k, v in wanted.items())]

    def audited_wraps(self):
        return sum(v.get("wrapped", 0) for r in self.audit_records(operation="wrap")
                   for v in r.get("versions", []))
