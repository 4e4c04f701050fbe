"""What the scripts here share: the servers they are given, their cases, and waiting.

tests/clients.rs starts a script with these variables, and reads its exit status:

    CLIENT_WRITE, CLIENT_READ   ports on 127.0.0.1; two nodes of a pair, or the same one twice
    CLIENT_SERVER               "ours", "pair", "memcached", or "proxy": two servers and a backup
                                behind our proxy
    CLIENT_USER, CLIENT_PASSWORD   set where the server asks for them

A case writes through `WRITE` and looks through `READ`, by `see`, which waits for the other node and
for nothing else: on one server what it sees must be right at once.
"""

import os
import random
import sys
import time
import traceback

HOST = "127.0.0.1"
WRITE = int(os.environ["CLIENT_WRITE"])
READ = int(os.environ["CLIENT_READ"])
SERVER = os.environ["CLIENT_SERVER"]
PAIR = WRITE != READ
# It speaks no binary protocol, and its administration is magent's.
PROXY = SERVER == "proxy"
USER = os.environ.get("CLIENT_USER")
PASSWORD = os.environ.get("CLIENT_PASSWORD")

# How long the other node may take to show a write, and an item to expire. Only a failure waits so long.
PATIENCE = 20.0

# A value near the largest that a server takes (-I 1m), one above it that no
# compression helps, and one with every byte.
LARGE = bytes(range(256)) * 4000
TOO_LARGE = random.Random(3).randbytes(2 << 20)
EVERY_BYTE = bytes(range(256)) + b"\r\nEND\r\nVALUE x 0 1\r\n\x00"

_cases = []


def case(function):
    """Marks a function as a case. They run in the order of the file, each with its own keys."""
    _cases.append(function)
    return function


def same(have, expected):
    assert have == expected, f"have {have!r:.300}, expected {expected!r:.300}"


def see(ask, expected, wait=PAIR):
    """`ask()` gives `expected`: at once on one server, soon on the other node of a pair.

    Where nobody waited for the answer to a write, `wait` is due on one server, too.
    """
    deadline = time.monotonic() + PATIENCE
    have = ask()
    while wait and have != expected and time.monotonic() < deadline:
        time.sleep(0.005)
        have = ask()
    same(have, expected)


def gone(ask, nothing=None):
    """`ask()` gives `nothing` when the item has expired."""
    deadline = time.monotonic() + PATIENCE
    while ask() != nothing:
        assert time.monotonic() < deadline, "it does not expire"
        time.sleep(0.05)


def raises(kind, function, *args, **more):
    """Calls it; gives the exception, which must be one of `kind`."""
    try:
        answer = function(*args, **more)
    except kind as error:
        return error
    raise AssertionError(f"no {kind}, but {answer!r:.300}")


def main(only=None):
    """Runs all cases, or `only` one."""
    failed = 0
    cases = [only] if only else _cases
    for function in cases:
        try:
            function()
        except Exception:
            failed += 1
            print(f"FAILED {function.__name__} ({SERVER})", file=sys.stderr)
            traceback.print_exc()
    print(f"{len(cases)} cases, {failed} failed ({SERVER})", file=sys.stderr)
    sys.exit(1 if failed or not cases else 0)
