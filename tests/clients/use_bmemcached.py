"""python-binary-memcached: the binary protocol, with SASL PLAIN where the server asks for it."""

import bz2

import bmemcached
from bmemcached.exceptions import MemcachedException

from cases import (EVERY_BYTE, HOST, LARGE, PASSWORD, PROXY, READ, TOO_LARGE, USER, WRITE, case,
                   gone, main, raises, same, see)


def client(port, kind=bmemcached.Client, **more):
    return kind((f"{HOST}:{port}",), USER, PASSWORD, socket_timeout=20, **more)


w, r = client(WRITE), client(READ)


@case
def storage():
    same(w.set("st", "one"), True)
    see(lambda: r.get("st"), "one")
    same(w.add("st", "two"), False)
    same(w.replace("st", "three"), True)
    see(lambda: r.get("st"), "three")
    same(w.replace("st-none", "x"), False)
    same(w.add("st-new", "x"), True)
    see(lambda: r.get("st-new"), "x")
    same(r.get("st-none", "a default"), "a default")


@case
def types_and_compression():
    values = ["text", "значение 🔑", b"raw", EVERY_BYTE, 5, -7, 1 << 70, True, 2.5, None,
              {"a": [1, (2,)]}, "long " * 20000]
    squeezed = [client(port, compression=bz2) for port in (WRITE, READ)]
    for way, (a, b), level in (("p", (w, r), 0), ("z", (w, r), 9), ("b", squeezed, 9)):
        for i, value in enumerate(values):
            same(a.set(f"ty-{way}{i}", value, compress_level=level), True)
            see(lambda: b.get(f"ty-{way}{i}"), value)


@case
def cas():
    same(w.cas("cas", "x", 5), False)
    same(w.set("cas", "one"), True)
    value, unique = w.gets("cas")
    same(value, "one")
    see(lambda: r.gets("cas"), ("one", unique))
    same(w.cas("cas", "two", unique), True)
    same(w.cas("cas", "three", unique), False)
    see(lambda: r.gets("cas"), w.gets("cas"))
    value, unique = r.gets("cas")
    same(w.cas("cas", "three", unique), True)
    see(lambda: r.get("cas"), "three")
    # What a write answers is what a read shows.
    stored, unique = w.set("cas", "four", get_cas=True)
    same((stored, w.gets("cas")), (True, ("four", unique)))
    same(w.delete("cas", cas=unique + 1), False)
    same(w.delete("cas", cas=unique), True)
    see(lambda: r.get("cas"), None)


@case
def arithmetic():
    same(w.incr("n", 1, default=10), 10)
    same(w.incr("n", 5), 15)
    same(w.decr("n", 6), 9)
    # memcached pads a number that became shorter.
    see(lambda: (r.get("n") or "").rstrip(), "9")
    same(w.decr("n", 100), 0)
    same(w.decr("n-new", 1, default=7), 7)
    w.set("n", "18446744073709551615")
    same(w.incr("n", 2), 1)
    # An item that arithmetic made can be counted on by the other node, too.
    see(lambda: r.get("n-new"), "7")
    same(r.incr("n-new", 1), 8)
    see(lambda: w.get("n-new"), "8")


@case
def many():
    items = {f"many-{i}": f"value {i}" for i in range(500)}
    same(w.set_multi(items), [])
    see(lambda: r.get_multi(list(items) + ["many-none"]), items)
    here = w.get_multi(list(items), get_cas=True)
    see(lambda: r.get_multi(list(items), get_cas=True), here)
    # A key with a unique is a cas; one that lost is named.
    lost = {("many-0", here["many-0"][1]): "won", ("many-1", here["many-1"][1] + 1): "lost"}
    same([key[0] for key in w.set_multi(lost)], ["many-1"])
    see(lambda: r.get_multi(["many-0", "many-1"]), {"many-0": "won", "many-1": "value 1"})
    same(w.delete_multi(list(items)[:250]), True)
    see(lambda: len(r.get_multi(list(items))), 250)


@case
def delete():
    same(w.delete("del"), True)
    w.set("del", "v")
    see(lambda: r.get("del"), "v")
    same(w.delete("del"), True)
    see(lambda: r.get("del"), None)


@case
def expiry():
    w.set("ex", "v", time=1)
    w.set("ex-stays", "v", time=1000)
    w.incr("ex-n", 1, default=5, time=1)
    see(lambda: r.get("ex-stays"), "v")
    for reader in (w, r):
        gone(lambda: reader.get("ex"))
        gone(lambda: reader.get("ex-n"))
    same(r.get("ex-stays"), "v")


@case
def large_values_and_long_keys():
    same(w.set("large", LARGE), True)
    see(lambda: r.get("large"), LARGE)
    same(w.set("empty", ""), True)
    see(lambda: r.get("empty"), "")
    same(w.set("k" * 250, "v"), True)
    see(lambda: r.get("k" * 250), "v")
    same(w.set("ключ", "v"), True)
    see(lambda: r.get("ключ"), "v")
    error = raises(MemcachedException, w.set, "large", TOO_LARGE)
    same(error.code, 3)
    see(lambda: r.get("large"), None)
    same(w.set("large", "v"), True)
    # The server closes on such a key.
    raises(MemcachedException, client(WRITE).set, "k" * 251, "v")
    same(w.set("large", "w"), True)


@case
def distributed():
    ring = client(WRITE, bmemcached.DistributedClient)
    same(ring.set("ring", "v"), True)
    same(ring.get("ring"), "v")
    same(ring.get_multi(["ring", "ring-none"]), {"ring": "v"})
    see(lambda: r.get("ring"), "v")


@case
def stats():
    have = w.stats()[f"{HOST}:{WRITE}"]
    for name in ("pid", "version", "curr_items", "limit_maxbytes", "auth_cmds"):
        assert name in have, name
    assert "item_size_max" in w.stats("settings")[f"{HOST}:{WRITE}"]


@case
def authentication():
    if USER is None:
        return
    wrong = bmemcached.Client((f"{HOST}:{WRITE}",), USER, PASSWORD + "x", socket_timeout=20)
    same(raises(MemcachedException, wrong.set, "auth", "v").code, 0x20)
    nobody = bmemcached.Client((f"{HOST}:{WRITE}",), socket_timeout=20)
    raises(MemcachedException, nobody.set, "auth", "v")
    see(lambda: r.get("auth"), None)


@case
def flush():
    w.set("flush", "v")
    see(lambda: r.get("flush"), "v")
    same(w.flush_all(), True)
    see(lambda: r.get("flush"), None)
    w.disconnect_all()
    same(w.get("flush"), None)


def refusal():
    """A proxy says in the binary protocol that it does not speak it."""
    error = raises(MemcachedException, w.set, "k", "v")
    assert "ASCII protocols only" in str(error), error
    same(w.get("k"), None)


main(refusal if PROXY else None)
