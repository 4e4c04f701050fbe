"""meta-memcache: the meta protocol: flags, leases, recaching, staleness, base64 keys, CAS uniques.

Its core keeps 32 bits of a unique (meta-memcache-socket 0.3.1), and takes a longer one for none at all.
The protocol has 64; ours are longer from the start, memcached's after four thousand million writes. So
its cas can be shown with memcached only; other clients show it with us.
"""

import logging

from meta_memcache import (CacheClient, Conflict, Key, LeasePolicy, MemcacheServerError, Miss,
                           NotStored, RecachePolicy, RequestFlags, ServerAddress, SetMode,
                           StalePolicy, Success, Value)
from meta_memcache.configuration import connection_pool_factory_builder
from meta_memcache.protocol import SET_MODE_ADD, SET_MODE_APPEND, SET_MODE_REPLACE

from cases import (EVERY_BYTE, HOST, LARGE, READ, SERVER, TOO_LARGE, WRITE, case, gone, main,
                   raises, same, see)


def client(port):
    return CacheClient.cache_client_from_servers(
        servers=[ServerAddress(HOST, port)],
        connection_pool_factory_fn=connection_pool_factory_builder(
            connection_timeout=20, recv_timeout=20),
    )


w, r = client(WRITE), client(READ)


@case
def storage():
    same(w.set("st", "one", ttl=1000), True)
    see(lambda: r.get("st"), "one")
    same(w.set("st", "two", ttl=1000, set_mode=SetMode.ADD), False)
    same(w.set("st", "two", ttl=1000, set_mode=SetMode.REPLACE), True)
    see(lambda: r.get("st"), "two")
    same(w.set("st", b">", ttl=1000, set_mode=SetMode.APPEND), True)
    same(w.set("st", b"<", ttl=1000, set_mode=SetMode.PREPEND), True)
    same(w.set("st-none", b"x", ttl=1000, set_mode=SetMode.APPEND), False)
    same(w.delete("st"), True)
    see(lambda: r.get("st"), None)


@case
def values():
    for i, value in enumerate(("text", "значение 🔑", b"raw", EVERY_BYTE, 5, {"a": [1, 2.5]},
                               "long " * 20000, LARGE)):
        same(w.set(f"v{i}", value, ttl=1000), True)
        see(lambda: r.get(f"v{i}"), value)
    logging.disable()
    raises(MemcacheServerError, w.set, "v0", TOO_LARGE, ttl=1000)
    logging.disable(logging.NOTSET)
    see(lambda: r.get("v0"), None)
    same(w.set("v1", "usable", ttl=1000), True)


@case
def cas():
    if SERVER != "memcached":
        return
    same(w.set("cas", "one", ttl=1000), True)
    value, unique = w.get_cas("cas")
    see(lambda: r.get_cas("cas"), ("one", unique))
    same(w.set("cas", "two", ttl=1000, cas_token=unique), True)
    same(w.set("cas", "three", ttl=1000, cas_token=unique), False)
    value, unique = w.get_cas("cas")
    see(lambda: r.get_cas("cas"), ("two", unique))
    same(w.delete("cas", cas_token=unique + 1), False)
    same(w.delete("cas", cas_token=unique), True)


@case
def arithmetic():
    same(w.delta_and_get("n", 1), None)
    same(w.delta_initialize_and_get("n", delta=1, initial_value=10, initial_ttl=1000), 10)
    same(w.delta_initialize_and_get("n", delta=5, initial_value=10, initial_ttl=1000), 15)
    same(w.delta_and_get("n", -6), 9)
    same(w.delta("n", -100), True)
    # Waited for by reads: an increment by nothing is a write, and the last one holds.
    see(lambda: None if r.get("n") is None else int(r.get("n")), 0)
    same(r.delta_and_get("n", 0), 0)
    see(lambda: None if w.get("n") is None else int(w.get("n")), 0)
    same(w.delta_and_get("n", 3, refresh_ttl=1), 3)
    for reader in (w, r):
        gone(lambda: reader.get("n"))


@case
def many():
    keys = [Key(f"many-{i}") for i in range(300)]
    for key in keys:
        w.set(key, key.key, ttl=1000, no_reply=True)
    expected = {key: key.key for key in keys}
    see(lambda: r.multi_get(keys), expected, wait=True)
    same(w.multi_get([Key("many-0"), Key("many-none")])[Key("many-none")], None)


