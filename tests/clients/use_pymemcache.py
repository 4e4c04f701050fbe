"""pymemcache: the classic commands, noreply as its default, pools, hashing, serialisers, raw meta."""

import socket

from pymemcache import serde
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.client.retrying import RetryingClient
from pymemcache.exceptions import (
    MemcacheClientError,
    MemcacheIllegalInputError,
    MemcacheServerError,
    MemcacheUnknownCommandError,
)

from cases import (EVERY_BYTE, HOST, LARGE, PAIR, PROXY, READ, TOO_LARGE, WRITE, case, gone, main, raises, same,
                   see)

w = Client((HOST, WRITE), default_noreply=False, timeout=20)
r = Client((HOST, READ), default_noreply=False, timeout=20)


@case
def storage():
    assert w.set("st", b"one", flags=7)
    see(lambda: r.get("st"), b"one")
    same(w.add("st", b"two"), False)
    same(w.replace("st", b"three"), True)
    see(lambda: r.get("st"), b"three")
    same(w.replace("st-none", b"x"), False)
    same(w.add("st-new", b"x"), True)
    same(w.append("st-new", b"yz"), True)
    same(w.prepend("st-new", b"ab"), True)
    see(lambda: r.get("st-new"), b"abxyz")
    same(w.append("st-none", b"x"), False)
    same(w.prepend("st-none", b"x"), False)
    same(r.get("st-none", "a default"), "a default")


@case
def flags_and_unique_are_the_same_everywhere():
    w.set("fl", b"v", flags=0xFFFFFFFF, expire=1000)
    here = w.raw_command("mg fl v f c t s")
    if PAIR:
        # Its remaining time may be read a second later.
        here = here.split(b" t")[0]
        see(lambda: r.raw_command("mg fl v f c t s").split(b" t")[0], here)
    else:
        see(lambda: r.raw_command("mg fl v f c t s"), here)
    assert here.startswith(b"VA 1 f4294967295 c"), here
    see(lambda: r.gets("fl"), w.gets("fl"))


@case
def cas():
    same(r.gets("cas"), (None, None))
    same(w.cas("cas", b"x", b"1"), None)
    w.set("cas", b"one")
    value, unique = w.gets("cas")
    same(value, b"one")
    see(lambda: r.gets("cas"), (b"one", unique))
    same(w.cas("cas", b"two", unique), True)
    same(w.cas("cas", b"three", unique), False)
    see(lambda: r.get("cas"), b"two")
    # The unique read on one node is good for the other.
    value, unique = r.gets("cas")
    same(w.cas("cas", b"three", unique), True)
    see(lambda: r.gets("cas"), w.gets("cas"))


@case
def arithmetic():
    same(w.incr("n", 1), None)
    w.set("n", b"10")
    same(w.incr("n", 5), 15)
    same(w.decr("n", 6), 9)
    see(lambda: (r.get("n") or b"").rstrip(), b"9")
    same(w.decr("n", 100), 0)
    w.set("n", b"18446744073709551615")
    same(w.incr("n", 2), 1)
    w.set("n", b"letters")
    raises(MemcacheClientError, w.incr, "n", 1)


@case
def many():
    items = {f"many-{i}": b"value %d" % i for i in range(500)}
    same(w.set_many(items), [])
    see(lambda: r.get_many(list(items) + ["many-none"]), items)
    here = w.gets_many(list(items))
    same(len(here), 500)
    see(lambda: r.gets_many(list(items)), here)
    same(w.delete_many(list(items)[:250]), True)
    see(lambda: sorted(r.get_many(items)), sorted(list(items)[250:]))


@case
def noreply():
    for i in range(300):
        w.set(f"nr-{i}", b"v%d" % i, noreply=True)
    w.incr("nr-none", 1, noreply=True)
    w.add("nr-0", b"no", noreply=True)
    w.append("nr-0", b"+", noreply=True)
    w.delete("nr-1", noreply=True)
    w.touch("nr-2", 0, noreply=True)
    same(w.get("nr-0"), b"v0+")
    see(lambda: [r.get(f"nr-{i}") for i in (0, 1, 299)], [b"v0+", None, b"v299"])


@case
def delete_and_touch():
    same(w.delete("dt"), False)
    same(w.touch("dt", 10), False)
    w.set("dt", b"v")
    same(w.touch("dt", 1000), True)
    see(lambda: r.raw_command("mg dt t")[:5] in (b"HD t1", b"HD t9"), True)
    same(w.delete("dt"), True)
    see(lambda: r.get("dt"), None)


@case
def expiry():
    w.set("ex", b"v", expire=1)
    w.set("ex-gone", b"v", expire=-1)
    w.set("ex-stays", b"v", expire=1000)
    same(w.get("ex-gone"), None)
    w.set("ex-touched", b"v")
    w.touch("ex-touched", 1)
    see(lambda: r.get("ex-stays"), b"v")
    for client in (w, r):
        gone(lambda: client.get("ex"))
        gone(lambda: client.get("ex-touched"))
    same(r.get("ex-stays"), b"v")


@case
def get_and_touch():
    # pymemcache has no gat; its raw commands have.
    w.set("gat", b"v", expire=1000)
    same(w.raw_command("gat 0 gat", b"END\r\n"), b"VALUE gat 0 1\r\nv\r\n")
    see(lambda: r.raw_command("mg gat t"), b"HD t-1")


