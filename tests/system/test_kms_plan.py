# SPDX-License-Identifier: Apache-2.0
"""kekd-kms migrate-plan, as an operator meets it: what is wrong with an EncryptionConfiguration,
and a way from each provider to each other on which no API server meets what it cannot read."""

import base64
import itertools
import json
import os
import shutil
import subprocess

import pytest

from kekd import BUILD, TOP, yaml

PROGRAM = os.path.join(BUILD, "kekd-kms")
pytestmark = pytest.mark.skipif(not os.path.exists(PROGRAM), reason="kekd-kms is not built")

SOCKET = "/run/kekd-kms/kms.sock"
SECRET = base64.b64encode(b"not a key, but of its length....").decode()
assert len(base64.b64decode(SECRET)) == 32


def local(kind):
    return {kind: {"keys": [{"name": "key1", "secret": SECRET}]}}


IDENTITY = {"identity": {}}
KEKD = {"kms": {"apiVersion": "v2", "name": "kekd", "endpoint": "unix://" + SOCKET,
                "timeout": "3s"}}
OTHER = {"kms": {"apiVersion": "v2", "name": "other", "endpoint": "unix:///run/other.sock",
                 "timeout": "3s"}}
PROVIDERS = {"identity": IDENTITY, "aescbc": local("aescbc"), "aesgcm": local("aesgcm"),
             "secretbox": local("secretbox"), "kekd": KEKD, "other": OTHER}


def configuration(*groups):
    return {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": list(resources), "providers": list(providers)}
                          for resources, providers in groups]}


@pytest.fixture
def plan(tmp_path):
    """plan(configuration or text, options …): (exit status, answer); json=False: its text."""
    def run(content, *options, config=None, as_json=True, mode=0o600):
        path = tmp_path / "encryption.yaml"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        path.chmod(mode)
        command = [PROGRAM, "migrate-plan", *options, str(path)]
        if config:
            command += ["--config", str(config)]
        if as_json:
            command += ["-o", "json"]
        done = subprocess.run(command, check=False, text=True, timeout=20,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert SECRET not in done.stdout + done.stderr
        if not as_json or done.returncode in (2, 78):
            return done.returncode, done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)
    return run


def codes(answer, level=None):
    return {f["code"] for f in answer["findings"] if level in (None, f["level"])}


def label(provider):
    (kind, value), = provider.items()
    return value["name"] if kind == "kms" else kind


def parse(text):
    """A plan's file, of which this writer knows the shape."""
    groups, list_of = [], None
    for line in text.splitlines()[3:]:
        word = line.strip().removeprefix("- ").strip('"')
        if line == "  - resources:":
            groups.append(([], []))
            list_of = "resources"
        elif line == "    providers:":
            list_of = "providers"
        elif line.startswith("      - ") and list_of == "resources":
            groups[-1][0].append(word)
        elif line.startswith("      - "):
            groups[-1][1].append(word.split(":")[0])
        elif line.startswith("          name: "):
            groups[-1][1][-1] = word.split(": ")[1]
    return groups


def files(answer):
    return [parse(s["file"]) for s in answer["plan"]["steps"] if s["file"]]


def walk(before, steps):
    """At each moment some API servers have one file and some the next one."""
    for now in steps:
        for old, new in ((before, now), (now, before)):
            for resource in ("secrets", "configmaps"):
                writer = next(p for r, p in old if resource in r)[0]
                assert writer in next(p for r, p in new if resource in r), (before, now)
        before = now


@pytest.mark.parametrize("was,to", itertools.permutations(PROVIDERS, 2))
def test_a_plan_leads_from_any_provider_to_any_other(plan, was, to):
    providers = [PROVIDERS[was]]
    if to == "other":
        providers.append(OTHER)  # the file names it, or nobody knows where it listens
    if was == "aesgcm":
        providers.append(IDENTITY)
    status, answer = plan(configuration((["secrets", "configmaps"], providers)), "--to", to)
    assert status in (0, 3), answer
    assert not codes(answer, "fault")
    start = [(["secrets", "configmaps"], [label(p) for p in providers])]
    walk(start, files(answer))
    assert files(answer)[-1] == [(["secrets", "configmaps"], [to])]
    steps = [s["code"] for s in answer["plan"]["steps"]]
    assert steps[0] == "prepare" and steps[-5:] == ["writes", "reencrypt", "verify", "remove",
                                                    "backups"]
    for step in answer["plan"]["steps"]:
        assert step["title"] and step["why"] and step["back"]


