//! The program: the command line decides what runs, and this is the only place that exits.

use std::process::exit;

use twincached::cli::{self, Command};
use twincached::platform::EX_USAGE;
use twincached::{demo, server};

fn main() {
    let status = match cli::parse(std::env::args_os()) {
        Command::Server(config) => server::run::run(*config),
        Command::Proxy(_) => 1,
        Command::Demo(config) => demo::run(config),
        Command::Print(text) => {
            print!("{text}");
            0
        }
        Command::Usage(line) => {
            eprintln!("{line}");
            EX_USAGE
        }
    };
    exit(status);
}
