#!/usr/bin/env bash
# Build sdist and wheel, check them, and use what was built, not the checkout, from another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$bin/python" -m build --outdir "$out/dist" . > "$out/build.log" 2>&1 || { tail -30 "$out/build.log"; exit 1; }
"$bin/python" -m twine check --strict "$out"/dist/*
"$bin/pip" install --quiet --no-deps --target "$out/site" "$out"/dist/*.whl
cd "$out"
export PYTHONPATH=$out/site
"$bin/python" -c '
import sys, mmenv, policies, train
for package in (mmenv, policies, train):
    assert package.__file__.startswith(sys.argv[1]), package.__file__' "$out/site"
"$bin/python" -m train.cli zoo list
"$bin/python" -m train.cli zoo play brownian --episodes 64
test -s zoo/brownian-v0_quotes.png
"$bin/python" -m train.cli facts --help > facts.txt
