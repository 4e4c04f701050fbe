//! What `stats` shows of figures that several workers wrote.

use super::super::config::{Config, Place, ServerAddr};
use super::*;

fn routes(servers: &[&[u16]], backups: &[u16]) -> Routes {
    let addr = |&port: &u16| ServerAddr::tcp("10.0.0.1", port);
    let group = |ports: &&[u16]| Place { members: ports.iter().map(addr).collect() };
    Routes::new(&Config {
        servers: servers.iter().map(group).collect(),
        backups: backups.iter().map(|port| addr(port).into()).collect(),
        ..Config::default()
    })
}

fn endpoint(port: u16) -> Endpoint {
    ServerAddr::tcp("10.0.0.1", port).endpoint
}

fn text(show: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
    let mut out = Vec::new();
    show(&mut out);
    let text = String::from_utf8(out).expect("text");
    assert!(text.is_empty() || text.ends_with("\r\n"));
    text.split("\r\n").map(str::to_owned).collect()
}

fn has(lines: &[String], line: &str) {
    assert!(lines.iter().any(|l| l == line), "{line} is not in {lines:#?}");
}

#[test]
fn workers_are_summed_and_reset_together() {
    let figures = Figures::new(2);
    let (a, b) = (figures.worker(0), figures.worker(1));
    a.cmd_get.add(5);
    b.cmd_get.add(7);
    a.curr_connections.add(3);
    a.curr_connections.sub(1);
    let now = Now { unix_us: 1_700_000_000_000_000, mono_us: 65_000_000 };
    let lines = text(|out| figures.stats(out, now, &routes(&[&[1]], &[])));
    for line in [
        "STAT uptime 65",
        "STAT time 1700000000",
        "STAT threads 2",
        "STAT cmd_get 12",
        "STAT curr_connections 2",
    ] {
        has(&lines, line);
    }
    figures.reset();
    b.cmd_get.add(1);
    let lines = text(|out| figures.stats(out, now, &routes(&[&[1]], &[])));
    has(&lines, "STAT cmd_get 1");
    has(&lines, "STAT curr_connections 2");
}

#[test]
fn servers_in_their_order_with_the_worst_state_that_is_seen() {
    let figures = Figures::new(2);
    let routes_1 = routes(&[&[1], &[2, 3]], &[1]);
    let one = figures.server(0, false, &endpoint(1));
    let one_too = figures.server(1, false, &endpoint(1));
    let backup = figures.server(0, true, &endpoint(1));
    let member = figures.server(1, false, &endpoint(3));
    one.requests.add(10);
    one_too.requests.add(1);
    backup.requests.add(100);
    one.latency.took(10);
    one_too.latency.took(30);
    let at = |secs: u64| Now { unix_us: 0, mono_us: secs * 1_000_000 };
    one.turned(at(1), State::Up);
    one_too.turned(at(5), State::Down);
    member.cold.set(1);
    let lines = text(|out| figures.servers(out, at(9), &routes_1));
    for line in [
        "STAT server:1:name 10.0.0.1:1",
        "STAT server:1:state down",
        "STAT server:1:state_seconds 4",
        "STAT server:1:requests 11",
        "STAT server:1:latency_p50_us 10",
        "STAT server:1:latency_max_us 30",
        "STAT server:2.1:name 10.0.0.1:2",
        "STAT server:2.2:state cold",
        "STAT backup:1:requests 100",
    ] {
        has(&lines, line);
    }
    let names: Vec<&String> = lines.iter().filter(|line| line.contains(":name ")).collect();
    assert_eq!(names.len(), 4);
    assert!(names[3].starts_with("STAT backup:1:"));
    has(&text(|out| figures.stats(out, at(9), &routes_1)), "STAT servers_up 1");

    // What some worker knows keeps its figures, and what nobody knows is forgotten.
    let routes_2 = routes(&[&[3]], &[1]);
    drop(one);
    figures.sweep();
    assert_eq!(figures.server(0, false, &endpoint(1)).requests.get(), 10);
    drop(one_too);
    figures.sweep();
    assert_eq!(figures.server(0, true, &endpoint(1)).requests.get(), 100);
    assert_eq!(figures.server(0, false, &endpoint(1)).requests.get(), 0);
    let lines = text(|out| figures.servers(out, at(9), &routes_2));
    has(&lines, "STAT server:1:name 10.0.0.1:3");
    figures.reset();
    backup.requests.add(1);
    let lines = text(|out| figures.servers(out, at(9), &routes_2));
    has(&lines, "STAT backup:1:requests 1");
    has(&lines, "STAT backup:1:latency_max_us 0");
}
