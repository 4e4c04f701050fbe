<?php
// PHP's memcached extension (libmemcached as distributions ship it): both protocols, its serialisers
// and compression, delayed gets. The variables that start it are described in cases.py.

const PATIENCE = 20.0;
[$write, $read] = [(int) getenv('CLIENT_WRITE'), (int) getenv('CLIENT_READ')];
[$user, $password] = [getenv('CLIENT_USER'), getenv('CLIENT_PASSWORD')];
define('PAIR', $write !== $read);
// It speaks no binary protocol, and its administration is magent's.
define('PROXY', getenv('CLIENT_SERVER') === 'proxy');

function client(int $port, bool $binary): Memcached
{
    global $user, $password;
    $client = new Memcached();
    $client->setOption(Memcached::OPT_BINARY_PROTOCOL, $binary);
    $client->setOption(Memcached::OPT_TCP_NODELAY, true);
    if ($user !== false) {
        $client->setSaslAuthData($user, $password);
    }
    $client->addServer('127.0.0.1', $port);
    return $client;
}

function same($have, $expected): void
{
    if ($have !== $expected) {
        [$have, $expected] = [var_export($have, true), var_export($expected, true)];
        throw new Exception('have ' . substr($have, 0, 300) . ', expected ' . substr($expected, 0, 300));
    }
}

/** `$ask()` gives `$expected`: at once on one server, soon on the other node of a pair. */
function see(callable $ask, $expected, bool $wait = PAIR): void
{
    $deadline = microtime(true) + PATIENCE;
    $have = $ask();
    while ($wait && $have !== $expected && microtime(true) < $deadline) {
        usleep(10000);
        $have = $ask();
    }
    same($have, $expected);
}

function extended(Memcached $from, string $key): array|false
{
    return $from->get($key, null, Memcached::GET_EXTENDED);
}

$cases = [
    'storage' => function (Memcached $w, Memcached $r, string $k): void {
        same($w->set($k, 'one'), true);
        see(fn () => $r->get($k), 'one');
        same($w->add($k, 'two'), false);
        same($w->replace($k, 'three'), true);
        same($w->replace($k . 'none', 'x'), false);
        $w->setOption(Memcached::OPT_COMPRESSION, false);
        same($w->append($k, '>'), true);
        same($w->prepend($k, '<'), true);
        see(fn () => $r->get($k), '<three>');
        same($w->delete($k), true);
        same($w->delete($k), false);
        same($w->getResultCode(), Memcached::RES_NOTFOUND);
        see(fn () => $r->get($k), false);
        $w->setOption(Memcached::OPT_COMPRESSION, true);
    },
    'types' => function (Memcached $w, Memcached $r, string $k): void {
        $bytes = implode('', array_map('chr', range(0, 255)));
        $values = ['text', 'значение', $bytes, '', 5, -7, 2.5, true, false, null, ['a' => [1, 2]],
                   str_repeat('long ', 20000), str_repeat($bytes, 4000)];
        foreach ($values as $i => $value) {
            same($w->set($k . $i, $value), true);
            see(fn () => $r->get($k . $i), $value);
        }
    },
    'cas' => function (Memcached $w, Memcached $r, string $k): void {
        same($w->set($k, 'one'), true);
        $here = extended($w, $k);
        see(fn () => extended($r, $k), $here);
        same($w->cas($here['cas'], $k, 'two'), true);
        same($w->cas($here['cas'], $k, 'three'), false);
        same($w->getResultCode(), Memcached::RES_DATA_EXISTS);
        $here = extended($w, $k);
        same($here['value'], 'two');
        see(fn () => extended($r, $k), $here);
        $w->setOption(Memcached::OPT_USER_FLAGS, 0);
    },
    'arithmetic' => function (Memcached $w, Memcached $r, string $k): void {
        same($w->increment($k . 'none'), false);
        $w->set($k, 10);
        same($w->increment($k, 5), 15);
        same($w->decrement($k, 6), 9);
        see(fn () => (int) trim((string) $r->get($k)), 9);
        same($w->decrement($k, 100), 0);
        if ($w->getOption(Memcached::OPT_BINARY_PROTOCOL)) {
            same($w->increment($k . 'new', 1, 7, 1000), 7);
            same($w->increment($k . 'new', 1, 7, 1000), 8);
            see(fn () => $r->get($k . 'new'), '8');
        }
    },
    'many' => function (Memcached $w, Memcached $r, string $k): void {
        $items = [];
        for ($i = 0; $i < 500; $i++) {
            $items[$k . $i] = "value $i";
        }
        same($w->setMulti($items), true);
        see(fn () => $r->getMulti(array_keys($items), Memcached::GET_PRESERVE_ORDER), $items);
        same($w->getDelayed(array_keys($items), true), true);
        same(count($w->fetchAll()), 500);
        $w->deleteMulti(array_slice(array_keys($items), 0, 250));
        see(fn () => count($r->getMulti(array_keys($items))), 250);
    },
    'touch and expiry' => function (Memcached $w, Memcached $r, string $k): void {
        same($w->touch($k . 'none', 10), false);
        $w->set($k, 'v', 1);
        $w->set($k . 'touched', 'v', 1000);
        same($w->touch($k . 'touched', 1), true);
        foreach ([$w, $r] as $reader) {
            see(fn () => $reader->get($k), false, true);
            see(fn () => $reader->get($k . 'touched'), false, true);
        }
    },
    'too large' => function (Memcached $w, Memcached $r, string $k): void {
        same($w->set($k, 'v'), true);
        same($w->set($k, random_bytes(2 << 20)), false);
        $w->resetServerList();
        $w->addServer('127.0.0.1', (int) getenv('CLIENT_WRITE'));
        see(fn () => $r->get($k), false);
    },
    'quiet' => function (Memcached $w, Memcached $r, string $k): void {
        $w->setOption(Memcached::OPT_NOREPLY, true);
        for ($i = 0; $i < 50; $i++) {
            $w->set($k . $i, $i);
        }
        $w->setOption(Memcached::OPT_NOREPLY, false);
        same($w->get($k . '49'), 49);
        see(fn () => $r->get($k . '0'), 0);
    },
    'administration' => function (Memcached $w, Memcached $r, string $k): void {
        if (!PROXY) {
            same(is_numeric(array_values($w->getVersion())[0][0]), true);
            same(array_key_exists('curr_items', array_values($w->getStats())[0]), true);
        }
        $w->set($k, 'v');
        see(fn () => $r->get($k), 'v');
        same($w->flush(), true);
        see(fn () => $r->get($k), false);
    },
];

$failed = 0;
$protocols = $user !== false ? [true] : (PROXY ? [false] : [false, true]);
foreach ($protocols as $binary) {
    [$w, $r] = [client($write, $binary), client($read, $binary)];
    foreach ($cases as $name => $case) {
        try {
            $case($w, $r, 'php-' . ($binary ? 'b-' : 'a-') . strtr($name, ' ', '-') . '-');
        } catch (Throwable $error) {
            $failed++;
            fwrite(STDERR, "FAILED $name (binary=" . var_export($binary, true) . "): $error\n");
        }
    }
}
$count = count($cases) * count($protocols);
fwrite(STDERR, "$count cases, $failed failed (" . getenv('CLIENT_SERVER') . ")\n");
exit($failed ? 1 : 0);
