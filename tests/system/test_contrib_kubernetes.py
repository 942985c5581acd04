# SPDX-License-Identifier: Apache-2.0
"""The files of contrib/kubernetes/ hold together: with each other, with kekd-kms and promtool."""

import json
import os
import re
import shutil
import subprocess

import pytest

from kekd import BUILD, TOP
from manual import check_kekctl, check_program, commands

HERE = os.path.join(TOP, "contrib", "kubernetes")
KEKD_KMS = os.path.join(BUILD, "kekd-kms")
STEPS = {"encryption-1-read.yaml": ["identity", "kms"],
         "encryption-2-write.yaml": ["kms", "identity"],
         "encryption-3-done.yaml": ["kms"]}


def text(name, directory=HERE):
    with open(os.path.join(directory, name), encoding="utf-8") as f:
        return f.read()


def test_the_alert_rules_are_valid_and_fire_when_they_should(promtool):
    assert "SUCCESS" in promtool("check", "rules", "kekd-kms.rules.yml", cwd=HERE)
    assert "SUCCESS" in promtool("test", "rules", "kekd-kms.rules.test.yml", cwd=HERE)


def test_every_alert_is_tried():
    alerts = set(re.findall(r"alert: (\w+)", text("kekd-kms.rules.yml")))
    assert alerts == set(re.findall(r'alertname="(\w+)"', text("kekd-kms.rules.test.yml")))


def test_the_plugins_alerts_go_by_metrics_that_there_are():
    documented = text("metrics.md", os.path.join(TOP, "doc"))
    for name in re.findall(r"\bkekd_kms_[a-z_]+[a-z]\b", text("kekd-kms.rules.yml")):
        assert re.sub(r"_(bucket|count|sum)$", "", name) in documented, name


@pytest.mark.parametrize("name", STEPS)
def test_each_step_has_the_providers_in_its_order(name):
    providers = re.findall(r"^      - (\w+):", text(name), re.MULTILINE)
    assert [p for p in providers if p in ("kms", "identity")] == STEPS[name]


def test_all_files_name_the_same_provider_and_socket():
    provider = re.search(r"^provider: (\w+)$", text("kekd-kms.yaml"), re.MULTILINE).group(1)
    for name in STEPS:
        assert re.findall(r" name: (\w+)", text(name)) == [provider]
        assert re.findall(r"unix://(\S+)", text(name)) == ["/run/kekd-kms/kms.sock"]
    assert "path: /run/kekd-kms\n" in text("static-pod.yaml")
    assert "mountPath: /run/kekd-kms\n" in text("kubeadm.md")


@pytest.mark.skipif(not os.path.exists(KEKD_KMS), reason="configure found no gRPC")
def test_kekd_kms_takes_the_sample(tmp_path, pki):
    """With files of ours, and directories that are there."""
    (tmp_path / "kms").mkdir()
    (tmp_path / "state").mkdir()
    for name, path in (("ca.pem", pki.ca.pem), ("client.pem", pki.clients["app"].pem),
                       ("client.key", pki.clients["app"].key)):
        shutil.copy(path, tmp_path / "kms" / name)
    (tmp_path / "kms" / "client.key").chmod(0o600)
    sample = tmp_path / "kekd-kms.yaml"
    sample.write_text(text("kekd-kms.yaml") + "\nstate_dir: state\nsocket:\n  path: kms.sock\n")
    done = subprocess.run([KEKD_KMS, "--config", sample, "--check"], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not os.path.exists(KEKD_KMS), reason="configure found no gRPC")
@pytest.mark.parametrize("name", STEPS)
def test_migrate_plan_finds_nothing_wrong_with_the_steps(tmp_path, name):
    copy = tmp_path / name
    copy.write_text(text(name))
    copy.chmod(0o600)
    done = subprocess.run([KEKD_KMS, "migrate-plan", "-o", "json", copy], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    found = [f["code"] for f in json.loads(done.stdout)["findings"] if f["level"] != "note"]
    assert found == (["identity-first"] if STEPS[name][0] == "identity" else []), done.stderr


def anchors(markdown):
    found = set()
    for heading in re.findall(r"^#+ (.*)$", markdown, re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("name", ["README.md", "kubeadm.md", "runbooks.md"])
def test_every_link_leads_somewhere(name):
    for target in re.findall(r"\]\(([^)#]*(?:#[^)]*)?)\)", text(name)):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        whole = os.path.normpath(os.path.join(HERE, path or name))
        assert os.path.exists(whole), target
        if anchor:
            assert anchor in anchors(text(whole)), target


def test_what_the_documents_name_is_there():
    for name in re.findall(r"`([a-z0-9-]+\.(?:yaml|yml|md))`", text("README.md")):
        assert os.path.exists(os.path.join(HERE, name)), name


DOCUMENTS = {name: text(name) for name in ("README.md", "kubeadm.md", "runbooks.md")}
DOCUMENTS["../../README.md"] = text("README.md", TOP)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_that_a_document_names_is_there_with_its_options(name):
    for command in commands(DOCUMENTS[name], "kekctl"):
        check_kekctl(command)
    for command in commands(DOCUMENTS[name], "reencrypt"):
        check_program(command, os.path.join(HERE, "reencrypt"))
    for program in ("kekd", "kekd-kms") if os.path.exists(KEKD_KMS) else ("kekd",):
        for command in commands(DOCUMENTS[name], program):
            check_program(command)


def test_the_runbooks_commands_are_found():
    """Or the test above would promise nothing."""
    assert len(commands(DOCUMENTS["runbooks.md"], "kekctl")) > 20
    assert len(commands(DOCUMENTS["runbooks.md"], "kekd-kms")) >= 4
    assert len(commands(DOCUMENTS["runbooks.md"], "reencrypt")) >= 3


@pytest.mark.skipif(not os.path.exists(KEKD_KMS), reason="configure found no gRPC")
def test_every_command_that_kekd_kms_tells_people_to_run_is_there():
    directory = os.path.join(TOP, "src", "kms")
    told = set()
    for name in sorted(os.listdir(directory)):
        if name.endswith(".c"):
            source = re.sub(r'"\s*\n\s*"', "", text(name, directory))
            told |= set(re.findall(r"kekctl [a-z][a-z-]*(?: [a-z][a-z-]*)?(?: [A-Z]+)?"
                                   r"(?: --[a-z-]+)?(?= |[,.;:\"])", source))
    assert len(told) > 10
    for command in told:
        words = command.split()
        # "kekctl etcd-snapshot tells whether …" is a sentence.
        check_kekctl(" ".join(words[:2] if words[1] in ("etcd-snapshot", "status") else words))
