//! Nodes whose log cannot be written: a full disk, `/dev/full`, a closed standard error.
//!
//! The full disk is a small file system in the mount namespace of the node alone: it goes with the
//! process.

use crate::common::{eventually, Scratch};
use crate::compare::{await_equal, nothing_is_missing};
use crate::lab::Lab;
use crate::load::trickle;
use std::io::Write;

const TIMEOUT: &str = "repl_timeout=1500ms";

#[test]
fn a_full_disk_of_the_log_stops_nobody() {
    let Some(lab) = Lab::new(2) else { return };
    let folder = Scratch::new("full-disk");
    let (dir, log) = (folder.path("."), folder.path("log"));
    let mount = format!("mount -t tmpfs -o size=16k none {dir} && exec \"$@\"");
    // Everything that a client says is logged: the log grows as fast as clients speak.
    let first = lab.start_in(
        0,
        &[Lab::address(1).to_string()],
        &["-vv", "-o", &format!("{TIMEOUT},log_file={log}")],
        &mount,
    );
    first.await_port();
    let seen = |path: &str| format!("/proc/{}/root{path}", first.node.child.id());
    assert!(std::path::Path::new(&seen(&log)).exists(), "the log is on the small disk");
    // Fill what is left of it.
    if let Ok(mut rest) = std::fs::File::create(seen(&folder.path("rest"))) {
        while rest.write_all(&[0; 512]).is_ok() {}
    }
    let shell = "exec \"$@\" 2>&-";
    let second = lab.start_in(
        1,
        &[Lab::address(0).to_string()],
        &["-vv", "-o", &format!("{TIMEOUT},log_file=/dev/full")],
        shell,
    );
    second.await_port();
    first.await_linked(1);
    let writers = [trickle(&first, "a", 50), trickle(&second, "b", 50)];
    writers[0].await_done(2000);
    lab.unplug(1);
    first.await_fewer(1);
    lab.replug(1);
    first.await_linked(1);
    let told = writers.map(|writer| writer.stop());
    let content = await_equal(&[&first, &second]);
    nothing_is_missing(&content, &told, 50);
    assert!(std::fs::metadata(seen(&log)).expect("a log").len() <= 16 * 1024);
    // There is room again: the log goes on where it ended.
    std::fs::remove_file(seen(&folder.path("rest"))).expect("removed");
    assert_eq!(first.client().ask("verbosity 2"), "OK");
    eventually("the log goes on", || {
        let text = std::fs::read(seen(&log)).expect("a log");
        String::from_utf8_lossy(&text).contains("verbosity").then_some(())
    });
}
