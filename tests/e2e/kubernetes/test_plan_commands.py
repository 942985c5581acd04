# SPDX-License-Identifier: Apache-2.0
"""Every command that kekd-kms migrate-plan prints, typed as it stands, on the way to kekd
and from kekd to plaintext: by a reader who has kubectl, etcdctl and kekctl set up, and does
nothing that the plan does not say. What the kubelet does with a static pod's manifest the test
does."""

import base64
import json
import os
import re
import secrets
import subprocess

import pytest

from cluster import IDENTITY, PREFIX, PROGRAMS
from kekd import BUILD, TOP, wait_for, yaml
from kms import PROGRAM, Plugin

SECRET = base64.b64encode(secrets.token_bytes(32)).decode()
# From what; all of them with --long. "other": another KMS, with a socket of its own.
STARTS = ["aescbc"] + (["secretbox", "identity", "other"] if os.environ.get("KEKD_TEST_LONG")
                       else [])
COUNT = 20
DOCTOR = "kekd-kms doctor"
PLAINTEXT = 9  # kekctl's exit status for a snapshot that has some


@pytest.fixture(params=STARTS)
def cluster(request, make_cluster, pki):
    """Its API servers write with that, and read plaintext."""
    if request.param == "identity":
        yield make_cluster(providers=(IDENTITY,))
        return
    if request.param != "other":
        keys = {"keys": [{"name": "old", "secret": SECRET}]}
        yield make_cluster(providers=({request.param: keys}, IDENTITY))
        return
    made = make_cluster(providers=(IDENTITY,))
    other = Plugin(pki, made.pair, key="other", provider="other", cluster="other").start()
    for server in made.servers:
        server.configure({"kms": {"apiVersion": "v2", "name": "other", "timeout": "3s",
                                  "endpoint": "unix://" + other.socket}}, IDENTITY)
    made.restart()
    yield made
    for server in made.servers:
        server.stop()
    other.remove()


