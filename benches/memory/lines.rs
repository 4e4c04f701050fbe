//! The lines of the memory bench: what is done to a server for each, and what is to be reached.
//!
//! Owns the goals. Each line does the same to ours and to the peer, one after the other.

use crate::common::client::Client;
use crate::common::figures::{median, Goal};
use crate::common::probe::{Probe, Waits};
use crate::common::server::Server;
use crate::items::{never, Kind};
use crate::options::Options;
use crate::table::Row;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// `-m` of an idle server.
const IDLE_MB: u32 = 64;
/// Servers started to see how large an idle one is, and how long they may settle.
const IDLE_STARTS: usize = 5;
const SETTLE: Duration = Duration::from_secs(1);
/// A fill looks for evictions after each such share of `-m`.
const LOOK: u64 = 500;
/// Every so manieth item is read back where the first eviction is sought.
const SAMPLE: usize = 4;
/// Items may be missing that nobody said were evicted: this share, and the count is not believed.
const UNSAID: f64 = 0.01;
/// `-m` that counts as used by the index and everything else: this share of it and so many bytes.
const RESIDENT: (f64, f64) = (1.05, 8.0);
/// How long expired items may stay, and how long they are waited for.
const GIVEN_BACK: f64 = 10.0;
const EXPIRED_WAIT: Duration = Duration::from_secs(20);
/// How long after the fill began half of it expires: the fill and the quiet time are shorter.
const LIFETIME: u64 = 12;
/// Most milliseconds that the slowest thousandth of requests may wait longer than when idle.
const LATER_MS: f64 = 1.0;
/// Keys that the clients who wait ask for.
const PROBED: u64 = 1000;
/// Bytes of the stripped program.
const PROGRAM: f64 = 2e6;