def test_a_plan_is_followed_step_by_step_with_its_own_files(plan):
    """Each file, given to migrate-plan again, has the rest of the way before it."""
    status, answer = plan(configuration((["secrets", "configmaps"], [local("aescbc"), IDENTITY])))
    assert status == 3 and codes(answer, "warning") == {"aescbc-weak"}
    seen = []
    for step in answer["plan"]["steps"]:
        if step["file"]:
            text = step["file"].replace("<as before>", SECRET)
            status, rest = plan(text)
            assert not codes(rest, "fault"), rest
            seen.append((status, [s["code"] for s in rest["plan"]["steps"]]))
    tail = ["reencrypt", "verify", "remove", "backups"]
    assert seen == [(3, ["prepare", "everywhere", "writes", *tail]),
                    (0, ["prepare", "everywhere", *tail]), (0, [])]


def test_a_plan_for_people_has_files_commands_and_the_way_back(plan):
    status, text = plan(configuration((["secrets", "*.apps"], [IDENTITY])), as_json=False)
    assert status == 3
    assert "identity is the only provider" in text
    assert "To kekd (kms) in 7 steps" in text
    for words in ("Let every API server read with kekd", "Let every API server write with kekd",
                  "      - resources:\n", "endpoint: unix://" + SOCKET,
                  "contrib/kubernetes/reencrypt --resources secrets",
                  "kubectl api-resources",
                  "kekctl etcd-snapshot after.db --verify --resources secrets", "  back    "):
        assert words in text, words
    assert not [n for n in text.splitlines() if len(n) > 110 and "encryption.yaml" not in n]


def commands(answer):
    steps = [answer["plan"]["load"], *answer["plan"]["steps"]]
    return [e["command"] for s in steps for e in s["run"] + s["check"] if e["command"]]


def test_commands_can_be_copied_whatever_the_file_is_called(plan, tmp_path):
    content = configuration((["secrets", "configmaps"], [IDENTITY]))
    for name in ("encryption.yaml", "my encryption.yaml", "$(touch x).yaml"):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        done = subprocess.run([PROGRAM, "migrate-plan", "-o", "json", path], check=False,
                              text=True, stdout=subprocess.PIPE)
        keep = next(c for c in commands(json.loads(done.stdout)) if ".before" in c)
        subprocess.run(["sh", "-c", keep], check=True, cwd=tmp_path)
        assert (tmp_path / (name + ".before")).read_text() == path.read_text()
        # A plan that is made again on the way does not lose what there was before.
        path.write_text("on the way")
        subprocess.run(["sh", "-c", keep], check=True, cwd=tmp_path)
        assert (tmp_path / (name + ".before")).read_text() == json.dumps(content)
    assert not (tmp_path / "x").exists()
    done = subprocess.run([PROGRAM, "migrate-plan", "-o", "json", "-"], check=False, text=True,
                          input=json.dumps(content), stdout=subprocess.PIPE)
    assert "/etc/kubernetes/encryption/config.yaml" in " ".join(commands(json.loads(done.stdout)))


def test_what_the_file_says_cannot_reach_the_terminal(plan):
    """Not in the eight-bit form of an escape sequence either, which UTF-8 can write."""
    for evil in ("\u009b31m", "\x1b[31m", "a\x7f", "\u0085"):
        kms = {"kms": {"apiVersion": "v2", "name": "x" + evil, "endpoint": "unix:///run/" + evil}}
        for content in (configuration((["secrets", evil], [kms, IDENTITY])),
                        configuration((["secrets"], [local("aescbc"), {evil: {}}]))):
            _, text = plan(content, as_json=False)
            assert evil not in text and "?" in text, text
        _, answer = plan(configuration((["secrets", evil], [kms, IDENTITY])))
        now = answer["plan"]["steps"][1]["file"]
        assert evil not in now
        assert evil in plan(now)[1]["plan"]["now"][0]["resources"], "and it comes back as it was"


