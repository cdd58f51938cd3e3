#!/bin/sh
# One process for each call: the request's body is the standard input, the standard output is the answer.
set -eu
name=$(cat)
echo "Hello, ${name:-world}!"
