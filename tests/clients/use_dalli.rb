# Dalli, Ruby's client: the binary protocol (its default until 4.0), with SASL PLAIN where the server
# asks for it. The variables that start it are described in cases.py.

require 'dalli'
require 'logger'
require 'timeout'

Dalli.logger = Logger.new(File::NULL)
PATIENCE = 20.0
WRITE, READ = ENV.fetch('CLIENT_WRITE'), ENV.fetch('CLIENT_READ')
USER, PASSWORD = ENV['CLIENT_USER'], ENV['CLIENT_PASSWORD']
PAIR = WRITE != READ

def client(port)
  more = USER ? { username: USER, password: PASSWORD } : {}
  Dalli::Client.new("127.0.0.1:#{port}", socket_timeout: 20, **more)
end

def same(have, expected)
  return if have == expected

  raise "have #{have.inspect[0, 300]}, expected #{expected.inspect[0, 300]}"
end

# The block gives this: at once on one server, soon on the other node of a pair.
def see(expected, wait: PAIR)
  deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + PATIENCE
  have = yield
  while wait && have != expected && Process.clock_gettime(Process::CLOCK_MONOTONIC) < deadline
    sleep 0.01
    have = yield
  end
  same(have, expected)
end

def fails(kind)
  yield
rescue kind
  nil
else
  raise "it did not fail with #{kind}"
end

CASES = {
  storage: lambda { |w, r, k|
    w.set(k, 'one')
    see('one') { r.get(k) }
    # Not stored is false or 0, depending on the release.
    same([false, 0].include?(w.add(k, 'two')), true)
    w.replace("#{k}none", 'x')
    same(w.get("#{k}none"), nil)
    w.replace(k, 'three')
    see('three') { r.get(k) }
    w.set("#{k}raw", 'm', 100, raw: true)
    same(!w.append("#{k}raw", '>'), false)
    same(!w.prepend("#{k}raw", '<'), false)
    see('<m>') { r.get("#{k}raw", raw: true) }
    same(w.delete(k), true)
    same(!w.delete(k), true)
    see(nil) { r.get(k) }
    same(w.fetch("#{k}f", 100) { 'made' }, 'made')
    see('made') { r.get("#{k}f") }
    same(r.fetch("#{k}f") { 'made again' }, 'made')
  },
  types: lambda { |w, r, k|
    ['text', 'значение', (0..255).map(&:chr).join.b, 5, 1 << 70, nil, { 'a' => [1, 2.5] },
     'long ' * 20_000].each_with_index do |value, i|
      w.set("#{k}#{i}", value)
      see(value) { r.get("#{k}#{i}") }
    end
  },
  cas: lambda { |w, r, k|
    w.set(k, 'one')
    value, unique = w.get_cas(k)
    same(value, 'one')
    see([value, unique]) { r.get_cas(k) }
    fresh = w.set_cas(k, 'two', unique)
    same(fresh.is_a?(Integer), true)
    same(w.set_cas(k, 'three', unique), false)
    same(w.get_cas(k), ['two', fresh])
    see(['two', fresh]) { r.get_cas(k) }
    same(!w.cas(k) { |now| "#{now}!" }, false)
    see('two!') { r.get(k) }
    same(w.delete_cas(k, fresh), false)
    same(w.delete_cas(k, w.get_cas(k)[1]), true)
  },
  arithmetic: lambda { |w, r, k|
    same(w.incr(k), nil)
    same(w.incr(k, 1, 100, 10), 10)
    same(w.incr(k, 5), 15)
    same(w.decr(k, 6), 9)
    see(9) { r.get(k, raw: true).to_i }
    same(w.decr(k, 100), 0)
  },
  many: lambda { |w, r, k|
    items = (0...500).to_h { |i| ["#{k}#{i}", "value #{i}"] }
    w.multi { items.each { |key, value| w.set(key, value) } }
    see(items, wait: true) { r.get_multi(*items.keys, "#{k}none") }
    uniques = {}
    w.get_multi_cas(*items.keys) { |key, (_, data)| uniques[key] = data }
    same(uniques.size, 500)
    see(uniques) do
      there = {}
      r.get_multi_cas(*items.keys) { |key, (_, data)| there[key] = data }
      there
    end
  },
  touch_and_expiry: lambda { |w, r, k|
    same(!w.touch("#{k}none", 10), true)
    w.set(k, 'v', 1000)
    same(!w.touch(k, 1), false)
    w.set("#{k}gat", 'v', 1000)
    same(w.gat("#{k}gat", 1), 'v')
    w.set("#{k}set", 'v', 1)
    [w, r].each do |reader|
      ['', 'gat', 'set'].each { |which| see(nil, wait: true) { reader.get(k + which) } }
    end
  },
  large_values_and_odd_keys: lambda { |w, r, k|
    large = (0..255).map(&:chr).join.b * 4000
    w.set(k, large, 1000, raw: true)
    see(large) { r.get(k, raw: true) }
    fails(Dalli::ValueOverMaxSize) { w.set(k, Random.new(3).bytes(2 << 20), 1000, raw: true) }
    w.set("#{k}#{'long' * 100}", 'v')
    see('v') { r.get("#{k}#{'long' * 100}") }
    w.set("#{k} ключ с пробелом", 'v')
    see('v') { r.get("#{k} ключ с пробелом") }
  },
  administration: lambda { |w, r, k|
    same(w.version.values.first[0] =~ /\d/, 0)
    same(w.stats.values.first.key?('curr_items'), true)
    w.stats(:settings)
    w.reset_stats
    w.alive!
    w.set(k, 'v')
    see('v') { r.get(k) }
    w.flush_all
    see(nil) { r.get(k) }
  },
  authentication: lambda { |w, _r, k|
    if USER
      wrong = Dalli::Client.new("127.0.0.1:#{WRITE}", username: USER, password: "#{PASSWORD}x")
      fails(Dalli::DalliError) { wrong.set(k, 'v') }
      same(w.get(k), nil)
    end
  }
}.freeze

# A proxy refuses the binary protocol: at once, and in a way that Dalli understands.
REFUSAL = {
  refusal: lambda { |w, _r, k|
    Timeout.timeout(5) do
      fails(Dalli::DalliError) { w.set(k, 'v') }
      fails(Dalli::DalliError) { w.get(k) }
    end
  }
}.freeze

failed = 0
cases = ENV['CLIENT_SERVER'] == 'proxy' ? REFUSAL : CASES
w, r = client(WRITE), client(READ)
cases.each do |name, run|
  Timeout.timeout(4 * PATIENCE) { run.call(w, r, "rb-#{name}-") }
rescue StandardError => e
  failed += 1
  warn "FAILED #{name} (#{ENV['CLIENT_SERVER']}): #{e.full_message}"
end
warn "#{cases.size} cases, #{failed} failed (#{ENV['CLIENT_SERVER']})"
exit(failed.zero? ? 0 : 1)
