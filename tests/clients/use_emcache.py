"""emcache: the classic protocol with gat, noreply and batched multi-gets; ASCII authentication."""

import asyncio

import emcache

from cases import (EVERY_BYTE, HOST, LARGE, PAIR, PASSWORD, PATIENCE, PROXY, READ, TOO_LARGE, USER, WRITE,
                   case, main, same)


async def client(port, **more):
    return await emcache.create_client([emcache.MemcachedHostAddress(HOST, port)], timeout=PATIENCE,
                                       username=USER, password=PASSWORD, **more)


def asynchronous(function):
    """A case that is a coroutine of (writer, reader)."""
    async def run():
        w, r = await client(WRITE), await client(READ)
        try:
            await function(w, r)
        finally:
            await w.close()
            await r.close()

    def started():
        asyncio.run(asyncio.wait_for(run(), 4 * PATIENCE))

    started.__name__ = function.__name__
    return case(started)


async def see(ask, expected, wait=PAIR):
    """As cases.see, for coroutines."""
    for _ in range(int(PATIENCE / 0.01) if wait else 0):
        if await ask() == expected:
            return
        await asyncio.sleep(0.01)
    same(await ask(), expected)


async def fails(awaitable):
    try:
        await awaitable
    except emcache.CommandError:
        return
    raise AssertionError("it did not fail")


def plain(item):
    return item and (item.value, item.flags, item.cas)


@asynchronous
async def storage(w, r):
    async def there():
        return plain(await r.gets(b"em", return_flags=True))

    await w.set(b"em", b"one", flags=5, exptime=1000)
    unique = (await w.gets(b"em")).cas
    await see(there, (b"one", 5, unique))
    await fails(w.add(b"em", b"x"))
    await w.append(b"em", b">")
    await w.prepend(b"em", b"<")
    unique = (await w.gets(b"em")).cas
    await see(there, (b"<one>", 5, unique))
    await w.cas(b"em", b"two", unique, flags=6)
    await fails(w.cas(b"em", b"three", unique))
    await w.replace(b"em", b"four", noreply=True)
    await see(lambda: value(r, b"em"), b"four", wait=True)
    await w.delete(b"em")
    await fails(w.delete(b"em"))
    await see(lambda: value(r, b"em"), None)


async def value(from_, key):
    item = await from_.get(key)
    return item and item.value


@asynchronous
async def arithmetic_and_expiry(w, r):
    await w.set(b"em-n", b"10")
    same(await w.increment(b"em-n", 5), 15)
    same(await w.decrement(b"em-n", 3), 12)
    await fails(w.increment(b"em-none", 1))
    await see(lambda: value(r, b"em-n"), b"12")
    # gat answers the item and gives it a second to live; so does touch.
    same((await w.gat(1, b"em-n")).value, b"12")
    await w.set(b"em-t", b"v")
    same((await w.gats(0, b"em-t")).cas, (await w.gets(b"em-t")).cas)
    await w.touch(b"em-t", 1)
    for reader in (w, r):
        for key in (b"em-n", b"em-t"):
            await see(lambda: value(reader, key), None, wait=True)


@asynchronous
async def values(w, r):
    for key, data in ((b"em-l", LARGE), (b"em-e", EVERY_BYTE), (b"em-0", b"")):
        await w.set(key, data)
        await see(lambda: value(r, key), data)
    await fails(w.set(b"em-l", TOO_LARGE))
    await see(lambda: value(r, b"em-l"), None)


@asynchronous
async def many(w, r):
    keys = [b"em-%d" % i for i in range(300)]
    await asyncio.gather(*(w.set(key, key * 20) for key in keys))

    async def all_of():
        return {key: item.value for key, item in (await r.get_many(keys)).items()}

    await see(all_of, {key: key * 20 for key in keys})
    same(len(await w.gats_many(1000, keys)), 300)
    batching = await client(READ, autobatching=True)
    answers = await asyncio.gather(*(batching.get(key) for key in keys))
    same([item.value for item in answers], [key * 20 for key in keys])
    await batching.close()


@asynchronous
async def administration(w, r):
    address = emcache.MemcachedHostAddress(HOST, WRITE)
    if not PROXY:
        assert (await w.version(address))[:1].isdigit()
        assert "curr_items" in await w.stats(address)
    await w.verbosity(address, 0)
    await w.flush_all(address)
    await see(lambda: value(r, b"em-1"), None)


main()
