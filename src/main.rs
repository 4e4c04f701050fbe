//! The program: the command line decides what runs, and this is the only place that exits.

use std::io::{ErrorKind, Write};
use std::process::exit;

use twincached::cli::{self, Command};
use twincached::platform::EX_OSERR;
use twincached::{demo, proxy, server, verify};

fn main() {
    let status = match cli::parse(std::env::args_os()) {
        Command::Server(config) => server::run::run(*config),
        Command::Proxy(config) => proxy::run::run(*config),
        Command::Where { config, keys } => {
            let (output, errors) = (std::io::stdout().lock(), std::io::stderr());
            proxy::lookup::run(&config, &keys, std::io::stdin().lock(), output, errors)
        }
        Command::Verify(config) => verify::run(&config),
        Command::Demo(config) => demo::run(config),
        Command::Print(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => 0,
            // A reader that has seen enough, as `| head -1` does, is no error.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => 0,
            Err(_) => EX_OSERR,
        },
        Command::Usage { line, status } => {
            // Where standard error is closed there is nowhere to say it; the status still does.
            let _ = writeln!(std::io::stderr(), "{line}");
            status
        }
    };
    exit(status);
}
