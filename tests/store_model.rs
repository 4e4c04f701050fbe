//! The store against a plain map that knows memcached's rules and never runs out of memory: random
//! commands, classic and meta, clocks that move, flushes, expiry, housekeeping in between; roomy,
//! tiny and `-M`. Then pairs of stores that tell each other what changed, and must end up equal.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use twincached::base::clock::Now;
use twincached::base::counters::Counter;
use twincached::base::hash::hash_key;
use twincached::store::{
    Applied, Arith, ArithTerms, Change, Config, DeleteTerms, Deleted, Exptime, Found, GetTerms,
    Handle, Item, Maintained, Marks, Mode, ScanCursor, Store, Stored, Terms, Value, Version, What,
    Written,
};

const START: u64 = 1_700_000_000_000_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = hash_key(self.0, b"next");
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

fn at(secs: u64) -> Now {
    Now { unix_us: START + secs * 1_000_000, mono_us: secs * 1_000_000 }
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    version: Version,
    cas: u64,
    marks: Marks,
    flags: u32,
    exptime: Exptime,
    value: Vec<u8>,
}

fn peek(handle: &mut Handle, key: &[u8], now: Now) -> Option<Entry> {
    handle.peek(key, now, |item| {
        assert_eq!(item.key, key);
        Entry {
            version: item.version,
            cas: item.cas,
            marks: item.marks,
            flags: item.flags,
            exptime: item.exptime,
            value: item.value.to_vec(),
        }
    })
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Loss {
    /// Nothing may get lost.
    None,
    /// Items may be evicted.
    Evict,
    /// Storing may fail.
    Refuse,
}

struct World {
    store: Arc<Store>,
    handle: Handle,
    model: BTreeMap<Vec<u8>, Entry>,
    now: Now,
    deferred: Option<u32>,
    loss: Loss,
    random: Random,
    keys: u64,
    value_max: u64,
    newest: Version,
    ooms: u64,
}

impl World {
    fn new(seed: u64, memory: u64, loss: Loss, keys: u64, value_max: u64) -> World {
        let config = Config {
            memory_limit: memory,
            evict: loss != Loss::Refuse,
            replicated: seed % 2 == 0,
            hash_seed: seed,
            tombstone_secs: 50,
            ..Config::default()
        };
        let store = Store::new(config, at(0));
        World {
            handle: store.handle(),
            store,
            model: BTreeMap::new(),
            now: at(0),
            deferred: None,
            loss,
            random: Random(seed),
            keys,
            value_max,
            newest: Version(0),
            ooms: 0,
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let n = self.random.below(self.keys);
        let mut key = format!("key{n}").into_bytes();
        if n % 7 == 0 {
            key.resize(250, b'k');
        }
        key
    }

    fn value(&mut self) -> Vec<u8> {
        if self.random.chance(6) {
            return self.random.below(200).to_string().into_bytes();
        }
        let top = if self.random.chance(8) { self.value_max } else { self.value_max.min(600) };
        let len = self.random.below(top + 1) as usize;
        let stamp = self.random.next().to_le_bytes();
        stamp.iter().copied().cycle().take(len).collect()
    }

    fn exptime(&mut self) -> Exptime {
        match self.random.below(4) {
            0 => Exptime::At(self.now.unix_secs() + self.random.below(30) as u32 - 3),
            _ => Exptime::Never,
        }
    }

    fn maybe<T>(&mut self, one_in: u64, make: impl FnOnce(&mut World) -> T) -> Option<T> {
        if self.random.chance(one_in) {
            Some(make(self))
        } else {
            None
        }
    }

    /// A unique to compare with: often the right one.
    fn guess(&mut self, old: &Option<Entry>) -> u64 {
        match (self.random.below(4), old) {
            (0, _) | (_, None) => self.random.below(3),
            (1, Some(old)) => old.cas.saturating_sub(1 + self.random.below(3)),
            (_, Some(old)) => old.cas,
        }
    }

    /// A unique of the client's choice.
    fn unique(&mut self) -> u64 {
        match self.random.below(3) {
            0 => self.random.below(4),
            1 => self.random.next(),
            _ => self.newest.0 + self.random.below(1000),
        }
    }

    fn terms(&mut self, old: &Option<Entry>) -> Terms {
        if !self.random.chance(3) {
            return Terms::default();
        }
        Terms {
            compare: self.maybe(3, |world| world.guess(old)),
            stale_if_older: self.random.chance(2),
            cas: self.maybe(2, World::unique),
            binary_key: self.random.chance(3),
            vivify: self.maybe(2, World::exptime),
        }
    }

    fn evictions(&self) -> u64 {
        self.handle.counters().get(Counter::Evictions)
    }

    /// Time passes: what has expired or was flushed leaves the model.
    fn pass(&mut self) {
        self.now = self.now.plus_us(self.random.below(3_000_000));
        let secs = self.now.unix_secs();
        if let Some(due) = self.deferred.filter(|&due| due <= secs) {
            self.model.retain(|_, entry| entry.version > Version::at_unix_secs(due));
            self.deferred = None;
        }
        self.model.retain(|_, entry| !entry.exptime.is_past(secs));
    }

    /// The key is in the store what it is in the model, or was lost as it may be.
    fn check(&mut self, key: &[u8]) {
        let found = peek(&mut self.handle, key, self.now);
        if found.is_none() && self.loss == Loss::Evict {
            self.model.remove(key);
        }
        assert_eq!(found.as_ref(), self.model.get(key), "{:?}", String::from_utf8_lossy(key));
    }

    /// A write gave the key this entry, and its version.
    fn written(&mut self, key: &[u8], written: Written, entry: Entry) {
        let Written { version, cas, len } = written;
        assert!(version > self.newest, "versions only rise");
        assert_eq!(len, entry.value.len());
        self.newest = version;
        self.put(key, Entry { version, cas, ..entry });
    }

    fn put(&mut self, key: &[u8], entry: Entry) {
        if entry.exptime.is_past(self.now.unix_secs()) {
            self.model.remove(key);
        } else {
            self.model.insert(key.to_vec(), entry);
        }
    }

    fn store(&mut self) {
        let (key, value, exptime) = (self.key(), self.value(), self.exptime());
        let flags = if self.random.chance(2) { 0 } else { self.random.next() as u32 };
        self.check(&key);
        let old = self.model.get(&key).cloned();
        let mode = match self.random.below(9) {
            0 => Mode::Add,
            1 => Mode::Replace,
            2 => Mode::Append,
            3 => Mode::Prepend,
            4 => Mode::Cas(self.guess(&old)),
            _ => Mode::Set,
        };
        let terms = self.terms(&old);
        let before = self.evictions();
        let got = self.handle.store_with(mode, &key, flags, exptime, &value, &terms, self.now);
        let evicted = self.evictions() != before;
        // The room for a long value may have been what was there: then it is a miss.
        let alone = matches!(got, Stored::Stored(written) if written.len == value.len());
        let grows = matches!(mode, Mode::Append | Mode::Prepend);
        let may_be_made = grows && evicted && alone && terms.vivify.is_some();
        let there = peek(&mut self.handle, &key, self.now).filter(|_| may_be_made);
        let old = old.filter(|old| match &there {
            Some(there) if old.value.is_empty() => {
                let same = (there.flags, there.exptime) == (old.flags, old.exptime);
                same && !there.marks.binary_key
            }
            Some(_) => false,
            None => true,
        });
        let marks = Marks { binary_key: terms.binary_key, ..Marks::default() };
        let mut entry = Entry { version: Version(0), cas: 0, marks, flags, exptime, value };
        let differs =
            |cas: u64| terms.compare.is_some_and(|compare| compare != 0 && compare != cas);
        let expected = match (mode, &old) {
            (Mode::Add, Some(_)) | (Mode::Replace, None) => Some(Stored::NotStored),
            (Mode::Append | Mode::Prepend, None) => match terms.vivify {
                Some(exptime) => {
                    entry.exptime = exptime;
                    None
                }
                None => Some(Stored::NotStored),
            },
            (Mode::Append | Mode::Prepend, Some(old)) if differs(old.cas) => Some(Stored::Exists),
            (Mode::Append | Mode::Prepend, Some(old)) => {
                let (first, second) = match mode {
                    Mode::Append => (&old.value, &entry.value),
                    _ => (&entry.value, &old.value),
                };
                entry.value = [&first[..], &second[..]].concat();
                (entry.flags, entry.exptime) = (old.flags, old.exptime);
                entry.marks.binary_key = false;
                None
            }
            (Mode::Cas(_), None) => Some(Stored::NotFound),
            (Mode::Cas(0), Some(_)) => Some(Stored::Exists),
            (Mode::Cas(unique), Some(old)) if unique == old.cas => None,
            (Mode::Cas(unique), Some(old)) if unique < old.cas && terms.stale_if_older => {
                entry.exptime = old.exptime;
                entry.marks.stale = true;
                entry.marks.won = old.marks.won;
                None
            }
            (Mode::Cas(_), Some(_)) => Some(Stored::Exists),
            _ => None,
        };
        match (got, expected) {
            (Stored::Stored(written), None) => {
                assert_eq!(written.cas, terms.cas.unwrap_or(written.version.0));
                self.written(&key, written, entry);
            }
            (Stored::OutOfMemory, None) if self.loss != Loss::None => {
                self.ooms += 1;
                if mode == Mode::Set {
                    self.model.remove(&key);
                }
            }
            (Stored::NotStored | Stored::NotFound, None) if evicted => {}
            (got, expected) => assert_eq!(Some(got), expected, "{mode:?} {terms:?} on {old:?}"),
        }
        self.check(&key);
    }

    fn meta_get(&mut self) {
        let key = self.key();
        self.check(&key);
        let old = self.model.get(&key).cloned();
        let secs = self.now.unix_secs();
        let terms = GetTerms {
            touch: self.maybe(4, World::exptime),
            vivify: self.maybe(3, World::exptime),
            recache: self.maybe(2, |world| secs + world.random.below(40) as u32),
            recache_first: self.random.chance(2),
            no_update: self.random.chance(3),
            cas: self.maybe(3, World::unique),
            binary_key: self.random.chance(3),
        };
        let got = self.handle.meta_get(&key, &terms, self.now, |item: &Item<'_>, found| {
            assert_eq!(item.key, &key[..]);
            let Item { version, cas, marks, flags, exptime, .. } = *item;
            (Entry { version, cas, marks, flags, exptime, value: item.value.to_vec() }, found)
        });
        match (got, old) {
            (Some((seen, found)), Some(old)) => self.met(&key, &terms, (seen, found), old),
            (Some((seen, found)), None) => {
                let Some(exptime) = terms.vivify else { panic!("{found:?} of nothing") };
                let exptime_before = Exptime::Never;
                assert_eq!(found, Found { created: true, won: true, exptime_before });
                assert!(seen.version > self.newest, "versions only rise");
                self.newest = seen.version;
                let marks = Marks { binary_key: terms.binary_key, ..Marks::default() };
                let cas = terms.cas.unwrap_or(seen.version.0);
                let (version, value) = (seen.version, Vec::new());
                let made = Entry { version, cas, marks, flags: 0, exptime, value };
                assert_eq!(seen, made);
                self.put(&key, Entry { marks: Marks { won: true, ..marks }, ..made });
            }
            (None, None) => assert!(terms.vivify.is_none() || self.loss != Loss::None),
            (None, old) => assert!(self.loss != Loss::None, "{old:?} is gone"),
        }
        self.check(&key);
    }

    /// A meta get has found what was there.
    fn met(&mut self, key: &[u8], terms: &GetTerms, got: (Entry, Found), old: Entry) {
        let (seen, found) = got;
        let exptime = terms.touch.unwrap_or(old.exptime);
        let compared = if terms.recache_first { old.exptime } else { exptime };
        let soon = |at: u32| compared.secs() != 0 && compared.secs() < at;
        let won = !old.marks.won && (old.marks.stale || terms.recache.is_some_and(soon));
        assert!(!found.created && found.exptime_before == old.exptime);
        assert_eq!((seen.cas, seen.marks, &seen.value), (old.cas, old.marks, &old.value));
        let now = peek(&mut self.handle, key, self.now);
        if self.loss != Loss::None && now.as_ref() == Some(&old) {
            // No memory for the change.
            assert!(!found.won || won);
            return;
        }
        assert_eq!(found.won, won);
        let marks = Marks { won: old.marks.won || won, ..old.marks };
        let changed = Entry { exptime, marks, ..old.clone() };
        if won || terms.touch.is_some() {
            self.changed(key, changed);
        }
    }

    fn meta_delete(&mut self) {
        let key = self.key();
        self.check(&key);
        let old = self.model.get(&key).cloned();
        let terms = DeleteTerms {
            compare: self.maybe(3, |world| world.guess(&old)),
            stale: self.random.chance(2),
            exptime: self.maybe(3, World::exptime),
            remove_value: self.random.chance(2),
            flags: self.random.below(2) as u32,
            cas: self.maybe(3, World::unique),
            binary_key: self.random.chance(3),
            ..DeleteTerms::default()
        };
        let expected = match &old {
            None => Deleted::NotFound,
            Some(old) if terms.compare.is_some_and(|cas| cas != old.cas) => Deleted::Exists,
            Some(_) => Deleted::Deleted,
        };
        let got = self.handle.delete_with(&key, &terms, self.now);
        let leaves = terms.stale || terms.remove_value;
        let lossy = self.loss != Loss::None && leaves;
        match (got, old) {
            (Deleted::OutOfMemory, Some(_)) if lossy => {}
            (Deleted::NotFound, Some(_)) if lossy && self.loss == Loss::Evict => {}
            (Deleted::Deleted, Some(old)) if leaves => {
                let version = peek(&mut self.handle, &key, self.now).map(|now| now.version);
                let version = version.unwrap_or_default();
                let fresh = terms.cas.unwrap_or(version.0);
                let left = if terms.remove_value {
                    let cas = if terms.stale { fresh } else { terms.cas.unwrap_or(old.cas) };
                    let binary_key = terms.binary_key;
                    let marks = Marks { stale: terms.stale, won: false, binary_key };
                    let exptime = terms.exptime.unwrap_or(Exptime::Never);
                    Entry { version, cas, marks, flags: terms.flags, exptime, value: Vec::new() }
                } else {
                    let marks = Marks { stale: true, won: false, ..old.marks };
                    let exptime = terms.exptime.unwrap_or(old.exptime);
                    Entry { version, cas: fresh, marks, exptime, ..old }
                };
                if !left.exptime.is_past(self.now.unix_secs()) {
                    assert!(version > self.newest, "versions only rise");
                    self.newest = version;
                }
                self.put(&key, left);
            }
            (got, _) => {
                assert_eq!(got, expected, "{terms:?}");
                if got == Deleted::Deleted {
                    self.model.remove(&key);
                }
            }
        }
        self.check(&key);
    }

    fn arith(&mut self) {
        let key = self.key();
        self.check(&key);
        let incr = self.random.chance(2);
        let delta = if self.random.chance(3) { self.random.next() } else { self.random.below(90) };
        let number = self.model.get(&key).map(|old| {
            // Appending behind a padded number leaves blanks inside: strtoull stops there, and at
            // a NUL, too. Those in front it passes over.
            let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
            let start = old.value.iter().position(|byte| !blank(byte))?;
            let text = old.value[start..].split(|byte| blank(byte) || *byte == 0).next()?;
            std::str::from_utf8(text).ok()?.parse::<u64>().ok()
        });
        let old = self.model.get(&key).cloned();
        let terms = match self.random.chance(3) {
            true => ArithTerms {
                compare: self.maybe(3, |world| world.guess(&old)),
                cas: self.maybe(3, World::unique),
                touch: self.maybe(3, World::exptime),
                vivify: self.maybe(2, |world| (world.exptime(), world.random.below(1000))),
                binary_key: self.random.chance(3),
            },
            false => ArithTerms::default(),
        };
        let differs =
            |cas: u64| terms.compare.is_some_and(|compare| compare != 0 && compare != cas);
        let marks = Marks { binary_key: terms.binary_key, ..Marks::default() };
        let got = self.handle.arith_with(&key, incr, delta, &terms, self.now);
        match (got, old, number) {
            (Arith::NotFound, None, _) => assert!(terms.vivify.is_none()),
            (Arith::NonNumeric, Some(old), _) if old.value.is_empty() => {}
            // What is kept in chunks is no number, whatever it begins with.
            (Arith::NonNumeric, Some(old), _) if old.value.len() > 2000 => {}
            (Arith::Exists, Some(old), _) if differs(old.cas) => {}
            (Arith::NonNumeric, Some(old), Some(None)) if !differs(old.cas) => {}
            (Arith::OutOfMemory, ..) if self.loss != Loss::None => {}
            (Arith::NotFound, Some(_), Some(Some(_))) if self.loss == Loss::Evict => {}
            (Arith::Value { value, written, exptime, created, .. }, None, None) => {
                assert!(created && Some((exptime, value)) == terms.vivify);
                assert_eq!(written.cas, terms.cas.unwrap_or(written.version.0));
                let (version, text) = (written.version, value.to_string().into_bytes());
                let made = Entry { version, cas: 0, marks, flags: 0, exptime, value: text };
                self.written(&key, written, made);
            }
            (Arith::Value { value, written, exptime, .. }, Some(old), Some(Some(number))) => {
                assert!(!differs(old.cas));
                let expected =
                    if incr { number.wrapping_add(delta) } else { number.saturating_sub(delta) };
                assert_eq!(value, expected);
                assert_eq!(exptime, terms.touch.unwrap_or(old.exptime));
                let mut text = value.to_string().into_bytes();
                let marks = if text.len() > old.value.len() { marks } else { old.marks };
                text.resize(text.len().max(old.value.len()), b' ');
                assert_eq!(written.cas, terms.cas.unwrap_or(written.version.0));
                self.written(&key, written, Entry { marks, exptime, value: text, ..old });
            }
            (got, old, number) => panic!("{got:?} for {number:?} in {old:?}, {terms:?}"),
        }
        self.check(&key);
    }

    fn touch(&mut self) {
        let (key, exptime) = (self.key(), self.exptime());
        self.check(&key);
        let old = self.model.get(&key).cloned();
        let got = if self.random.chance(2) {
            self.handle.touch(&key, exptime, self.now)
        } else {
            let read = |item: &twincached::store::Item<'_>| (item.cas, item.value.to_vec());
            let got = self.handle.get_and_touch(&key, exptime, self.now, read);
            if let (Some((_, value)), Some(old)) = (&got, &old) {
                assert_eq!(value, &old.value);
            }
            got.map(|(cas, _)| cas)
        };
        match (got, old) {
            (Some(cas), Some(old)) => {
                assert_eq!(cas, old.cas, "a touch leaves the unique as it is");
                self.changed(&key, Entry { exptime, ..old });
            }
            (None, None) => {}
            (None, Some(_)) if self.loss != Loss::None => {}
            (got, old) => panic!("{got:?} for {old:?}"),
        }
        self.check(&key);
    }

    /// A change that clients see as none: on a replicated node the version rises all the same.
    fn changed(&mut self, key: &[u8], entry: Entry) {
        let version = match peek(&mut self.handle, key, self.now) {
            Some(now) if self.store.config().replicated => {
                assert!(now.version > self.newest, "versions only rise");
                self.newest = now.version;
                now.version
            }
            _ => entry.version,
        };
        self.put(key, Entry { version, ..entry });
    }

    fn step(&mut self) {
        match self.random.below(47) {
            0..=15 => self.store(),
            16..=21 => {
                let key = self.key();
                self.check(&key);
                let expected = self.model.get(&key).cloned();
                let got = self.handle.get(&key, self.now, |item| item.value.to_vec());
                assert_eq!(got, expected.map(|entry| entry.value));
            }
            22..=24 => {
                let key = self.key();
                self.check(&key);
                assert_eq!(self.handle.delete(&key, self.now), self.model.remove(&key).is_some());
                self.check(&key);
            }
            25..=28 => self.arith(),
            29..=31 => self.touch(),
            32..=35 => self.pass(),
            36..=38 => self.meta_get(),
            39 | 40 => self.meta_delete(),
            41 if self.random.chance(20) => {
                self.handle.flush_all(None, self.now);
                self.model.clear();
                self.deferred = None;
            }
            42 if self.random.chance(20) => {
                let due = self.now.unix_secs() + 1 + self.random.below(20) as u32;
                self.handle.flush_all(Some(due), self.now);
                self.deferred = Some(due);
            }
            _ => {
                let budget = 1 + self.random.below(500) as usize;
                self.handle.maintain(self.now, budget);
            }
        }
    }

    /// Everything that the model has is there, and nothing else is.
    fn check_all(&mut self) {
        for n in 0..self.keys {
            let mut key = format!("key{n}").into_bytes();
            if n % 7 == 0 {
                key.resize(250, b'k');
            }
            self.check(&key);
        }
        while self.handle.maintain(self.now, 10_000) == Maintained::More {}
        let mut told = BTreeMap::new();
        let (mut cursor, now) = (ScanCursor::default(), self.now);
        while !self.handle.scan(&mut cursor, Version(0), 10, now, &mut |change| {
            if let What::Item { value, exptime, .. } = change.what {
                if !exptime.is_past(now.unix_secs()) {
                    assert!(told.insert(change.key.to_vec(), value.to_vec()).is_none());
                }
            }
        }) {}
        assert_eq!(cursor.progress(), 1_000_000);
        if self.loss != Loss::Evict {
            let model: BTreeMap<_, _> =
                self.model.iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect();
            assert!(told == model, "the scan tells all of it");
        }
        let stats = self.store.stats();
        assert!(stats.bytes + stats.index_bytes <= stats.limit_maxbytes);
        assert!(stats.curr_items >= told.len() as u64);
    }
}

fn run(name: &str, seeds: std::ops::Range<u64>, steps: usize, make: impl Fn(u64) -> World) {
    for seed in seeds {
        println!("{name}: seed {seed}");
        let mut world = make(seed);
        for _ in 0..steps {
            world.step();
        }
        world.check_all();
        if name == "roomy" {
            assert_eq!(world.evictions() + world.ooms, 0);
        }
    }
}

#[test]
fn a_roomy_store_is_the_model() {
    run("roomy", 0..12, 6000, |seed| World::new(seed, 32 << 20, Loss::None, 100, 60_000));
}

#[test]
fn a_tiny_store_forgets_but_never_lies() {
    run("tiny", 100..112, 6000, |seed| World::new(seed, 1 << 20, Loss::Evict, 3000, 20_000));
    run("tiny, large values", 200..206, 1500, |seed| {
        World::new(seed, 1 << 20, Loss::Evict, 30, 500_000)
    });
}

#[test]
fn a_store_that_may_not_evict_refuses_and_keeps() {
    run("-M", 300..308, 8000, |seed| World::new(seed, 1 << 20, Loss::Refuse, 4000, 5000));
    run("-M, large values", 400..404, 2000, |seed| {
        World::new(seed, 1 << 20, Loss::Refuse, 30, 300_000)
    });
}

struct Node {
    store: Arc<Store>,
    handle: Handle,
}

fn send(from: &mut Handle, to: &mut Handle, now: Now, hash: Option<u64>) {
    type Owned = (Vec<u8>, Version, Option<(u32, Exptime, Option<u64>, Marks, Vec<u8>)>);
    let mut told: Vec<Owned> = Vec::new();
    let mut sink = |change: &Change<'_>| {
        let what = match change.what {
            What::Item { flags, exptime, cas, marks, value } => {
                Some((flags, exptime, cas, marks, value.to_vec()))
            }
            What::Deleted => None,
        };
        told.push((change.key.to_vec(), change.version, what));
    };
    match hash {
        Some(hash) => from.changes_of(hash, now, &mut sink),
        None => {
            let mut cursor = ScanCursor::default();
            while !from.scan(&mut cursor, Version(0), 50, now, &mut sink) {}
        }
    }
    for &(ref key, version, ref what) in &told {
        let what = match *what {
            Some((flags, exptime, cas, marks, ref value)) => {
                What::Item { flags, exptime, cas, marks, value: Value::from(&value[..]) }
            }
            None => What::Deleted,
        };
        let change = Change { key, version, what };
        to.apply(&change, now);
        let again = to.apply(&change, now);
        assert!(matches!(again, Applied::Same | Applied::Stale | Applied::Won), "{again:?}");
    }
}