/// Bytes of keys and values that fill `share` times `-m`, as a number of items.
fn items(megabytes: u32, share: f64, item: usize) -> u64 {
    (f64::from(megabytes) * f64::from(1 << 20) * share / item as f64) as u64
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Items of which `-m` is full when the first goes, and resident memory then.
pub fn held(options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
    let kinds = [
        ("key 20 value 50", Kind { key: 20, value: |_| 50, exptime: never }, 1.6),
        ("key 40 value 300", Kind { key: 40, value: |_| 300, exptime: never }, 1.3),
        ("key 32 value 10000", Kind { key: 32, value: |_| 10_000, exptime: never }, 1.08),
    ];
    for (name, kind, goal) in kinds {
        let name = format!("items in -m {}, {name}", options.held_mb);
        if !name.contains(&options.only) {
            continue;
        }
        eprintln!("{name} ...");
        let [ours, peer] = options.both(|command| until_eviction(command, &kind, options))?;
        rows.push(Row::ratio(&name, [ours.0, peer.0], Goal::AtLeast(goal)));
        let most = RESIDENT.0 * f64::from(options.held_mb) + RESIDENT.1;
        rows.push(Row::own("  resident MiB then", [ours.1, peer.1], Goal::AtMost(most)));
    }
    Ok(())
}

/// Items before the first eviction, and MiB resident at that point.
fn until_eviction(command: &str, kind: &Kind, options: &Options) -> Result<(f64, f64), String> {
    let server = Server::start(command, options.held_mb, options.threads)?;
    let mut client = Client::connect(server.port)?;
    let item = kind.key + (kind.value)(0);
    let step = (items(options.held_mb, 1.0, item) / LOOK).max(1);
    let most = items(options.held_mb, 1.5, item);
    let mut sent = 0;
    while sent < most {
        kind.set(&mut client, sent, sent + step, 0)?;
        if server.stat("evictions")? > 0 {
            let resident = mib(server.resident()?);
            let asked = (sent + step).div_ceil(SAMPLE as u64);
            let there = kind.count(&server, 0, sent + step, SAMPLE)?;
            let missing = (asked - there) as f64 * SAMPLE as f64;
            // Said afterwards: more may have gone while we were reading.
            let said = server.stat("evictions")? as f64;
            let unsaid = missing - said > UNSAID * sent as f64;
            let held = if unsaid { there * SAMPLE as u64 } else { sent };
            return Ok((held as f64, resident));
        }
        sent += step;
    }
    Err(format!("no eviction after {most} items"))
}

/// Resident memory of a server that has nothing to do.
pub fn idle(options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
    for threads in [1, options.threads] {
        let name = format!("idle at -m {IDLE_MB}, {threads} workers, resident MiB");
        if !name.contains(&options.only) {
            continue;
        }
        eprintln!("{name} ...");
        let resident = options.both(|command| {
            let start = |_| Server::start(command, IDLE_MB, threads);
            let servers = (0..IDLE_STARTS).map(start).collect::<Result<Vec<_>, _>>()?;
            std::thread::sleep(SETTLE);
            let each = servers.iter().map(|server| server.resident().map(mib));
            Ok(median(each.collect::<Result<Vec<_>, _>>()?))
        })?;
        rows.push(Row::ratio(&name, resident, Goal::AtMost(1.0)));
    }
    Ok(())
}

/// All small values, then all larger ones, then both: what of the last is held beside a fresh start
/// with only them.
pub fn sizes(options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
    let name = format!("sizes change in -m {}: items held / fresh", options.sizes_mb);
    if !name.contains(&options.only) {
        return Ok(());
    }
    eprintln!("{name} ...");
    let kind = |value| Kind { key: 32, value, exptime: never };
    let small = kind(|_| 100);
    let large = kind(|_| 900);
    let mixed = kind(|n| if crate::common::requests::mix(n) & 1 == 0 { 100 } else { 900 });
    let count = |share, item| items(options.sizes_mb, share, item);
    // Full and evicting for a good while, each time; each kind has keys of its own.
    let before = [(small, count(1.5, 132)), (large, count(1.5, 932))];
    let last = count(2.5, 532);
    let both = options.both(|command| {
        let mut held = [(0.0, 0.0); 2];
        for (changed, held) in [true, false].into_iter().zip(&mut held) {
            let server = Server::start(command, options.sizes_mb, options.threads)?;
            let mut client = Client::connect(server.port)?;
            let mut first = 0;
            for (kind, items) in before.iter().filter(|_| changed) {
                fill(kind, &mut client, first, first + items)?;
                first += items;
            }
            let first: u64 = before.iter().map(|(_, items)| items).sum();
            fill(&mixed, &mut client, first, first + last)?;
            let there = mixed.count(&server, first, first + last, 1)?;
            *held = (there as f64, server.stat("curr_items")? as f64);
        }
        let [after, fresh] = held;
        Ok((after.0 / fresh.0, after.1 / fresh.1))
    })?;
    let goal = Goal::AtLeast(0.97);
    rows.push(Row::own(&name, both.map(|(there, _)| there), goal));
    rows.push(Row::own("  the same by curr_items", both.map(|(_, stat)| stat), goal));
    Ok(())
}

/// Sets items in portions that do not burden the machine.
fn fill(kind: &Kind, client: &mut Client, from: u64, to: u64) -> Result<(), String> {
    fill_until(kind, client, from, to, 0)
}

fn fill_until(
    kind: &Kind,
    client: &mut Client,
    from: u64,
    to: u64,
    exptime: u64,
) -> Result<(), String> {
    (from..to)
        .step_by(50_000)
        .try_for_each(|first| kind.set(client, first, (first + 50_000).min(to), exptime))
}

/// What one server did when half of its items expired.
struct Expired {
    seconds: f64,
    resident: [f64; 2],
    waits: [Waits; 2],
}

/// Half of the items expire, and nobody ever asks for them.
pub fn expire(options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
    let name = format!("half of -m {} expires: seconds until it is back", options.expire_mb);
    if !name.contains(&options.only) {
        return Ok(());
    }
    eprintln!("{name} ...");
    let both = options.both(|command| expire_one(command, options))?;
    let each = |figure: fn(&Expired) -> f64| [figure(&both[0]), figure(&both[1])];
    rows.push(Row::own(&name, each(|e| e.seconds), Goal::AtMost(GIVEN_BACK)));
    rows.push(Row::told("  resident MiB before", each(|e| e.resident[0])));
    rows.push(Row::told("  resident MiB after", each(|e| e.resident[1])));
    let later = |share| move |e: &Expired| e.waits[1].ms(share) - e.waits[0].ms(share);
    let waits = |share| [later(share)(&both[0]), later(share)(&both[1])];
    rows.push(Row::own("  p99.9 more than idle, ms", waits(0.999), Goal::AtMost(LATER_MS)));
    rows.push(Row::told("  worst wait while idle, ms", each(|e| e.waits[0].ms(1.0))));
    rows.push(Row::told("  worst wait meanwhile, ms", each(|e| e.waits[1].ms(1.0))));
    Ok(())
}

fn expire_one(command: &str, options: &Options) -> Result<Expired, String> {
    let server = Server::start(command, options.expire_mb, options.threads)?;
    let mut client = Client::connect(server.port)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    let end = Instant::now() + Duration::from_secs(LIFETIME)
        - Duration::from_nanos(u64::from(now.subsec_nanos()));
    let half = Kind { key: 32, value: |_| 100, exptime: |n, time| time * (n % 2) };
    // Half of what fits where an item costs half as much again as its bytes.
    let count = items(options.expire_mb, 0.5, 132);
    fill_until(&half, &mut client, 0, count, now.as_secs() + LIFETIME)?;
    let before = [server.stat("curr_items")?, server.stat("bytes")?];
    let resident = mib(server.resident()?);
    let quiet = end.saturating_duration_since(Instant::now());
    if before[0] < count || quiet < Duration::from_secs(1) {
        return Err("the server is too slow to be filled before the first items expire".to_owned());
    }
    let probe = Probe::start(server.port, PROBED);
    std::thread::sleep(quiet);
    let idle = probe.stop()?;
    let probe = Probe::start(server.port, PROBED);
    let began = Instant::now();
    let mut seconds = f64::INFINITY;
    while began.elapsed() < EXPIRED_WAIT {
        let now = [server.stat("curr_items")?, server.stat("bytes")?];
        // The clients who wait have set some items of their own.
        if now.iter().zip(before).all(|(&now, before)| now <= before / 2 + before / 50 + PROBED) {
            seconds = began.elapsed().as_secs_f64();
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // As long as it may take, whoever was faster.
    std::thread::sleep(Duration::from_secs_f64(GIVEN_BACK).saturating_sub(began.elapsed()));
    let after = mib(server.resident()?);
    Ok(Expired { seconds, resident: [resident, after], waits: [idle, probe.stop()?] })
}

/// The program without its symbols.
pub fn program(options: &Options, rows: &mut Vec<Row>) -> Result<(), String> {
    let name = "the stripped program, bytes";
    if !name.contains(&options.only) {
        return Ok(());
    }
    let sizes = options.both(|command| {
        let program = command.split_whitespace().next().unwrap_or_default();
        let path = std::env::temp_dir().join(format!("stripped-{}", std::process::id()));
        let found = std::env::var_os("PATH").and_then(|paths| {
            std::env::split_paths(&paths).map(|path| path.join(program)).find(|p| p.is_file())
        });
        let mut strip = std::process::Command::new("strip");
        strip.arg("-o").arg(&path).arg(found.unwrap_or_else(|| program.into()));
        let made = strip.status().map_err(|error| format!("strip: {error}"))?.success();
        let size = std::fs::metadata(&path).map_err(|error| format!("strip: {error}"));
        // Where it cannot be removed there was none.
        let _ = std::fs::remove_file(&path);
        if made {
            Ok(size?.len() as f64)
        } else {
            Err(format!("strip fails on {program}"))
        }
    })?;
    rows.push(Row::own(name, sizes, Goal::AtMost(PROGRAM)));
    Ok(())
}