@case
def long_and_unicode_keys():
    # These travel hashed or in base64 (flag b).
    for name in ("ключ-🔑", "k" * 400, "with blank", "\x01\x02"):
        same(w.set(Key(name), "v", ttl=1000), True)
        see(lambda: r.get(Key(name)), "v")
        same(w.delete(Key(name)), True)
        see(lambda: r.get(Key(name)), None)


@case
def ttl_and_touch():
    same(w.touch("ttl-none", 10), False)
    w.set("ttl", "v", ttl=1000)
    same(w.touch("ttl", 1), True)
    for reader in (w, r):
        gone(lambda: reader.get("ttl"))
    w.set("ttl", "v", ttl=1000)
    same(w.get("ttl", touch_ttl=1), "v")
    for reader in (w, r):
        gone(lambda: reader.get("ttl"))


@case
def leases():
    policy = LeasePolicy(ttl=1000, miss_retries=1, miss_retry_wait=0.01)
    # The first caller gets the lease, the others wait and miss, until it has filled the key.
    same(w.get_or_lease("lease", policy), None)
    same(w.get_or_lease("lease", policy), None)
    value, unique = w.get_or_lease_cas("lease", policy)
    same(value, None)
    assert unique or SERVER != "memcached"
    w.set("lease", "filled", ttl=1000, cas_token=unique)
    same(w.get_or_lease("lease", policy), "filled")
    see(lambda: r.get("lease"), "filled")


@case
def a_lease_is_known_to_the_other_node():
    policy = LeasePolicy(ttl=1000, miss_retries=1, miss_retry_wait=0.01)
    same(w.get_or_lease("lease2", policy), None)

    def stub():
        answer = r.meta_get(Key("lease2"), RequestFlags(return_value=True, return_cas_token=True))
        return isinstance(answer, Value) and answer.flags.cas_token
    here = w.meta_get(Key("lease2"), RequestFlags(return_value=True, return_cas_token=True))
    see(stub, here.flags.cas_token)


@case
def recache_and_staleness():
    w.set("re", "v", ttl=20)
    # Less than 30 s are left: one caller wins and is told to miss, the others get the old value.
    same(w.get("re", recache_policy=RecachePolicy(ttl=30)), None)
    same(w.get("re", recache_policy=RecachePolicy(ttl=30)), "v")
    w.set("re", "v2", ttl=1000)
    same(w.invalidate("re", stale_policy=StalePolicy(mark_stale_on_deletion_ttl=100)), True)
    # Stale: again one wins.
    same(w.get("re"), None)
    same(w.get("re"), "v2")

    def marks():
        answer = r.meta_get(Key("re"), RequestFlags(return_value=True))
        return isinstance(answer, Value) and (answer.flags.stale, answer.flags.win)
    # The other node knows both: stale, and somebody fills it.
    see(marks, (True, False))
    w.set("re", "v3", ttl=1000)
    see(lambda: r.get("re"), "v3")


@case
def what_is_returned():
    w.set("ret", "value", ttl=1000)
    asked = RequestFlags(return_value=True, return_ttl=True, return_size=True, return_fetched=True,
                         return_client_flag=True, return_cas_token=True, return_key=True,
                         return_last_access=True, no_update_lru=True)

    def flags(reader):
        answer = reader.meta_get(Key("ret"), asked)
        if not isinstance(answer, Value):
            return None
        have = answer.flags
        assert have.ttl in range(900, 1001) and have.last_access in range(0, 100), have
        return (answer.value, have.size, have.client_flag, have.cas_token, have.fetched)
    here = flags(w)
    same(here[1:3] + here[4:], (5, here[2], False))
    see(lambda: flags(r), here)
    # A read that counts as one is seen by the next on this node.
    w.get("ret")
    same(flags(w)[4], True)


@case
def outcomes():
    def set_to(**flags):
        return type(w.meta_set(Key("oc"), b"v", RequestFlags(cache_ttl=100, **flags)))
    same(type(w.meta_get(Key("oc"), RequestFlags(return_value=True))), Miss)
    same(type(w.meta_delete(Key("oc"), RequestFlags())), Miss)
    same(set_to(mode=SET_MODE_REPLACE), NotStored)
    same(set_to(), Success)
    same(set_to(cas_token=1), Conflict)
    same(set_to(mode=SET_MODE_ADD), NotStored)
    same(set_to(mode=SET_MODE_APPEND), Success)
    see(lambda: r.get("oc"), b"vv")


main()
