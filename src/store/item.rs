//! Records: how items lie in segments.
//!
//! Owns the byte layout, and reading and writing its fields. Never looks at the index and takes no
//! lock: the caller keeps the arena's protocol.
//!
//! ```text
//! item      0         8      9      10     12       14
//!           +---------+------+------+------+--------+---------+-----------+----------+-----+----
//!           | version | kind | klen | vlen | access | [flags] | [exptime] | [extras] | key | value
//!           +---------+------+------+------+--------+---------+-----------+----------+-----+----
//!             mutable '-- immutable -------' mutable  mutable   mutable     mutable   immut. mut.
//!
//! extras    +---------+-------------+
//!           | marks 1 | CAS unique 8|    only where a meta command left something to note
//!           +---------+-------------+
//!
//! chunk     +------------+------+--------------+--------+---------------------------------+---+
//! of a large| owner hash | kind | length 24    |   0    | bytes                           | 0 |
//! value     +------------+------+--------------+--------+---------------------------------+---+
//!
//! large     an item whose value is: total length 4 | location of chunk 0: 8 | of chunk 1: 8 | ...
//! ```
//! Records are rounded up to [`ALIGN`] bytes; fields are unaligned, little endian. Flags of 0, an
//! exptime of "never" and extras that say nothing take no space. The top bit of the version marks a
//! remembered delete (a tombstone), which may still lie in the bytes of the item that it deleted.
//! `access` says whether a get has found it, and when it was used last:
//!
//! ```text
//! access    | fetched 1 | 0 | unix second, low 14 bits               |   used in the last hours
//!           | fetched 1 | 1 | unix second / 4096, low 14 bits        |   up to two years ago
//! ```
//! The sweep makes the second of the first before that runs over.

use super::arena::Arena;
use super::version::Version;
use super::{Exptime, Marks};

/// Bytes in front of flags, exptime, key and value.
pub(crate) const HEADER: usize = 14;
/// Records start at multiples of this; locations count in it (or in twice of it).
pub(crate) const ALIGN: usize = 4;
/// Longest value area of one record: its length has 16 bits.
pub(crate) const VALUE_MAX: usize = u16::MAX as usize;
/// Longest chunk: its length has 24 bits.
const CHUNK_MAX: usize = (1 << 24) - 1;

const KIND_AT: usize = 8;
const KLEN_AT: usize = 9;
const VLEN_AT: usize = 10;
const ACCESS_AT: usize = 12;

const HAS_FLAGS: u8 = 1;
const HAS_EXPTIME: u8 = 2;
const LARGE: u8 = 4;
const CHUNK: u8 = 8;
const HAS_EXTRAS: u8 = 0x10;
/// Set in every record: zeroed memory is not a record.
const RECORD: u8 = 0x80;

/// In the first byte of the extras, beside the bits of the marks: the CAS unique counts.
const EXPLICIT_CAS: u8 = 0x80;
/// Bytes of the extras: marks, CAS unique.
const EXTRAS: usize = 1 + 8;

const DELETED: u64 = 1 << 63;
const FETCHED: u16 = 1 << 15;
/// The time of the last use is in units of 2^[`COARSE_SHIFT`] seconds.
const COARSE: u16 = 1 << 14;
const COARSE_SHIFT: u32 = 12;
const TIME: u16 = COARSE - 1;
/// A use that seems to be so long ago was in what is the future by now: the clock was set back.
const FUTURE: u16 = TIME - 1024;
/// A time of use becomes coarse when it lies so many seconds back: half of what it can tell.
pub(crate) const COARSE_AFTER: u32 = 8192;

/// The bits of the kind that move the key.
const OPTIONAL: u8 = HAS_FLAGS | HAS_EXPTIME | HAS_EXTRAS;
/// Where the key starts, by those bits: every look at a key asks.
const KEY_AFTER: [u8; OPTIONAL as usize + 1] = {
    let mut after = [HEADER as u8; OPTIONAL as usize + 1];
    let mut kind = 0;
    while kind < after.len() {
        after[kind] += if kind & HAS_FLAGS as usize != 0 { 4 } else { 0 };
        after[kind] += if kind & HAS_EXPTIME as usize != 0 { 4 } else { 0 };
        after[kind] += if kind & HAS_EXTRAS as usize != 0 { EXTRAS as u8 } else { 0 };
        kind += 1;
    }
    after
};

