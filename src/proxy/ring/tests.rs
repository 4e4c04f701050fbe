//! Where other programs were seen to put keys, row by row, and what moves when a list changes.

use super::*;
use crate::proxy::config::HashName;
use crate::proxy::places;
use std::collections::HashMap;

fn addrs(list: &str, separator: &str) -> Vec<ServerAddr> {
    let one = |text: &str| places::place("-s", text).expect(text).first().clone();
    list.split(separator).map(one).collect()
}

fn distribution(word: &str) -> Distribution {
    Distribution::ALL.into_iter().find(|one| one.word() == word).expect(word)
}

fn hash_name(distribution: Distribution, word: &str) -> Option<HashName> {
    let found = distribution.hashes().iter().find(|one| one.word() == word);
    Some(*found.unwrap_or_else(|| panic!("{word}")))
}

fn ring(distribution: Distribution, hash: Option<HashName>, servers: &[ServerAddr]) -> Ring {
    Ring::new(&Config { distribution, hash, ..Config::default() }, servers)
}

fn plain(distribution: Distribution, servers: &[ServerAddr]) -> Ring {
    ring(distribution, None, servers)
}

#[test]
fn every_row_of_the_magent_vectors() {
    let table = include_str!("../../../tests/vectors/magent.tsv");
    let mut rings: HashMap<&str, (Ring, Ring)> = HashMap::new();
    let mut rows = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (list, key) = (fields[0], fields[1].as_bytes());
        let (djb, ketama) = rings.entry(list).or_insert_with(|| {
            let servers = addrs(list, ",");
            (plain(Distribution::Magent, &servers), plain(Distribution::MagentKetama, &servers))
        });
        assert_eq!(djb.pick(key), fields[2].parse().ok(), "{line}");
        assert_eq!(ketama.pick(key), fields[3].parse().ok(), "-k {line}");
        rows += 1;
    }
    assert_eq!(rows, 380, "the whole table was read");
}

#[test]
fn every_row_of_the_libmemcached_vectors() {
    let table = include_str!("../../../tests/vectors/libmemcached.tsv");
    let hosts = "10.0.0.1 10.0.0.2 10.0.0.3:11212 10.0.0.4";
    let weighted = "10.0.0.1:11211:1 10.0.0.2:11211:2 10.0.0.3:11212:3 10.0.0.4:11211:1";
    let mut rings: HashMap<(&str, &str), Ring> = HashMap::new();
    let mut rows = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let key = fields[2].as_bytes();
        let (list, kind) = match fields[0] {
            "ketama_weighted_1231" => (weighted, Distribution::LibmemcachedKetamaWeighted),
            "ketama_weighted" => (hosts, Distribution::LibmemcachedKetamaWeighted),
            other => (hosts, distribution(&format!("libmemcached-{other}"))),
        };
        let name = hash_name(kind, fields[1]);
        let ring = rings
            .entry((fields[0], fields[1]))
            .or_insert_with(|| ring(kind, name, &addrs(list, " ")));
        assert_eq!(ring.pick(key), fields[4].parse().ok(), "{line}");
        assert_eq!(hash::key_hash(kind, name)(key).to_string(), fields[3], "{line}");
        rows += 1;
    }
    assert_eq!(rows, 2090, "the whole table was read");
}

#[test]
fn every_row_of_the_twemproxy_vectors() {
    let table = include_str!("../../../tests/vectors/twemproxy.tsv");
    let list = |names: [&str; 4]| {
        let one = |(name, rest)| format!("{name}127.0.0.1:{rest}");
        let rests = ["22001:1", "22002:1", "22003:2", "22004:1"];
        names.into_iter().zip(rests).map(one).collect::<Vec<_>>().join(" ")
    };
    let mut rings: HashMap<[&str; 3], Ring> = HashMap::new();
    let mut rows = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let names = match fields[2] {
            "named" => ["alpha=", "beta=", "gamma=", "delta="],
            _ => [""; 4],
        };
        let kind = distribution(&format!("twemproxy-{}", fields[0]));
        let ring = rings
            .entry([fields[0], fields[1], fields[2]])
            .or_insert_with(|| ring(kind, hash_name(kind, fields[1]), &addrs(&list(names), " ")));
        assert_eq!(ring.pick(fields[3].as_bytes()), fields[4].parse().ok(), "{line}");
        rows += 1;
    }
    assert_eq!(rows, 2850, "the whole table was read");
}

/// Lists, hashes, tags and keys of bytes that the tables above lack, as nutcracker 0.5 and
/// libmemcached 1.1.4 were seen to place them.
#[test]
fn every_row_of_what_was_observed_elsewhere() {
    let table = include_str!("../../../tests/vectors/observed.tsv");
    let (mut rows, mut lists) = (0, 0);
    let mut now: Option<(Ring, &str)> = None;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        if let [word, hash, tag, list] = fields[..] {
            let kind = distribution(word);
            let tag = tag.as_bytes();
            let config = Config {
                distribution: kind,
                hash: hash_name(kind, hash),
                hash_tag: (tag.len() == 2).then(|| (tag[0], tag[1])),
                ..Config::default()
            };
            now = Some((Ring::new(&config, &addrs(list, " ")), line));
            lists += 1;
            continue;
        }
        let (ring, list) = now.as_ref().expect("a list comes before its keys");
        let key: Vec<u8> = (0..fields[0].len() / 2)
            .map(|at| u8::from_str_radix(&fields[0][at * 2..at * 2 + 2], 16).expect("hex"))
            .collect();
        assert_eq!(ring.pick(&key), fields[1].parse().ok(), "{list}: {line}");
        rows += 1;
    }
    assert!(lists >= 100 && rows >= 1000, "{lists} lists, {rows} rows");
}