def test_each_step_that_has_a_file_says_which_one_is_the_way_back(plan):
    _, answer = plan(configuration((["secrets", "configmaps"], [local("aescbc"), IDENTITY])))
    assert any(c.endswith(".last") for c in commands(answer))
    for step in answer["plan"]["steps"]:
        assert not step["file"] or "encryption.yaml.last back" in step["back"], step


def test_what_the_last_backup_needs_at_kekd_is_kept_on_the_way_out(plan):
    """The one from before holds what kekd encrypted; the one from after nothing."""
    _, answer = plan(configuration((["secrets", "configmaps"], [KEKD])), "--to", "identity")
    assert "kekctl snapshot register before.db --keep 90d" in commands(answer)
    _, answer = plan(configuration((["secrets", "configmaps"], [IDENTITY])))
    assert "kekctl snapshot register after.db --keep 90d" in commands(answer)


LINTS = [  # what is wrong, its code, its level
    ((["secrets"], [IDENTITY, KEKD]), "identity-first", "warning"),
    ((["secrets"], [IDENTITY]), "identity-alone", "warning"),
    ((["configmaps"], [KEKD]), "secrets-forgotten", "warning"),
    ((["secrets"], [KEKD]), "configmaps-forgotten", "warning"),
    ((["*.*", "secrets"], [KEKD]), "resource-overlap", "fault"),
    ((["secrets"], [KEKD, KEKD]), "provider-name-twice", "fault"),
    ((["secrets"], [{"kms": {k: v for k, v in OTHER["kms"].items() if k != "apiVersion"}}]),
     "kms-v1", "warning"),
    ((["secrets"], [{"kms": dict(KEKD["kms"], cachesize=1000)}]), "cachesize", "fault"),
    ((["secrets"], [{"kms": dict(KEKD["kms"], timeout="1s")}]), "timeout-short", "warning"),
    ((["secrets"], [{"kms": dict(KEKD["kms"], timeout="30s")}]), "timeout-long", "warning"),
    ((["secrets"], [{"kms": dict(KEKD["kms"], timeout="0s")}]), "timeout", "fault"),
    ((["secrets"], [KEKD, {"kms": dict(KEKD["kms"], name="kekd-2")}]), "endpoint-shared",
     "warning"),
]


@pytest.mark.parametrize("group,code,level", LINTS, ids=[c for _, c, _ in LINTS])
def test_what_is_wrong_is_found_and_told_with_its_line_and_what_to_do(plan, group, code, level):
    status, answer = plan(configuration(group))
    found, = [f for f in answer["findings"] if f["code"] == code]
    assert found["level"] == level and found["text"] and found["remedy"].endswith("."), found
    assert status == (1 if level == "fault" else 3)
    assert found["line"] == 1 or code.endswith("-forgotten")


def test_an_entry_that_one_above_it_takes_everything_from_is_a_fault(plan):
    _, answer = plan(configuration((["*.*"], [IDENTITY]), (["secrets"], [KEKD])))
    assert "resource-masked" in codes(answer, "fault")


def test_a_file_that_an_api_server_refuses_gets_no_plan(plan):
    status, answer = plan(configuration((["secrets", "secrets"], [KEKD, {}])))
    assert status == 1 and answer["plan"] is None
    assert codes(answer, "fault") == {"resource-twice", "provider-none"}
    assert all(f["remedy"] and f["line"] == 1 for f in answer["findings"])
    status, text = plan("resources: [", as_json=False)
    assert status == 1 and "neither YAML nor JSON" in text and "steps" not in text