/// Rounds up to whole units of [`ALIGN`].
pub(crate) const fn round(size: usize) -> usize {
    size.div_ceil(ALIGN) * ALIGN
}

/// Size of a remembered delete of a key of `klen` bytes.
pub(crate) const fn tombstone_size(klen: usize) -> usize {
    round(HEADER + klen)
}

/// Size of a chunk of `len` bytes.
pub(crate) const fn chunk_size(len: usize) -> usize {
    round(HEADER + len)
}

/// What an item may carry beside flags, exptime and value. The default takes no space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    pub marks: Marks,
    /// A CAS unique that is not the version.
    pub cas: Option<u64>,
}

impl Extras {
    /// Nothing but the mark of a key that came in base64, and a CAS unique.
    pub fn of_new(binary_key: bool, cas: Option<u64>) -> Extras {
        Extras { marks: Marks { binary_key, ..Marks::default() }, cas }
    }

    /// Whether a record can do without them.
    #[inline]
    pub fn is_default(&self) -> bool {
        let Marks { stale, won, binary_key } = self.marks;
        !(stale | won | binary_key | self.cas.is_some())
    }

    /// The CAS unique that clients see.
    #[inline]
    pub fn unique(&self, version: Version) -> u64 {
        self.cas.unwrap_or(version.0)
    }

    fn to_bytes(self) -> [u8; EXTRAS] {
        let mut bytes = [0; EXTRAS];
        bytes[0] = self.marks.bits() | if self.cas.is_some() { EXPLICIT_CAS } else { 0 };
        bytes[1..].copy_from_slice(&self.cas.unwrap_or(0).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; EXTRAS]) -> Extras {
        let [bits, cas @ ..] = bytes;
        let cas = (bits & EXPLICIT_CAS != 0).then(|| u64::from_le_bytes(cas));
        Extras { marks: Marks::from_bits(bits), cas }
    }
}

/// What a new record is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub key: &'a [u8],
    pub flags: u32,
    pub exptime: Exptime,
    pub extras: Extras,
    /// Length of the value area.
    pub vlen: usize,
    /// The value area holds the places of chunks.
    pub large: bool,
}

impl<'a> Shape<'a> {
    /// Of a remembered delete of `key`.
    pub fn tombstone(key: &'a [u8]) -> Shape<'a> {
        let (exptime, extras) = (Exptime::Never, Extras::default());
        Shape { key, flags: 0, exptime, extras, vlen: 0, large: false }
    }

    #[inline]
    fn kind(&self) -> u8 {
        RECORD
            | if self.flags == 0 { 0 } else { HAS_FLAGS }
            | if self.exptime == Exptime::Never { 0 } else { HAS_EXPTIME }
            | if self.extras.is_default() { 0 } else { HAS_EXTRAS }
            | if self.large { LARGE } else { 0 }
    }

    /// Size of the record, rounded.
    #[inline]
    pub fn size(&self) -> usize {
        let record = Record { at: 0, kind: self.kind(), klen: self.key.len(), len: self.vlen };
        record.size()
    }

    /// Writes everything but version and value at `at`, by rule 1 of the arena.
    #[inline]
    pub fn write(&self, arena: &Arena, at: usize, now_secs: u32) -> Record {
        debug_assert!(self.key.len() <= 255 && self.vlen <= VALUE_MAX);
        let record = Record { at, kind: self.kind(), klen: self.key.len(), len: self.vlen };
        let mut head = [0u8; HEADER];
        head[KIND_AT] = record.kind;
        head[KLEN_AT] = record.klen as u8;
        head[VLEN_AT..VLEN_AT + 2].copy_from_slice(&(self.vlen as u16).to_le_bytes());
        head[ACCESS_AT..].copy_from_slice(&(now_secs as u16 & TIME).to_le_bytes());
        arena.put(at, &head);
        if record.kind & HAS_FLAGS != 0 {
            arena.put(at + HEADER, &self.flags.to_le_bytes());
        }
        if record.kind & HAS_EXPTIME != 0 {
            arena.put(record.exptime_at(), &self.exptime.secs().to_le_bytes());
        }
        if record.kind & HAS_EXTRAS != 0 {
            arena.put(record.extras_at(), &self.extras.to_bytes());
        }
        arena.put(record.key_at(), self.key);
        record
    }
}

/// Writes the head of a chunk of `len` bytes at `at`, by rule 1 of the arena. Returns where its
/// bytes belong.
pub(crate) fn begin_chunk(arena: &Arena, at: usize, owner: u64, len: usize) -> usize {
    debug_assert!(len <= CHUNK_MAX);
    let mut head = [0u8; HEADER];
    head[..8].copy_from_slice(&owner.to_le_bytes());
    head[KIND_AT] = RECORD | CHUNK;
    head[KLEN_AT..ACCESS_AT].copy_from_slice(&(len as u32).to_le_bytes()[..3]);
    arena.put(at, &head);
    at + HEADER
}

/// A record in the arena: its place and its immutable shape, read once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// Byte offset in the arena.
    pub at: usize,
    kind: u8,
    klen: usize,
    /// Length of the value area, or of the chunk.
    len: usize,
}

