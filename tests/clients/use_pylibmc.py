"""pylibmc (libmemcached): both protocols, its behaviours, SASL PLAIN where the server asks for it."""

import pylibmc

from cases import (EVERY_BYTE, HOST, LARGE, PASSWORD, PROXY, READ, TOO_LARGE, USER, WRITE, case, gone,
                   main, raises, same, see)

# With authentication only the binary protocol can be spoken; a proxy speaks the other one.
PROTOCOLS = (True,) if USER else (False,) if PROXY else (False, True)


def client(port, binary, **behaviors):
    behaviors.setdefault("cas", True)
    server = [f"{HOST}:{port}"]
    return pylibmc.Client(server, behaviors, binary, USER, PASSWORD)


def both(function):
    """A case for each protocol, with clients (writer, reader) and a prefix for its keys."""
    for binary in PROTOCOLS:
        def run(binary=binary):
            function(client(WRITE, binary), client(READ, binary), f"{function.__name__}{binary}-")
        run.__name__ = f"{function.__name__}(binary={binary})"
        case(run)


@both
def storage(w, r, k):
    same(w.set(k, "one"), True)
    see(lambda: r.get(k), "one")
    same(w.add(k, "two"), False)
    same(w.replace(k, "three"), True)
    if k.startswith("storageTrue"):
        raises(pylibmc.NotFound, w.replace, k + "none", "x")
    else:
        same(w.replace(k + "none", "x"), False)
    same(w.add(k + "new", b"x"), True)
    same(w.append(k + "new", b"yz"), True)
    same(w.prepend(k + "new", b"ab"), True)
    see(lambda: r.get(k + "new"), b"abxyz")
    see(lambda: r.get(k), "three")
    same(w.append(k + "none", b"x"), False)
    same(r.get(k + "none", "a default"), "a default")
    w[k + "item"] = "v"
    see(lambda: k + "item" in r, True)
    del w[k + "item"]
    see(lambda: r.get(k + "item"), None)


@both
def types_and_compression(w, r, k):
    values = ["text", "значение 🔑", b"raw", EVERY_BYTE, b"", 5, -7, 1 << 70, True, 2.5, None,
              {"a": [1, (2,)]}, "long " * 20000]
    for level in (0, 10):
        for i, value in enumerate(values):
            same(w.set(f"{k}{level}.{i}", value, min_compress_len=level), True)
            see(lambda: r.get(f"{k}{level}.{i}"), value)


@both
def cas(w, r, k):
    same(w.gets(k), (None, None))
    same(w.set(k, "one"), True)
    value, unique = w.gets(k)
    same(value, "one")
    see(lambda: r.gets(k), ("one", unique))
    same(w.cas(k, "two", unique), True)
    same(w.cas(k, "three", unique), False)
    see(lambda: r.gets(k), w.gets(k))
    value, unique = r.gets(k)
    same(w.cas(k, "three", unique), True)
    see(lambda: r.get(k), "three")
    raises(pylibmc.NotFound, w.cas, k + "none", "x", 5)


@both
def arithmetic(w, r, k):
    raises(pylibmc.NotFound, w.incr, k)
    w.set(k, 10)
    same(w.incr(k, 5), 15)
    same(w.decr(k, 6), 9)
    see(lambda: r.get(k), 9)
    same(w.decr(k, 100), 0)
    w.set(k, 18446744073709551614)
    same(w.incr(k, 1), 18446744073709551615)
    items = {f"{k}{i}": i for i in range(20)}
    w.set_multi(items)
    w.incr_multi(list(items), delta=100)
    see(lambda: r.get_multi(list(items)), {key: n + 100 for key, n in items.items()})


@both
def many(w, r, k):
    items = {f"{k}{i}": f"value {i}" for i in range(1000)}
    same(w.set_multi(items), [])
    see(lambda: r.get_multi(list(items) + [k + "none"]), items)
    see(lambda: r.get_multi([str(i) for i in range(50)], key_prefix=k),
        {str(i): f"value {i}" for i in range(50)})
    same(w.add_multi({k + "0": "x", k + "new": "y"}), [k + "0"])
    same(w.delete_multi(list(items)[:500]), True)
    see(lambda: len(r.get_multi(list(items))), 500)


