# SPDX-License-Identifier: Apache-2.0
"""Which files the lints look at: what git knows, or, in an unpacked archive, what is there."""

import os
import subprocess
import sys

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
IGNORED = ("_build", "_inst", "build", "lab", "lab-pair", "autom4te.cache", "build-aux", "m4")
GENERATED = ("configure", "aclocal.m4", "Makefile.in", "config.h.in")


def tree():
    """Paths relative to the top, sorted."""
    try:
        out = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z"],
            cwd=TOP, check=True, capture_output=True).stdout.decode()
        names = [n for n in out.split("\0") if n and os.path.exists(os.path.join(TOP, n))]
    except (OSError, subprocess.CalledProcessError):
        names = []
        for folder, folders, files in os.walk(TOP):
            at = os.path.relpath(folder, TOP)
            folders[:] = [f for f in folders if not f.startswith((".git", "__pycache__", "build-"))
                          and not (at == "." and f in IGNORED)]
            names += [os.path.normpath(os.path.join(at, f)) for f in files
                      if f not in GENERATED and not f.endswith((".o", ".a", "~"))]
    return sorted(names)


def text(name):
    """The file's text, or None when it is not text."""
    try:
        with open(os.path.join(TOP, name), encoding="utf-8") as f:
            return f.read()
    except UnicodeDecodeError:
        return None


def is_shell(name):
    if name.endswith(".sh"):
        return True
    if "." in os.path.basename(name):
        return False
    with open(os.path.join(TOP, name), "rb") as f:
        return f.readline().startswith((b"#!/bin/sh", b"#!/usr/bin/env bash", b"#!/bin/bash"))


def finish(findings, what):
    for finding in findings:
        print(finding)
    print(f"{what}: {len(findings)} findings")
    sys.exit(1 if findings else 0)