impl Record {
    /// Reads the immutable bytes of the header (rule 3).
    #[inline]
    pub fn read(arena: &Arena, at: usize) -> Record {
        let [kind, klen, low, high] = arena.array::<4>(at + KIND_AT);
        debug_assert!(kind & RECORD != 0, "no record at {at}");
        if kind & CHUNK != 0 {
            let len = u32::from_le_bytes([klen, low, high, 0]) as usize;
            return Record { at, kind, klen: 0, len };
        }
        Record {
            at,
            kind,
            klen: usize::from(klen),
            len: usize::from(u16::from_le_bytes([low, high])),
        }
    }

    /// Whether it is a chunk, not an item.
    pub fn is_chunk(&self) -> bool {
        self.kind & CHUNK != 0
    }

    /// Whether it is an item whose value lies in chunks.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.kind & LARGE != 0
    }

    /// Whether it has room for flags.
    #[inline]
    pub fn has_flags(&self) -> bool {
        self.kind & HAS_FLAGS != 0
    }

    /// Length of the key.
    pub fn key_len(&self) -> usize {
        self.klen
    }

    /// Whether it has room for an exptime.
    pub fn has_exptime(&self) -> bool {
        self.kind & HAS_EXPTIME != 0
    }

    fn exptime_at(&self) -> usize {
        self.at + HEADER + if self.kind & HAS_FLAGS != 0 { 4 } else { 0 }
    }

    fn extras_at(&self) -> usize {
        self.exptime_at() + if self.has_exptime() { 4 } else { 0 }
    }

    #[inline]
    fn key_at(&self) -> usize {
        self.at + usize::from(KEY_AFTER[usize::from(self.kind & OPTIONAL)])
    }

    /// Where the value area starts.
    #[inline]
    pub fn value_at(&self) -> usize {
        self.key_at() + self.klen
    }

    /// Length of the value area, or of the chunk.
    pub fn value_len(&self) -> usize {
        self.len
    }

    /// Size of the record in its segment, rounded.
    #[inline]
    pub fn size(&self) -> usize {
        round(self.value_at() - self.at + self.len)
    }

    /// Size of a remembered delete of this key.
    pub fn tombstone_size(&self) -> usize {
        tombstone_size(self.klen)
    }

    /// Whether a record of this shape could take the place of this one's value, flags and exptime.
    #[inline]
    pub fn fits_in_place(&self, shape: &Shape<'_>) -> bool {
        self.kind == shape.kind() && self.len == shape.vlen && !self.is_large()
    }

    /// The key.
    #[inline]
    pub fn key<'a>(&self, arena: &'a Arena) -> &'a [u8] {
        arena.bytes(self.key_at(), self.klen)
    }

    /// The value area (rule 2).
    #[inline]
    pub fn value<'a>(&self, arena: &'a Arena) -> &'a [u8] {
        arena.bytes(self.value_at(), self.len)
    }

    /// The client's flags.
    #[inline]
    pub fn flags(&self, arena: &Arena) -> u32 {
        if self.kind & HAS_FLAGS == 0 {
            return 0;
        }
        u32::from_le_bytes(arena.array(self.at + HEADER))
    }

    /// Changes flags that it has room for (rule 2).
    #[inline]
    pub fn set_flags(&self, arena: &Arena, flags: u32) {
        if self.kind & HAS_FLAGS != 0 {
            arena.put(self.at + HEADER, &flags.to_le_bytes());
        }
    }

    /// The exptime (rule 2).
    #[inline]
    pub fn exptime(&self, arena: &Arena) -> Exptime {
        if !self.has_exptime() {
            return Exptime::Never;
        }
        match u32::from_le_bytes(arena.array(self.exptime_at())) {
            0 => Exptime::Never,
            secs => Exptime::At(secs),
        }
    }

    /// Changes the exptime in place (rule 2). False where the record has no room for one.
    #[inline]
    pub fn set_exptime(&self, arena: &Arena, exptime: Exptime) -> bool {
        if self.has_exptime() {
            arena.put(self.exptime_at(), &exptime.secs().to_le_bytes());
        }
        self.has_exptime() || exptime == Exptime::Never
    }

    /// Marks and explicit CAS (rule 2).
    #[inline]
    pub fn extras(&self, arena: &Arena) -> Extras {
        if self.kind & HAS_EXTRAS == 0 {
            return Extras::default();
        }
        self.read_extras(arena)
    }

    /// Off the way of ordinary items.
    #[cold]
    fn read_extras(&self, arena: &Arena) -> Extras {
        Extras::from_bytes(arena.array(self.extras_at()))
    }

    /// Changes marks and explicit CAS in place (rule 2). False where the record has no room for
    /// them.
    #[inline]
    pub fn set_extras(&self, arena: &Arena, extras: Extras) -> bool {
        let room = self.kind & HAS_EXTRAS != 0;
        if room {
            arena.put(self.extras_at(), &extras.to_bytes());
        }
        room || extras.is_default()
    }

    /// Whether exptime and extras can become these in place.
    pub fn has_room(&self, exptime: Exptime, extras: Extras) -> bool {
        (self.has_exptime() || exptime == Exptime::Never)
            && (self.kind & HAS_EXTRAS != 0 || extras.is_default())
    }

    /// The CAS unique that clients see (rule 2).
    #[inline]
    pub fn cas(&self, arena: &Arena) -> u64 {
        self.extras(arena).unique(self.version(arena).0)
    }

    /// The version, and whether it is a remembered delete (rule 2).
    #[inline]
    pub fn version(&self, arena: &Arena) -> (Version, bool) {
        let bits = u64::from_le_bytes(arena.array(self.at));
        (Version(bits & !DELETED), bits & DELETED != 0)
    }

    /// Sets the version, and whether it is a remembered delete (rule 1 or 2).
    #[inline]
    pub fn set_version(&self, arena: &Arena, version: Version, deleted: bool) {
        let bits = version.0 | if deleted { DELETED } else { 0 };
        arena.put(self.at, &bits.to_le_bytes());
    }

    /// Of a chunk: the hash of the key it belongs to.
    pub fn owner(&self, arena: &Arena) -> u64 {
        u64::from_le_bytes(arena.array(self.at))
    }

    #[inline]
    fn access(&self, arena: &Arena) -> u16 {
        u16::from_le_bytes(arena.array(self.at + ACCESS_AT))
    }

    /// The version of what is no remembered delete, and the access, by one look (rule 2).
    #[inline]
    pub fn version_and_access(&self, arena: &Arena) -> (Version, Access) {
        let [v0, v1, v2, v3, v4, v5, v6, v7, _, _, _, _, low, high] =
            arena.array::<HEADER>(self.at);
        let bits = u64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7]);
        (Version(bits & !DELETED), Access(u16::from_le_bytes([low, high])))
    }

    /// Key and value area, by one look (rule 2).
    #[inline]
    pub fn key_and_value<'a>(&self, arena: &'a Arena) -> (&'a [u8], &'a [u8]) {
        arena.bytes(self.key_at(), self.klen + self.len).split_at(self.klen)
    }

    /// Whether a get has found it (rule 2).
    pub fn fetched(&self, arena: &Arena) -> bool {
        Access(self.access(arena)).fetched()
    }

    /// Seconds since the last use: exact for two hours, then up to 4096 too many (rule 2). It never
    /// falls while nobody uses the item.
    pub fn idle_secs(&self, arena: &Arena, now_secs: u32) -> u32 {
        Access(self.access(arena)).idle_secs(now_secs)
    }

    /// Lets the time of a use that was [`COARSE_AFTER`] ago become coarse, so that it does not run
    /// over (rule 2).
    pub fn age(&self, arena: &Arena, now_secs: u32) {
        let access = self.access(arena);
        let idle = self.idle_secs(arena, now_secs);
        if access & COARSE == 0 && idle >= COARSE_AFTER {
            let units = (now_secs.wrapping_sub(idle) >> COARSE_SHIFT) as u16 & TIME;
            let access = access & FETCHED | COARSE | units;
            arena.put(self.at + ACCESS_AT, &access.to_le_bytes());
        }
    }

    /// Notes a use at `now_secs`; a `fetched` one is a get (rule 2).
    #[inline]
    pub fn set_used(&self, arena: &Arena, now_secs: u32, fetched: bool) {
        let before = self.access(arena);
        let bit = if fetched { FETCHED } else { 0 };
        let access = now_secs as u16 & TIME | bit;
        if access != before {
            arena.put(self.at + ACCESS_AT, &access.to_le_bytes());
        }
    }

    /// Copies the access field of `from` (rule 1 or 2).
    pub fn copy_access(&self, arena: &Arena, from: &Record) {
        arena.put(self.at + ACCESS_AT, &from.access(arena).to_le_bytes());
    }
}