#[test]
fn two_stores_that_told_each_other_are_equal() {
    for seed in 0..20u64 {
        println!("pair: seed {seed}");
        let mut random = Random(seed);
        let mut nodes: Vec<Node> = (0..2u8)
            .map(|tag| {
                let config = Config {
                    memory_limit: 8 << 20,
                    replicated: true,
                    node_tag: tag,
                    hash_seed: seed * 2 + u64::from(tag),
                    feed_max: 50,
                    ..Config::default()
                };
                let store = Store::new(config, at(0));
                Node { handle: store.handle(), store }
            })
            .collect();
        let mut now = at(0);
        for _ in 0..4000 {
            now = now.plus_us(random.below(20_000));
            let me = random.below(2) as usize;
            let key = format!("k{}", random.below(60)).into_bytes();
            // One node's clock is behind.
            let mine = Now { unix_us: now.unix_us - 700_000 * me as u64, ..now };
            let exptime = match random.below(3) {
                0 => Exptime::At(now.unix_secs() + random.below(20) as u32),
                _ => Exptime::Never,
            };
            let mut value = random.next().to_string().into_bytes();
            if random.chance(20) {
                value.resize(50_000, b'v');
            }
            let handle = &mut nodes[me].handle;
            let stale = DeleteTerms { stale: true, ..DeleteTerms::default() };
            let unique = random.chance(3).then(|| random.below(1000));
            match random.below(26) {
                0..=7 => drop(handle.store(Mode::Set, &key, 1, exptime, &value, mine)),
                8 | 9 => drop(handle.delete(&key, mine)),
                10 => drop(handle.touch(&key, exptime, mine)),
                11 => drop(handle.arith(&key, true, 7, mine)),
                12 => drop(handle.store(Mode::Append, &key, 0, exptime, b"99", mine)),
                13 if random.chance(40) => handle.flush_all(None, mine),
                14 if random.chance(40) => handle.flush_all(Some(mine.unix_secs() + 3), mine),
                15 => drop(handle.maintain(mine, 50)),
                16 | 17 => drop(handle.delete_with(&key, &stale, mine)),
                18..=20 => {
                    let vivify = random.chance(3).then_some(exptime);
                    let terms = GetTerms { vivify, cas: unique, ..GetTerms::default() };
                    handle.meta_get(&key, &terms, mine, |_, _| ());
                }
                21 | 22 => {
                    let terms = Terms { cas: unique, binary_key: true, ..Terms::default() };
                    handle.store_with(Mode::Set, &key, 2, exptime, &value, &terms, mine);
                }
                _ => {
                    // Some of what changed arrives, in another order; the rest is lost.
                    let mut hashes = Vec::new();
                    nodes[me].store.drain_feeds(&mut hashes);
                    hashes.retain(|_| !random.chance(3));
                    hashes.reverse();
                    let [a, b] = &mut nodes[..] else { unreachable!() };
                    let (from, to) = if me == 0 { (a, b) } else { (b, a) };
                    for hash in hashes {
                        send(&mut from.handle, &mut to.handle, now, Some(hash));
                    }
                }
            }
        }
        now = now.plus_us(1_000_000);
        let [a, b] = &mut nodes[..] else { unreachable!() };
        // A look makes a flush that is due come to pass before it is told.
        for node in [&mut *a, &mut *b] {
            node.handle.peek(b"k", now, |_| ());
        }
        b.handle.apply_flush(a.store.flush_state(), now);
        a.handle.apply_flush(b.store.flush_state(), now);
        send(&mut a.handle, &mut b.handle, now, None);
        send(&mut b.handle, &mut a.handle, now, None);
        assert_eq!(a.store.flush_state(), b.store.flush_state());
        let all = |node: &mut Node| -> HashMap<u32, Option<Entry>> {
            let peeked = |n: u32| peek(&mut node.handle, format!("k{n}").as_bytes(), now);
            (0..60).zip((0..60).map(peeked)).collect()
        };
        assert_eq!(all(a), all(b), "seed {seed}");
    }
}
