//! Commands that tune and inspect a server: slabs, lru, lru_crawler, cache_memlimit.
//!
//! Owns their grammar, and the order in which memcached 1.6.45 finds fault with a line. As there,
//! the words behind the command may be cut short (`lru_crawler meta all`), and a line that ends
//! with `noreply` is never answered. Never asks what a server is configured to allow.

use super::token;
use crate::base::num;
use crate::protocol::reject::{self, Reject};

/// An administrative command that is understood.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Admin<'a> {
    /// `slabs reassign SRC DST`: move a page between slab classes.
    SlabsReassign {
        /// The class it comes from; -1 for any.
        src: i32,
        /// The class it goes to.
        dst: i32,
    },
    /// `slabs automove 0|1|2`.
    SlabsAutomove(u32),
    /// `slabs automove ratio R`.
    AutomoveRatio(f64),
    /// `slabs automove freeratio R`.
    AutomoveFreeratio(f64),
    /// `slabs automove window N`.
    AutomoveWindow(u32),
    /// `lru mode flat|segmented`.
    LruSegmented(bool),
    /// `lru tune HOT WARM HOT_FACTOR WARM_FACTOR`.
    LruTune {
        /// Share of memory for new items, in percent.
        hot_pct: u32,
        /// Share of memory for items in use, in percent.
        warm_pct: u32,
        /// Age of the hot queue, as a part of the cold one's.
        hot_factor: f64,
        /// Age of the warm queue, as a part of the cold one's.
        warm_factor: f64,
    },
    /// `lru temp_ttl N`; none (a negative number) turns it off.
    LruTempTtl(Option<u32>),
    /// `lru_crawler enable|disable`.
    Crawler(bool),
    /// `lru_crawler sleep N`, in microseconds.
    CrawlerSleep(u32),
    /// `lru_crawler tocrawl N`.
    CrawlerTocrawl(u32),
    /// `lru_crawler crawl CLASSES`.
    Crawl(&'a [u8]),
    /// `lru_crawler metadump CLASSES`.
    Metadump(&'a [u8]),
    /// `lru_crawler mgdump CLASSES`.
    Mgdump(&'a [u8]),
    /// `cache_memlimit MEGABYTES`.
    Memlimit(u32),
}

/// Longest number of an administrative command, in bytes: memcached looks no further.
const NUMBER_MAX: usize = 11;
/// Longest fraction of an administrative command, in bytes.
const FRACTION_MAX: usize = 31;
/// Least and most of `slabs automove window`.
const WINDOW: std::ops::RangeInclusive<u32> = 3..=1800;
/// Most of `lru_crawler sleep`: a second.
const SLEEP_MAX: u32 = 1_000_000;
/// Least of `cache_memlimit`, in megabytes.
const MEMLIMIT_MIN: u32 = 8;
/// Most of `cache_memlimit`; more is taken for bytes.
const MEMLIMIT_MAX: u32 = 1_000_000_000;
/// Most that hot and warm may have together, in percent.
const HOT_WARM_MAX: u64 = 80;

/// The words of a line; those beyond the ones that any command looks at are only counted.
struct Line<'a> {
    words: [&'a [u8]; 6],
    count: usize,
}

impl<'a> Line<'a> {
    fn cut(line: &'a [u8]) -> Line<'a> {
        let mut cut = Line { words: [&[]; 6], count: 0 };
        let mut rest = line;
        while let Some((word, after)) = token::next_word(rest) {
            if let Some(place) = cut.words.get_mut(cut.count) {
                *place = word;
            }
            cut.count += 1;
            rest = after;
        }
        cut
    }

    fn get(&self, index: usize) -> &'a [u8] {
        self.words.get(index).copied().unwrap_or_default()
    }

    /// Whether word `index` is `name`, or its beginning.
    fn is(&self, index: usize, name: &[u8]) -> bool {
        index < self.count && name.starts_with(self.get(index))
    }

    fn number(&self, index: usize) -> Option<u32> {
        unsigned32(self.get(index))
    }
}

/// Whether a line ends with the word `noreply`.
pub fn is_noreply(line: &[u8]) -> bool {
    let end = line.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
    let line = &line[..end];
    line.ends_with(b" noreply")
}

/// Whether `word` is `name`, or its beginning: memcached compares no further than the word goes.
pub fn is_word(word: &[u8], name: &[u8]) -> bool {
    !word.is_empty() && name.starts_with(word)
}

/// An unsigned number: digits alone.
pub fn unsigned32(word: &[u8]) -> Option<u32> {
    if word.is_empty() || word.len() > NUMBER_MAX {
        return None;
    }
    word.iter().try_fold(0u32, |sum, byte| {
        let digit = Some(byte.wrapping_sub(b'0')).filter(|&digit| digit < 10)?;
        sum.checked_mul(10)?.checked_add(u32::from(digit))
    })
}

/// A signed number: digits alone, or behind a minus sign. A sign alone is zero, as in memcached.
pub fn signed32(word: &[u8]) -> Option<i32> {
    if word.is_empty() || word.len() > NUMBER_MAX {
        return None;
    }
    let (sign, digits) = match word {
        [b'-', digits @ ..] => (-1, digits),
        _ => (1, word),
    };
    let magnitude = digits.iter().try_fold(0i64, |sum, byte| {
        let digit = Some(byte.wrapping_sub(b'0')).filter(|&digit| digit < 10)?;
        Some(sum * 10 + i64::from(digit))
    })?;
    i32::try_from(sign * magnitude).ok()
}

/// A signed number of 64 bits, read the same way.
pub fn signed64(word: &[u8]) -> Option<i64> {
    match word {
        [b'+', ..] => None,
        b"-" => Some(0),
        _ => num::parse_i64(word),
    }
}

/// A fraction in decimal. What C's `strtod` reads besides (hexadecimal) is not taken.
fn fraction(word: &[u8]) -> Option<f64> {
    if word.is_empty() || word.len() > FRACTION_MAX {
        return None;
    }
    // strtod skips white space in front, and stops at some.
    let word = word.trim_ascii_start();
    let end = word.iter().position(u8::is_ascii_whitespace).unwrap_or(word.len());
    let number: f64 = std::str::from_utf8(&word[..end]).ok()?.parse().ok()?;
    let given_infinite = word.iter().any(|byte| byte.eq_ignore_ascii_case(&b'n'));
    (number.is_finite() || given_infinite).then_some(number)
}

const ERROR: Reject = Reject::line(reject::ERROR);
const BAD_FORMAT: Reject = Reject::line(reject::BAD_FORMAT);

/// Understands a line whose first word is one of ours. A refusal is to be answered unless
/// [`is_noreply`].
pub fn parse(line: &[u8]) -> Result<Admin<'_>, Reject> {
    let line = Line::cut(line);
    match line.get(0) {
        b"slabs" => slabs(&line),
        b"lru" => lru(&line),
        b"lru_crawler" => lru_crawler(&line),
        b"cache_memlimit" => memlimit(&line),
        _ => Err(ERROR),
    }
}

fn slabs<'a>(line: &Line<'a>) -> Result<Admin<'a>, Reject> {
    if line.count == 4 && line.is(1, b"reassign") {
        return match (signed32(line.get(2)), signed32(line.get(3))) {
            (Some(src), Some(dst)) => Ok(Admin::SlabsReassign { src, dst }),
            _ => Err(BAD_FORMAT),
        };
    }
    if line.count < 3 || !line.is(1, b"automove") {
        return Err(ERROR);
    }
    let ratio = || fraction(line.get(3)).ok_or(ERROR);
    if line.is(2, b"ratio") {
        ratio().map(Admin::AutomoveRatio)
    } else if line.is(2, b"freeratio") {
        ratio().map(Admin::AutomoveFreeratio)
    } else if line.is(2, b"window") {
        let window = line.number(3).ok_or(BAD_FORMAT)?;
        if !WINDOW.contains(&window) {
            return Err(Reject::line(reject::BAD_WINDOW));
        }
        Ok(Admin::AutomoveWindow(window))
    } else {
        match line.number(2).ok_or(BAD_FORMAT)? {
            level @ 0..=2 => Ok(Admin::SlabsAutomove(level)),
            _ => Err(ERROR),
        }
    }
}

