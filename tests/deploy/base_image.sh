#!/usr/bin/env bash
# Makes a stand-in for python:3.11-slim-bookworm from Debian's packages, for an engine that cannot pull images.
# Needs root, debootstrap and a running engine. Debian's Python 3.11 stands for that of the official image.
set -euo pipefail
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$root"
# The authorities that this machine trusts: a company's package mirror may have its own.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" -c . | docker import - python:3.11-slim-bookworm