@both
def delete_and_touch(w, r, k):
    same(w.delete(k), False)
    same(w.touch(k, 10), False)
    same(w.set(k, "v"), True)
    same(w.touch(k, 1), True)
    for reader in (w, r):
        gone(lambda: reader.get(k))
    w.set(k, "v")
    see(lambda: r.get(k), "v")
    same(w.delete(k), True)
    see(lambda: r.get(k), None)


@both
def expiry(w, r, k):
    w.set(k, "v", time=1)
    w.set(k + "stays", "v", time=1000)
    see(lambda: r.get(k + "stays"), "v")
    for reader in (w, r):
        gone(lambda: reader.get(k))
    same(r.get(k + "stays"), "v")


@both
def large_values_and_odd_keys(w, r, k):
    same(w.set(k, LARGE), True)
    see(lambda: r.get(k), LARGE)
    raises(pylibmc.Error, w.set, k, TOO_LARGE)
    see(lambda: r.get(k), None)
    longest = k + "k" * (250 - len(k))
    same(w.set(longest, "v"), True)
    see(lambda: r.get(longest), "v")
    same(w.set(k + "ключ", "v"), True)
    see(lambda: r.get(k + "ключ"), "v")
    odd = (k.encode() + b"\x80\xfe\xff")
    same(w.set(odd, "v"), True)
    see(lambda: r.get(odd), "v")


@both
def behaviours(w, r, k):
    binary = k.startswith("behavioursTrue")
    for name, more in {
        "nodelay": {"tcp_nodelay": True, "tcp_keepalive": True},
        "ketama": {"ketama": True, "hash": "md5"},
        "weighted": {"ketama_weighted": True},
        "verify": {} if binary else {"verify_keys": True},
        "timeouts": {"connect_timeout": 20000, "send_timeout": 20000000, "receive_timeout": 20000000},
        "eject": {"remove_failed": 4, "retry_timeout": 1, "dead_timeout": 60},
        "no_block": {"no_block": True, "tcp_nodelay": True},
    }.items():
        one = client(WRITE, binary, **more)
        for i in range(50):
            one.set(f"{k}{name}{i}", i)
        same(one.get_multi([f"{k}{name}{i}" for i in range(50)]),
             {f"{k}{name}{i}": i for i in range(50)})
        see(lambda: r.get(f"{k}{name}49"), 49)
    # Quiet sets; pylibmc makes an error of "not answered yet" (32).
    quiet = client(WRITE, binary, _noreply=True)
    for i in range(50):
        try:
            quiet.set(f"{k}quiet{i}", i)
        except pylibmc.Error as error:
            assert "error 32" in str(error), error
    same(quiet.get(f"{k}quiet49"), 49)
    see(lambda: r.get(f"{k}quiet0"), 0)


@both
def pools(w, r, k):
    pool = pylibmc.ClientPool(w, 4)
    with pool.reserve() as one:
        one.set(k, "v")
    see(lambda: r.get(k), "v")
    mapped = pylibmc.ThreadMappedPool(w)
    with mapped.reserve() as one:
        same(one.get(k), "v")


@both
def stats(w, r, k):
    if PROXY:
        raises(pylibmc.Error, w.get_stats)
        return
    [(name, have)] = w.get_stats()
    assert str(WRITE).encode() in name, name
    for figure in ("pid", "version", "curr_items", "limit_maxbytes"):
        assert figure in have, have


@case
def authentication():
    if USER is None:
        return
    for user, password in ((USER, PASSWORD + "x"), ("nobody", PASSWORD), (None, None)):
        other = pylibmc.Client([f"{HOST}:{WRITE}"], None, True, user, password)
        raises(pylibmc.Error, other.set, "auth", "v")
    see(lambda: client(READ, True).get("auth"), None)


@both
def flush(w, r, k):
    w.set(k, "v")
    see(lambda: r.get(k), "v")
    same(w.flush_all(), True)
    see(lambda: r.get(k), None)
    w.disconnect_all()
    same(w.get(k), None)


main()
