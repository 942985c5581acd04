#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""clang-format for C and shellcheck for shell scripts, each where it is installed."""

import shutil
import subprocess

from files import TOP, finish, is_shell, tree


def run(tool, arguments, names, findings):
    if not shutil.which(tool):
        print(f"{tool}: not installed, not run")
        return
    if names:
        done = subprocess.run([tool, *arguments, *names], cwd=TOP, text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            findings.append(done.stdout.rstrip())


def main():
    names = tree()
    findings = []
    run("clang-format", ["--dry-run", "-Werror"],
        [n for n in names if n.endswith((".c", ".h"))], findings)
    run("shellcheck", ["--severity=style"], [n for n in names if is_shell(n)], findings)
    finish(findings, "tools")


main()
