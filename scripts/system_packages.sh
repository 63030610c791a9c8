#!/usr/bin/env bash
# Programs and data that the tests need and pip cannot install. Installs what is missing where that can be
# done without asking (root, apt-get); elsewhere says what to install. Never fails: tests that need
# bubblewrap fail by themselves, and say so.
set -u

missing=()
command -v strace >/dev/null || missing+=(strace)    # crash tests are skipped without it
command -v bwrap >/dev/null || missing+=(bubblewrap) # tests of the jail fail without it
[ -d /usr/share/wordnet ] || missing+=(wordnet-base)   # one test of synonyms is skipped without it
[ ${#missing[@]} = 0 ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  (apt-get update -qq && apt-get install -y -qq "${missing[@]}") >/dev/null 2>&1 && exit 0
  echo "could not install: ${missing[*]}" >&2
else
  echo "not installed, and needed by the tests: ${missing[*]} (as root: apt-get install ${missing[*]})" >&2
fi
exit 0
