//! Names that move, vanish and come back, and what the log says about a new list.

use super::*;
use crate::proxy::places::place;

fn config(servers: &[&str], backups: &[&str]) -> Config {
    let places = |list: &[&str]| list.iter().map(|text| place("-s", text).unwrap()).collect();
    Config { servers: places(servers), backups: places(backups), ..Config::default() }
}

/// Port 1 is at one address, port 2 at two in turning order, port 3 nowhere.
fn told(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    let Endpoint::Tcp { port, .. } = endpoint else { return Ok(Vec::new()) };
    let at = |n: u8| SocketAddr::from(([10, 0, 0, n], *port));
    match port {
        1 => Ok(vec![at(1)]),
        2 => Ok(vec![at(2), at(3)]),
        _ => Err(io::Error::other("nowhere")),
    }
}

fn resolver() -> Resolver {
    Resolver { look_up: told, lost: HashSet::new() }
}

fn addrs(list: &[(&str, &[&str])]) -> Addresses {
    let one = |(name, at): &(&str, &[&str])| {
        let endpoint = place("-s", name).unwrap().first().endpoint.clone();
        (endpoint, at.iter().map(|one| one.parse().unwrap()).collect())
    };
    list.iter().map(one).collect()
}

#[test]
fn addresses_are_found_kept_and_replaced() {
    let config = config(&["a:1", "/run/s"], &["b:2,c:3"]);
    let why = resolver().addresses(&config, &Addresses::new()).unwrap_err();
    assert_eq!(why, "cannot resolve c:3: nowhere");
    let mut resolver = resolver();
    // One has moved, one is shuffled, one cannot be found any more.
    let old = addrs(&[
        ("a:1", &["10.9.9.9:1"]),
        ("b:2", &["10.0.0.3:2", "10.0.0.2:2"]),
        ("c:3", &["10.0.0.4:3"]),
    ]);
    let new = resolver.addresses(&config, &old).unwrap();
    let expected = addrs(&[
        ("a:1", &["10.0.0.1:1"]),
        ("/run/s", &[]),
        ("b:2", &["10.0.0.3:2", "10.0.0.2:2"]),
        ("c:3", &["10.0.0.4:3"]),
    ]);
    assert_eq!(new, expected);
    assert_eq!(resolver.lost.len(), 1);
    // What is not in the list any more is not remembered.
    resolver.addresses(&self::config(&["a:1"], &[]), &old).unwrap();
    assert!(resolver.lost.is_empty());
}

#[test]
fn a_setup_is_made_only_where_something_is_new() {
    let config = Arc::new(config(&["a:1"], &["b:2"]));
    let setup = |addrs| Arc::new(Setup { routes: Arc::new(Routes::new(&config)), addrs });
    let known = [("a:1", &["10.0.0.1:1"][..]), ("b:2", &["10.0.0.2:2", "10.0.0.3:2"])];
    let old = setup(addrs(&known));
    let job = |old: &Arc<Setup>, other_places| Job {
        config: Arc::clone(&config),
        old: Arc::clone(old),
        other_places,
    };
    let same = resolver().work(&job(&old, false)).unwrap();
    assert!(Arc::ptr_eq(&same, &old));
    let moved = setup(addrs(&[("a:1", &["10.0.0.9:1"]), known[1]]));
    let new = resolver().work(&job(&moved, false)).unwrap();
    assert!(Arc::ptr_eq(&new.routes, &moved.routes) && new.addrs == old.addrs);
    let other = resolver().work(&job(&old, true)).unwrap();
    assert!(!Arc::ptr_eq(&other.routes, &old.routes));
}

#[test]
fn the_log_names_what_changed() {
    let old = config(&["a:1", "b:2", "b:2"], &["c:3"]);
    let said = |servers: &[&str], backups: &[&str]| changes(&old, &config(servers, backups));
    assert_eq!(said(&["b:2", "a:1", "b:2"], &["c:3"]), "the servers have another order");
    assert_eq!(said(&["a:1", "b:2"], &["c:3"]), "removed server b:2");
    assert_eq!(
        said(&["a:1", "b:2", "b:2:5", "n=d:4"], &[]),
        "added server b:2 weight 5, added server n=d:4, removed server b:2, removed backup c:3"
    );
    let many: Vec<String> = (0..50).map(|n| format!("h{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let text = changes(&old, &config(&many, &["c:3"]));
    assert!(text.contains("added server h19") && text.ends_with(", and 33 more changes"), "{text}");
}
