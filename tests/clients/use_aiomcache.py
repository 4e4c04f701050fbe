"""aiomcache: the classic protocol from an event loop, many requests at once over a pool."""

import asyncio

import aiomcache

from cases import (EVERY_BYTE, HOST, LARGE, PAIR, PATIENCE, PROXY, READ, TOO_LARGE, WRITE, case, main,
                   same)


def asynchronous(function):
    """A case that is a coroutine of (writer, reader)."""
    async def run():
        w, r = (aiomcache.Client(HOST, port, pool_size=8) for port in (WRITE, READ))
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
        answer = await awaitable
    except aiomcache.ClientException:
        return
    raise AssertionError(f"it did not fail, but answered {answer!r:.300}")


@asynchronous
async def storage(w, r):
    same(await w.set(b"aio", b"one"), True)
    await see(lambda: r.get(b"aio"), b"one")
    same(await w.add(b"aio", b"x"), False)
    same(await w.replace(b"aio", b"two"), True)
    same(await w.append(b"aio", b">"), True)
    same(await w.prepend(b"aio", b"<"), True)
    await see(lambda: r.get(b"aio"), b"<two>")
    value, unique = await w.gets(b"aio")
    await see(lambda: r.gets(b"aio"), (value, unique))
    same(await w.cas(b"aio", b"three", unique), True)
    same(await w.cas(b"aio", b"four", unique), False)
    same(await w.delete(b"aio"), True)
    same(await w.delete(b"aio"), False)
    await see(lambda: r.get(b"aio"), None)


@asynchronous
async def arithmetic_and_expiry(w, r):
    await w.set(b"aio-n", b"10")
    same(await w.incr(b"aio-n", 5), 15)
    same(await w.decr(b"aio-n", 3), 12)
    await fails(w.incr(b"aio-none"))
    await see(lambda: r.get(b"aio-n"), b"12")
    same(await w.touch(b"aio-n", 1), True)
    same(await w.touch(b"aio-none", 1), False)
    await see(lambda: r.get(b"aio-n"), None, wait=True)
    await see(lambda: w.get(b"aio-n"), None, wait=True)


@asynchronous
async def values(w, r):
    for key, value in ((b"aio-l", LARGE), (b"aio-e", EVERY_BYTE), (b"aio-0", b"")):
        same(await w.set(key, value), True)
        await see(lambda: r.get(key), value)
    await fails(w.set(b"aio-l", TOO_LARGE))
    await see(lambda: r.get(b"aio-l"), None)


@asynchronous
async def many_at_once(w, r):
    keys = [b"aio-%d" % i for i in range(500)]
    assert all(await asyncio.gather(*(w.set(key, key * 50) for key in keys)))
    await see(lambda: r.multi_get(*keys), tuple(key * 50 for key in keys))
    answers = await asyncio.gather(*(r.get(key) for key in keys))
    same(answers, [key * 50 for key in keys])


@asynchronous
async def administration(w, r):
    if PROXY:
        same(await w.version(), b"memcached agent v0.6")
    else:
        assert (await w.version())[:1].isdigit()
        assert b"curr_items" in await w.stats()
        assert b"maxconns" in await w.stats(b"settings")
    await w.flush_all()
    await see(lambda: r.get(b"aio-1"), None)


main()