def test_the_plugins_configuration_is_held_against_the_file(plan, tmp_path):
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o600)
    config = tmp_path / "kekd-kms.yaml"
    config.write_text(yaml({
        "provider": "kekd-prod", "cluster": "prod-1", "key": "k8s",
        "endpoints": ["https://127.0.0.1:7373"], "ca": "ca.pem", "certificate": "client.pem",
        "certificate_key": "client.key", "socket": {"path": "/run/elsewhere/kms.sock"},
        "state_dir": str(tmp_path)}))
    status, answer = plan(configuration((["secrets", "configmaps"], [IDENTITY])), config=config)
    assert answer["plan"]["to"] == "kekd-prod (kms)"
    assert "endpoint: unix:///run/elsewhere/kms.sock" in answer["plan"]["steps"][1]["file"]

    def entry(name, path):
        return {"kms": {"apiVersion": "v2", "name": name, "endpoint": "unix://" + path}}
    status, answer = plan(configuration(
        (["secrets", "configmaps"], [entry("kekd", "/run/elsewhere/kms.sock")])), config=config)
    assert status == 3 and "provider-name-changed" in codes(answer, "warning")
    status, answer = plan(configuration(
        (["secrets", "configmaps"], [entry("kekd-prod", "/run/x")])), config=config)
    assert status == 3 and "endpoint-differs" in codes(answer, "warning")


def test_an_end_state_has_nothing_to_put_right(plan):
    status, answer = plan(configuration((["secrets", "configmaps"], [KEKD])))
    assert status == 0 and not codes(answer, "warning")
    assert answer["plan"]["steps"] == []
    status, text = plan(configuration((["*.*"], [KEKD])), as_json=False)
    assert status == 0 and "Nothing to do" in text


def test_keys_in_a_file_that_others_can_read_are_a_warning(plan):
    content = configuration((["secrets", "configmaps"], [local("secretbox"), IDENTITY]))
    assert plan(content)[0] == 0
    status, answer = plan(content, mode=0o644)
    assert status == 3 and codes(answer, "warning") == {"file-mode"}


def test_wrong_use_and_files_that_are_not_there_are_told_apart(plan, tmp_path):
    status, answer = plan(configuration((["secrets"], [IDENTITY])), "--to", "nowhere")
    assert status == 1 and "nowhere" in answer["findings"][-1]["text"]
    done = subprocess.run([PROGRAM, "migrate-plan", str(tmp_path / "none")], check=False,
                          capture_output=True, text=True)
    assert done.returncode == 1 and "No such file" in done.stderr
    done = subprocess.run([PROGRAM, "migrate-plan"], check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "ENCRYPTION_CONFIGURATION" in done.stderr
    status, _ = plan(configuration((["secrets"], [IDENTITY])), config=tmp_path / "none.yaml")
    assert status == 78


# ---- completion ----

def complete(*words):
    """What bash offers for the last word."""
    script = os.path.join(TOP, "contrib", "completion", "kekd-kms.bash")
    done = subprocess.run(
        ["bash", "--norc", "-c",
         'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kekd_kms; '
         'printf "%s\\n" "${COMPREPLY[@]}"', "bash", script, "kekd-kms", *words],
        capture_output=True, check=True, timeout=20, text=True)
    assert done.stderr == "", done.stderr
    return done.stdout.split()


def test_commands_options_and_files_are_completed(tmp_path):
    (tmp_path / "a-file").write_text("")
    help_text = subprocess.run([PROGRAM, "--help"], check=True, capture_output=True,
                               text=True).stdout
    for line in help_text.splitlines():
        words = line.split()
        if not line.startswith("  kekd-kms"):
            continue
        command = words[1:2] if words[1][0].isalpha() else []
        assert not command or command[0] in complete(command[0][:1])
        for option in (w.strip("[]") for w in words if w.startswith("[-")):
            assert option in complete(*command, "-"), line
    assert complete("migrate-plan", "--to", "k") == ["kekd"]
    assert complete("migrate-plan", f"{tmp_path}/a") == [f"{tmp_path}/a-file"]
    assert complete("doctor", "--encryption-configuration", f"{tmp_path}/a") == [
        f"{tmp_path}/a-file"]
    assert complete("doctor", "-o", "") == ["json"]
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", os.path.join(TOP, "contrib", "completion", "_kekd-kms")],
                       check=True)