/// When an item was used last, and whether a get has found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access(u16);

impl Access {
    /// See [`Record::fetched`].
    #[inline]
    pub fn fetched(self) -> bool {
        self.0 & FETCHED != 0
    }

    /// See [`Record::idle_secs`].
    #[inline]
    pub fn idle_secs(self, now_secs: u32) -> u32 {
        if self.0 & COARSE == 0 {
            let secs = (now_secs as u16).wrapping_sub(self.0) & TIME;
            return u32::from(if secs > FUTURE { 0 } else { secs });
        }
        let units = ((now_secs >> COARSE_SHIFT) as u16).wrapping_sub(self.0) & TIME;
        let units = if units > FUTURE { 0 } else { units };
        u32::from(units) << COARSE_SHIFT | now_secs & ((1 << COARSE_SHIFT) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(flags: u32, exptime: Exptime) -> Shape<'static> {
        let extras = Extras::default();
        Shape { key: b"some key", flags, exptime, extras, vlen: 5, large: false }
    }

    #[test]
    fn fields_survive_and_absent_ones_take_no_space() {
        let arena = Arena::new(4096);
        for (flags, exptime, size) in [
            (0, Exptime::Never, 28),
            (7, Exptime::Never, 32),
            (0, Exptime::At(99), 32),
            (u32::MAX, Exptime::At(u32::MAX), 36),
        ] {
            let shape = shape(flags, exptime);
            let written = shape.write(&arena, 8, 40_000);
            written.set_version(&arena, Version(12345), false);
            arena.put(written.value_at(), b"value");
            let record = Record::read(&arena, 8);
            assert_eq!((record.size(), shape.size()), (size, size));
            assert_eq!(
                (record.key(&arena), record.value(&arena)),
                (&b"some key"[..], &b"value"[..])
            );
            assert_eq!((record.flags(&arena), record.exptime(&arena)), (flags, exptime));
            assert_eq!(record.version(&arena), (Version(12345), false));
            assert_eq!(record.idle_secs(&arena, 40_007), 7);
            assert!(!record.fetched(&arena));
            record.set_used(&arena, 40_010, true);
            assert!(record.fetched(&arena));
            assert_eq!(record.idle_secs(&arena, 40_010), 0);
            record.set_version(&arena, Version(7), true);
            assert_eq!(record.version(&arena), (Version(7), true));
            assert_eq!(record.value(&arena), b"value");
        }
    }

    #[test]
    fn an_exptime_fits_only_where_there_is_room() {
        let arena = Arena::new(4096);
        let without = shape(0, Exptime::Never).write(&arena, 0, 0);
        assert!(without.set_exptime(&arena, Exptime::Never));
        assert!(!without.set_exptime(&arena, Exptime::At(5)));
        let with = shape(0, Exptime::At(5)).write(&arena, 100, 0);
        assert!(with.set_exptime(&arena, Exptime::Never));
        assert_eq!(with.exptime(&arena), Exptime::Never);
    }

    #[test]
    fn the_time_of_a_use_becomes_coarse_and_never_runs_over() {
        let arena = Arena::new(4096);
        for start in [0, 1_700_000_000, 1_700_003_071, u32::MAX - 3_000_000] {
            let record = shape(0, Exptime::Never).write(&arena, 0, start);
            record.set_used(&arena, start, true);
            let mut last = 0;
            for idle in (0..2_000_000).step_by(1000) {
                let now = start + idle;
                let before = record.idle_secs(&arena, now);
                record.age(&arena, now);
                let after = record.idle_secs(&arena, now);
                assert!(before <= after && last <= before, "{idle}: {last} {before} {after}");
                assert!((idle..idle + 4096).contains(&after), "{idle}: {after}");
                assert!(idle >= COARSE_AFTER || after == idle);
                assert!(record.fetched(&arena));
                last = after;
            }
            record.set_used(&arena, start + 2_000_000, false);
            assert_eq!(record.idle_secs(&arena, start + 2_000_005), 5);
            // The clock is set back.
            assert_eq!(record.idle_secs(&arena, start + 1_999_500), 0);
        }
    }

    #[test]
    fn extras_take_space_only_where_they_say_something() {
        let arena = Arena::new(4096);
        let without = shape(7, Exptime::Never).write(&arena, 0, 0);
        let stale = Marks { stale: true, ..Marks::default() };
        for extras in [
            Extras { marks: stale, cas: None },
            Extras { marks: Marks::default(), cas: Some(0) },
            Extras {
                marks: Marks { stale: true, won: true, binary_key: true },
                cas: Some(u64::MAX),
            },
        ] {
            let with = Shape { extras, ..shape(7, Exptime::At(9)) };
            let written = with.write(&arena, 100, 0);
            written.set_version(&arena, Version(5), false);
            let record = Record::read(&arena, 100);
            assert_eq!(record.size(), round(HEADER + 4 + 4 + EXTRAS + 8 + 5));
            assert_eq!((record.extras(&arena), record.key(&arena)), (extras, &b"some key"[..]));
            assert_eq!(record.cas(&arena), extras.cas.unwrap_or(5));
            assert!(record.set_extras(&arena, Extras::default()));
            assert_eq!((record.cas(&arena), record.exptime(&arena)), (5, Exptime::At(9)));
            assert!(!without.has_room(Exptime::Never, extras));
            assert!(!without.set_extras(&arena, extras));
        }
        assert_eq!(without.extras(&arena), Extras::default());
        assert!(without.has_room(Exptime::Never, Extras::default()));
    }

    #[test]
    fn chunks_have_long_lengths() {
        let arena = Arena::new(1 << 18);
        let bytes = vec![7u8; 200_001];
        let to = begin_chunk(&arena, 4, 99, bytes.len());
        arena.put(to, &bytes);
        let record = Record::read(&arena, 4);
        assert!(record.is_chunk());
        assert_eq!((record.owner(&arena), record.value_len()), (99, 200_001));
        assert_eq!(record.size(), chunk_size(200_001));
        assert_eq!(record.value(&arena), &bytes[..]);
    }
}