fn lru<'a>(line: &Line<'a>) -> Result<Admin<'a>, Reject> {
    if line.count >= 6 && line.is(1, b"tune") {
        let numbers = (line.number(2), line.number(3));
        let factors = (fraction(line.get(4)), fraction(line.get(5)));
        let ((Some(hot_pct), Some(warm_pct)), (Some(hot_factor), Some(warm_factor))) =
            (numbers, factors)
        else {
            return Err(ERROR);
        };
        if u64::from(hot_pct) + u64::from(warm_pct) > HOT_WARM_MAX {
            return Err(Reject::line(reject::BAD_LRU_SHARES));
        }
        if hot_factor <= 0.0 || warm_factor <= 0.0 {
            return Err(Reject::line(reject::BAD_LRU_FACTORS));
        }
        return Ok(Admin::LruTune { hot_pct, warm_pct, hot_factor, warm_factor });
    }
    if line.count >= 3 && line.is(1, b"mode") {
        return match () {
            () if line.is(2, b"flat") => Ok(Admin::LruSegmented(false)),
            () if line.is(2, b"segmented") => Ok(Admin::LruSegmented(true)),
            () => Err(ERROR),
        };
    }
    if line.count >= 3 && line.is(1, b"temp_ttl") {
        let ttl = signed32(line.get(2)).ok_or(ERROR)?;
        return Ok(Admin::LruTempTtl(u32::try_from(ttl).ok()));
    }
    Err(ERROR)
}