def content(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


class Reader:
    """Somebody at a shell, with a directory; for each API server a host's /etc/kubernetes."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.dir = cluster.path("reader")
        for name in ("bin", "contrib"):
            os.makedirs(os.path.join(self.dir, name), exist_ok=True)
        os.symlink(os.path.join(TOP, "contrib", "kubernetes"),
                   os.path.join(self.dir, "contrib", "kubernetes"))
        endpoints = [n.url for n in cluster.pair.nodes]
        config = cluster.pair.nodes[0].kekctl_config("admin-1", endpoints)
        self.program("kekctl", f'exec {BUILD}/kekctl --config {config} "$@"')
        for server in cluster.servers:
            os.makedirs(self.manifests(server))
            with open(self.manifest(server), "w", encoding="ascii") as f:
                f.write("kube-apiserver\n")
        self.typed = []

    def program(self, name, text):
        path = os.path.join(self.dir, "bin", name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)

    # -- a host

    def manifests(self, server):
        return os.path.join(server.dir, "etc-kubernetes", "manifests")

    def manifest(self, server):
        return os.path.join(self.manifests(server), "kube-apiserver.yaml")

    def kubelet(self, server):
        if os.path.exists(self.manifest(server)) and server.process is None:
            server.start()
        elif not os.path.exists(self.manifest(server)):
            server.stop()

    def kubeconfig(self, server):
        path = os.path.join(self.dir, server.name + ".kubeconfig")
        admin = self.cluster.admin
        with open(path, "w", encoding="utf-8") as f:
            f.write(yaml({
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {
                    "server": f"https://127.0.0.1:{server.port}",
                    "certificate-authority": server.ca}}],
                "users": [{"name": "a", "user": {"client-certificate": admin.pem,
                                                 "client-key": admin.key}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "a"}}]}))
        return path

    # -- typing

    def type(self, server, command, new=None, status=0):
        """What it printed, and errors, too."""
        self.typed.append(command)
        self.program("kekd-kms",
                     f'exec {PROGRAM} "$@" --config {server.plugin.config_path}')
        for word, meant in (("/etc/kubernetes", os.path.dirname(self.manifests(server))),
                            ("THIS:6443", f"127.0.0.1:{server.port}"), ("NEW ", f"{new} ")):
            command = command.replace(word, meant)
        environment = dict(
            os.environ, KUBECONFIG=self.kubeconfig(server), LC_ALL="C.UTF-8",
            ETCDCTL_ENDPOINTS=self.cluster.etcd.endpoints[0],
            PATH=f"{self.dir}/bin:{PROGRAMS}:{os.environ['PATH']}")
        done = subprocess.run(["bash", "-c", command], cwd=self.dir, env=environment, check=False,
                              timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = done.stdout.decode(errors="replace")
        # A host that is busy is a warning of the doctor's, and no fault.
        allowed = (status, 3) if command == DOCTOR else (status,)
        assert done.returncode in allowed, f"{command}: {done.returncode}\n{text}"
        self.kubelet(server)
        return text

    # -- the plan

    def plan(self, server, to):
        done = subprocess.run(
            [PROGRAM, "migrate-plan", "--config", server.plugin.config_path, "--to", to, "-o",
             "json", server.encryption], check=False, text=True, capture_output=True)
        assert done.returncode in (0, 3), done.stdout + done.stderr
        return json.loads(done.stdout)["plan"]

    def load(self, server, load, step):
        """A file comes to one API server, without automatic reload."""
        new = os.path.join(self.dir, "new.yaml")
        with open(new, "w", encoding="utf-8") as f:
            f.write(re.sub(r"<as before>", SECRET, step["file"]))
        before = content(server.encryption)
        for entry in load["run"]:
            if not entry["command"].startswith("sleep "):
                self.type(server, entry["command"], new=new)
        assert content(server.encryption) == content(new)
        assert content(server.encryption + ".last") == before
        assert os.stat(server.encryption).st_mode & 0o777 == 0o600
        for entry in load["check"]:
            if "automatic reload" not in entry["note"]:
                text = self.type(server, entry["command"])
                assert not entry["note"].startswith("ok") or text.rstrip().endswith("ok"), text

    def one_step(self, plans, n, to, before):
        """On every host what is for every host, else on the first."""
        servers, step = self.cluster.servers, plans[0]["steps"][n]
        if step["file"]:
            for server, plan in zip(servers, plans):
                self.load(server, plan["load"], plan["steps"][n])
        for at, entry in ((at, e) for at in ("run", "check") for e in step[at]):
            if not entry["command"]:
                continue
            if "every API server's host" in (entry["note"] or ""):
                here = [(s, next(e for e in p["steps"][n][at] if e["note"] == entry["note"]))
                        for s, p in zip(servers, plans)]
            else:
                here = [(servers[0], entry)]
            for server, of in here:
                self.run(server, step["code"], of, to, before)

    def run(self, server, code, entry, to, before):
        command, note = entry["command"], entry["note"] or ""
        plain = to == "identity" if "after.db" in command else before == "identity"
        status = PLAINTEXT if "etcd-snapshot" in command and plain and "--verify" not in command \
            else 0
        text = self.type(server, command, status=status)
        if note.startswith("begins with"):
            name = note.split()[2].rstrip(":")
            assert text.startswith("k8s\0" if to == "identity" else name), text[:60]
        if "reencrypt" in command:
            again = self.type(server, command)
            assert "0 written anew" in again, again
        if command == DOCTOR:
            assert "All is well." in text or "\n0 faults, " in text, text
        if "--verify" in command:
            assert "This backup is restorable" in text, text


def follow(reader, to, before):
    plans = [reader.plan(server, to) for server in reader.cluster.servers]
    steps = [s["code"] for s in plans[0]["steps"]]
    for n, code in enumerate(steps):
        if code == "verify":  # "wait ten minutes": for API servers to have etcd compact
            reader.cluster.etcd.compact()
        reader.one_step(plans, n, to, before)
        made = {s.name: s.values() for s in reader.cluster.servers}
        assert len({json.dumps({k: v.hex() for k, v in m.items()}, sort_keys=True)
                    for m in made.values()}) == 1
    return steps


def test_each_command_of_a_plan_can_be_typed_as_it_stands_to_kekd_and_on_to_identity(
        cluster, request):
    made = cluster.servers[0].fill(COUNT)
    reader = Reader(cluster)
    assert follow(reader, "kekd", request.node.callspec.params["cluster"])[-1] == "backups"
    assert all(v.startswith(PREFIX) for v in cluster.all_values().values())
    for server in cluster.servers:  # of another move: kept by nobody
        os.unlink(server.encryption + ".before")
    assert follow(reader, "identity", "kekd")[-1] == "backups"
    assert all(v.startswith(b"k8s\0") for v in cluster.all_values().values())
    assert cluster.servers[1].values() == made
    for words in (DOCTOR, "kekctl snapshot register after.db",
                  "kekctl snapshot register before.db", "contrib/kubernetes/reencrypt",
                  "etcdctl snapshot save", "install -m 0600"):
        assert any(words in c for c in reader.typed), words
    wait_for(lambda: cluster.servers[0].health()[0] == 200, "it is ready")