@case
def large_and_odd_values():
    for key, value in {"l": LARGE, "e": EVERY_BYTE, "none": b"", "crlf": b"\r\n"}.items():
        assert w.set(f"lo-{key}", value)
        see(lambda: r.get(f"lo-{key}"), value)
    error = raises(MemcacheServerError, w.set, "lo-too", TOO_LARGE)
    assert "object too large for cache" in str(error), error
    # What was there is not what the client believes: it is gone.
    w.set("lo-l", b"small")
    raises(MemcacheServerError, w.set, "lo-l", TOO_LARGE)
    see(lambda: r.get("lo-l"), None)


@case
def keys():
    longest = "k" * 250
    w.set(longest, b"v")
    see(lambda: r.get(longest), b"v")
    raises(MemcacheIllegalInputError, w.set, "k" * 251, b"v")
    raises(MemcacheIllegalInputError, w.get, "a b")
    uw = Client((HOST, WRITE), allow_unicode_keys=True, encoding="utf8", default_noreply=False)
    ur = Client((HOST, READ), allow_unicode_keys=True, encoding="utf8", default_noreply=False)
    assert uw.set("ключ-🔑", "значение")
    see(lambda: ur.get("ключ-🔑"), "значение".encode())
    same(uw.get_many(["ключ-🔑", "нет"]), {"ключ-🔑": "значение".encode()})
    assert w.set(b"\x80\xff\x01", b"bytes")
    see(lambda: r.get(b"\x80\xff\x01"), b"bytes")
    prefixed = Client((HOST, WRITE), key_prefix=b"pre:", default_noreply=False)
    prefixed.set("x", b"y")
    see(lambda: r.get("pre:x"), b"y")


@case
def serialisers():
    for name, how in {"p": serde.pickle_serde, "c": serde.compressed_serde}.items():
        sw = Client((HOST, WRITE), serde=how, default_noreply=False)
        sr = Client((HOST, READ), serde=how, default_noreply=False)
        for i, value in enumerate(("text", 5, b"raw", {"a": [1, 2.5, None]}, "long " * 10000)):
            assert sw.set(f"ser-{name}{i}", value)
            see(lambda: sr.get(f"ser-{name}{i}"), value)


@case
def errors_leave_the_connection_usable():
    if PROXY:
        same(w.raw_command("nonsense"), b"UNSUPPORTED COMMAND")
    else:
        raises(MemcacheUnknownCommandError, w.raw_command, "nonsense")
    raises(MemcacheClientError, w.raw_command, "get " + "k" * 251)
    raises(MemcacheClientError, w.raw_command, "touch err letters")
    same(w.raw_command("mn"), b"MN")
    assert w.set("err", b"v")


@case
def stats_and_version():
    if PROXY:
        same(w.version(), b"memcached agent v0.6")
        raises(Exception, w.stats)
        same(w.raw_command("stats reset"), b"RESET")
        same(w.get("stats"), None)
        return
    same(w.version().split(b".")[0].isdigit(), True)
    have = w.stats()
    for name in (b"pid", b"curr_items", b"cmd_get", b"bytes", b"limit_maxbytes", b"threads"):
        assert name in have, name
    same(w.stats("settings")[b"item_size_max"] in (1048576, b"1048576"), True)
    w.stats("items"), w.stats("slabs"), w.stats("sizes"), w.stats("conns")
    same(w.raw_command("stats reset"), b"RESET")
    same(w.cache_memlimit(64), True)


@case
def pools_hashing_and_retries():
    pool = PooledClient((HOST, WRITE), max_pool_size=4, default_noreply=False)
    ring = HashClient([(HOST, WRITE)], use_pooling=True, default_noreply=False)
    again = RetryingClient(Client((HOST, WRITE)), attempts=3)
    for i, client in enumerate((pool, ring, again)):
        client.set(f"pool{i}", b"v")
        same(client.get(f"pool{i}"), b"v")
        see(lambda: r.get(f"pool{i}"), b"v")
    same(ring.get_many(["pool0", "pool1"]), {"pool0": b"v", "pool1": b"v"})
    ring.close()


@case
def raw_meta():
    same(w.raw_command("ms rm 3 T0 F9 c\r\nabc")[:4], b"HD c")
    see(lambda: r.raw_command("mg rm s f k"), b"HD s3 f9 krm")
    same(r.raw_command("mg rm v s f k", b"abc\r\n"), b"VA 3 s3 f9 krm\r\n")
    same(w.raw_command("ma rm2 N0 J5 v", b"5\r\n"), b"VA 1\r\n")
    same(w.raw_command("md rm q\r\nmn"), b"MN")
    see(lambda: r.raw_command("mg rm"), b"EN")


@case
def a_plain_socket_can_be_wrapped():
    class Small(socket.socket):
        """Gives at most nine bytes a call: answers come in pieces."""

        def recv(self, size):
            return super().recv(min(size, 9))

    class Module:
        socket = Small

        def __getattr__(self, name):
            return getattr(__import__("socket"), name)

    w.set("pieces", b"0123456789" * 100)
    pieces = Client((HOST, READ), socket_module=Module())
    see(lambda: pieces.get("pieces"), b"0123456789" * 100)


@case
def flush():
    w.set("flush", b"v")
    see(lambda: r.get("flush"), b"v")
    same(w.flush_all(), True)
    same(w.get("flush"), None)
    see(lambda: r.get("flush"), None)
    same(w.flush_all(delay=1000), True)
    w.set("flush", b"v2")
    see(lambda: r.get("flush"), b"v2")
    w.flush_all()
    w.quit()
    r.close()


main()