#[test]
fn nobody_and_one() {
    for distribution in Distribution::ALL {
        assert_eq!(plain(distribution, &[]).pick(b"k"), None);
        assert_eq!(plain(distribution, &addrs("a:1:1", " ")).pick(b"k"), Some(0));
        let two = plain(distribution, &addrs("a:1 b:1", " "));
        assert!(two.pick(b"k").is_some_and(|index| index < 2) && two.pick(b"").is_some());
    }
}

/// How many of 10,000 keys each of five servers has, and none that needlessly moved when the last
/// went away.
fn shares(distribution: Distribution, list: &str) -> Vec<u32> {
    let five = addrs(list, " ");
    let all = plain(distribution, &five);
    let four = plain(distribution, &five[..4]);
    let mut counts = vec![0; 5];
    for n in 0..10_000 {
        let key = format!("key{n}");
        let before = all.pick(key.as_bytes()).expect("a server");
        counts[before] += 1;
        let after = four.pick(key.as_bytes());
        assert!(before == 4 || after == Some(before), "{distribution:?}: {key} moved needlessly");
    }
    counts
}

#[test]
fn keys_spread_evenly_and_move_little() {
    let five = "10.0.0.1:1 10.0.0.2:1 10.0.0.3:1 10.0.0.4:1 10.0.0.5:1";
    for distribution in [Distribution::MagentKetama, Distribution::Jump, Distribution::Rendezvous] {
        let counts = shares(distribution, five);
        assert!(counts.iter().all(|&count| (1600..2400).contains(&count)), "{counts:?}");
    }
}

#[test]
fn weights_are_shares() {
    let five = "10.0.0.1:1:3 10.0.0.2:1 10.0.0.3:1:2 10.0.0.4:1 10.0.0.5:1:3";
    for distribution in [Distribution::Jump, Distribution::Rendezvous] {
        let counts = shares(distribution, five);
        for (count, weight) in counts.iter().zip([3, 1, 2, 1, 3]) {
            assert!((850 * weight..1150 * weight).contains(count), "{distribution:?} {counts:?}");
        }
    }
}

#[test]
fn rendezvous_knows_no_order() {
    let (here, there) = (addrs("a:1 x=b:1:2 c:1", " "), addrs("c:1 a:1 x=d:9:2", " "));
    let [one, other] = [&here, &there].map(|list| plain(Distribution::Rendezvous, list));
    for n in 0..1000 {
        let key = format!("key{n}");
        let at = |ring: &Ring| ring.pick(key.as_bytes()).expect("a server");
        assert_eq!([1, 2, 0][at(&one)], at(&other), "{key}");
    }
}

/// As in the paper, and in memcached's own proxy: no row of which may ever change.
#[test]
fn jump_is_where_it_was() {
    let buckets = |key| [1, 2, 3, 10, 100, 1000].map(|n| jump(key, n));
    assert_eq!(buckets(0), [0; 6]);
    assert_eq!(jump(10_863_919_174_838_991, 11), 6);
    assert_eq!(jump(2_016_238_256_797_177_309, 11), 3);
    assert_eq!(jump(1_673_758_223_894_951_030, 11), 5);
}

/// What new sites have stored by now. A row may never change.
#[test]
fn new_sites_find_their_keys_again() {
    let alike = "10.0.0.1:11211 10.0.0.2:11211 x=10.0.0.3:5 /run/m.sock";
    let weighted = "10.0.0.1:11211 10.0.0.2:11211:2 x=10.0.0.3:5:3 /run/m.sock";
    for (distribution, list, servers) in [
        (Distribution::Jump, alike, "021213121321300030202003"),
        (Distribution::Rendezvous, alike, "133312220202100333122131"),
        (Distribution::Rendezvous, weighted, "123312221202101333122121"),
    ] {
        let ring = plain(distribution, &addrs(list, " "));
        let place = |n| ring.pick(format!("key{n}").as_bytes()).expect("a server").to_string();
        assert_eq!((1..=24).map(place).collect::<String>(), servers, "{distribution:?} {list}");
    }
}

#[test]
fn hash_tags() {
    let tag = |key: &'static str| tagged(key.as_bytes(), (b'{', b'}'));
    for (key, found) in [
        ("a{b}c", Some("b")),
        ("{b}", Some("b")),
        ("}a{b}{c}", Some("b")),
        ("a{{b}c}", Some("{b")),
        ("a{}c{d}", None),
        ("a{b", None),
        ("ab}", None),
        ("", None),
    ] {
        assert_eq!(tag(key), found.map(str::as_bytes), "{key}");
    }
    assert_eq!(tagged(b"$$a$", (b'$', b'$')), None);
    assert_eq!(tagged(b"x$a$b", (b'$', b'$')), Some(&b"a"[..]));
}