fn lru_crawler<'a>(line: &Line<'a>) -> Result<Admin<'a>, Reject> {
    let classes = line.get(2);
    match line.count {
        3 if line.is(1, b"crawl") => Ok(Admin::Crawl(classes)),
        3 if line.is(1, b"metadump") => Ok(Admin::Metadump(classes)),
        3 if line.is(1, b"mgdump") => Ok(Admin::Mgdump(classes)),
        3 if line.is(1, b"tocrawl") => line.number(2).map(Admin::CrawlerTocrawl).ok_or(BAD_FORMAT),
        3 if line.is(1, b"sleep") => match line.number(2) {
            None => Err(BAD_FORMAT),
            Some(sleep) if sleep > SLEEP_MAX => Err(Reject::line(reject::BAD_SLEEP)),
            Some(sleep) => Ok(Admin::CrawlerSleep(sleep)),
        },
        2 if line.is(1, b"enable") => Ok(Admin::Crawler(true)),
        2 if line.is(1, b"disable") => Ok(Admin::Crawler(false)),
        _ => Err(ERROR),
    }
}

fn memlimit<'a>(line: &Line<'a>) -> Result<Admin<'a>, Reject> {
    match line.number(1).ok_or(ERROR)? {
        0..MEMLIMIT_MIN => Err(Reject::line(reject::MEMLIMIT_TOO_SMALL)),
        megabytes @ MEMLIMIT_MIN..=MEMLIMIT_MAX => Ok(Admin::Memlimit(megabytes)),
        _ => Err(Reject::line(reject::MEMLIMIT_NOT_BYTES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_be_cut_short_and_numbers_are_digits() {
        assert_eq!(parse(b"lru_crawler m all"), Ok(Admin::Metadump(b"all")));
        assert_eq!(parse(b"lru_crawler mg 1,2"), Ok(Admin::Mgdump(b"1,2")));
        assert_eq!(parse(b"lru_crawler metadumps all"), Err(ERROR));
        assert_eq!(parse(b"lru mode f"), Ok(Admin::LruSegmented(false)));
        assert_eq!(parse(b"lru mode flats"), Err(ERROR));
        assert_eq!(parse(b"slabs a 3"), Err(ERROR));
        assert_eq!(parse(b"slabs automove +1"), Err(BAD_FORMAT));
        assert_eq!(parse(b"slabs reassign -1 2"), Ok(Admin::SlabsReassign { src: -1, dst: 2 }));
        assert_eq!(parse(b"slabs reassign 1"), Err(ERROR));
        assert_eq!(parse(b"slabs automove ratio 0.5 x"), Ok(Admin::AutomoveRatio(0.5)));
        assert_eq!(parse(b"lru temp_ttl -5"), Ok(Admin::LruTempTtl(None)));
        assert_eq!(parse(b"lru_crawler enable now"), Err(ERROR));
        for (word, number) in [
            (&b"4294967295"[..], Some(u32::MAX)),
            (b"4294967296", None),
            (b"000000000001", None),
            (b"0000000001", Some(1)),
            (b"", None),
            (b"1 ", None),
        ] {
            assert_eq!(unsigned32(word), number, "{}", word.escape_ascii());
        }
        assert_eq!(signed32(b"-2147483648"), Some(i32::MIN));
        assert_eq!(signed32(b"2147483648"), None);
        assert_eq!(signed32(b"-"), Some(0));
        assert_eq!((signed64(b"+1"), signed64(b"-1")), (None, Some(-1)));
    }

    #[test]
    fn a_line_that_ends_with_noreply_is_quiet() {
        assert!(is_noreply(b"lru_crawler enable noreply"));
        assert!(is_noreply(b"lru mode flat a b c d e f g noreply  "));
        assert!(!is_noreply(b"lru_crawler noreply x"));
        assert!(!is_noreply(b"lru_crawler xnoreply"));
    }

    #[test]
    fn memory_is_in_megabytes() {
        assert_eq!(parse(b"cache_memlimit 8"), Ok(Admin::Memlimit(8)));
        assert_eq!(parse(b"cache_memlimit 7"), Err(Reject::line(reject::MEMLIMIT_TOO_SMALL)));
        assert_eq!(
            parse(b"cache_memlimit 1073741824"),
            Err(Reject::line(reject::MEMLIMIT_NOT_BYTES))
        );
        assert_eq!(parse(b"cache_memlimit"), Err(ERROR));
    }
}
