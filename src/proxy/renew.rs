//! Other servers, or other addresses of them, while the proxy runs.
//!
//! Owns the servers file after the start (SIGHUP, and a look at it every second), the looking up of
//! names, and what the log hears of both. Names are looked up by a thread of its own: a name server
//! that does not answer keeps nobody waiting. Never touches a worker: what is new is handed out as
//! a [`Setup`].
//!
//! ```text
//!   SIGHUP, a changed file --load--> Config --+
//!   every resolve_interval ------------------>+--Job--> thread: look up, make rings
//!                                                          |
//!   workers <--Reload-- main thread <--take()--- Found <---+  (wakes the main thread's poll)
//! ```

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Waker;

use super::config::{Config, Endpoint, Place};
use super::route::Routes;
use super::servers_file::{self, Look, Watch};
use super::worker::{Addresses, Setup};
use crate::base::address::Address;
use crate::net::listen::{self, plain};

/// Between two looks at the servers file. A look is one `stat`.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Addresses of one name that are kept: a request fails over to the backup before more are tried.
const ADDRESSES_MAX: usize = 16;
/// Servers that the log names after a reload.
const NAMED_MAX: usize = 20;

/// What looks a name up.
type LookUp = fn(&Endpoint) -> io::Result<Vec<SocketAddr>>;

/// All addresses of a server, in the resolver's order; none of a unix socket.
fn look_up(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    let Endpoint::Tcp { host, port } = endpoint else { return Ok(Vec::new()) };
    let address = Address { host: host.clone(), port: Some(*port) };
    let mut found = listen::resolve(&address, *port)?;
    found.truncate(ADDRESSES_MAX);
    match found.is_empty() {
        true => Err(io::Error::other("it has no address")),
        false => Ok(found),
    }
}

fn is_name(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Tcp { host, .. } if host.parse::<IpAddr>().is_err())
}

fn endpoints(config: &Config) -> impl Iterator<Item = &Endpoint> {
    let places = config.servers.iter().chain(&config.backups);
    places.flat_map(|place| &place.members).map(|member| &member.endpoint)
}

/// The setup that a proxy starts with. May ask name servers.
///
/// # Errors
/// A sentence: a name cannot be resolved.
pub fn first_setup(config: &Config) -> Result<Setup, String> {
    let addrs = Resolver { look_up, lost: HashSet::new() }.addresses(config, &Addresses::new())?;
    Ok(Setup { routes: Arc::new(Routes::new(config)), addrs })
}

/// Looks names up, and remembers which of them could not be found the last time.
struct Resolver {
    look_up: LookUp,
    lost: HashSet<Endpoint>,
}

impl Resolver {
    /// The addresses of every server. One that cannot be found any more keeps those it had.
    fn addresses(&mut self, config: &Config, old: &Addresses) -> Result<Addresses, String> {
        let mut addrs = Addresses::new();
        for endpoint in endpoints(config) {
            if !addrs.contains_key(endpoint) {
                let found = self.address(endpoint, old.get(endpoint))?;
                addrs.insert(endpoint.clone(), found);
            }
        }
        self.lost.retain(|endpoint| addrs.contains_key(endpoint));
        Ok(addrs)
    }

    fn address(
        &mut self,
        endpoint: &Endpoint,
        old: Option<&Vec<SocketAddr>>,
    ) -> Result<Vec<SocketAddr>, String> {
        match ((self.look_up)(endpoint), old) {
            (Ok(found), old) => {
                if self.lost.remove(endpoint) {
                    log::warn!("proxy: {endpoint} can be resolved again");
                }
                let Some(old) = old else { return Ok(found) };
                // Name servers shuffle their answers.
                let same = found.len() == old.len() && found.iter().all(|one| old.contains(one));
                if same {
                    return Ok(old.clone());
                }
                let shown: Vec<String> = found.iter().map(SocketAddr::to_string).collect();
                log::warn!("proxy: {endpoint} is at {} now", shown.join(", "));
                Ok(found)
            }
            (Err(error), Some(old)) => {
                if self.lost.insert(endpoint.clone()) {
                    let why = plain(&error);
                    log::warn!("proxy: cannot resolve {endpoint}: {why}; its addresses stay");
                }
                Ok(old.clone())
            }
            (Err(error), None) => Err(format!("cannot resolve {endpoint}: {}", plain(&error))),
        }
    }

    fn work(&mut self, job: &Job) -> Result<Arc<Setup>, String> {
        let addrs = self.addresses(&job.config, &job.old.addrs)?;
        if !job.other_places && addrs == job.old.addrs {
            return Ok(Arc::clone(&job.old));
        }
        let routes = match job.other_places {
            true => Arc::new(Routes::new(&job.config)),
            false => Arc::clone(&job.old.routes),
        };
        Ok(Arc::new(Setup { routes, addrs }))
    }
}

/// What the thread is to find.
struct Job {
    config: Arc<Config>,
    old: Arc<Setup>,
    /// `config` is not the one that `old` was made from.
    other_places: bool,
}

/// What it found: the same `old` where nothing is new.
struct Found {
    config: Arc<Config>,
    setup: Result<Arc<Setup>, String>,
}

/// What is in force, what is wanted, and when to look next.
pub struct Renewal {
    /// What the command line says, without the file.
    base: Config,
    current: Arc<Config>,
    setup: Arc<Setup>,
    /// Read, but its names are not looked up yet.
    wanted: Option<Arc<Config>>,
    file: Option<(PathBuf, Watch)>,
    look_at: Option<Instant>,
    resolve_at: Option<Instant>,
    waker: Arc<Waker>,
    /// To and from the thread, once there is one.
    thread: Option<(Sender<Job>, Receiver<Found>)>,
    /// It has a job; and whether another one came meanwhile.
    busy: bool,
    again: bool,
}

impl Renewal {
    /// `base` is the command line's configuration and `look` what its file looked like before it
    /// was read into `current`, of which `setup` was made. `waker` wakes who calls [`Self::take`].
    pub fn new(
        base: Config,
        look: Option<Look>,
        current: Config,
        setup: Arc<Setup>,
        waker: Arc<Waker>,
        now: Instant,
    ) -> Renewal {
        let file = base.servers_file.clone().zip(look.map(Watch::new));
        let mut renewal = Renewal {
            base,
            current: Arc::new(current),
            setup,
            wanted: None,
            look_at: file.is_some().then(|| now + LOOK_EVERY),
            file,
            resolve_at: None,
            waker,
            thread: None,
            busy: false,
            again: false,
        };
        renewal.plan_resolving(now);
        renewal
    }

    fn plan_resolving(&mut self, now: Instant) {
        let config = self.wanted.as_ref().unwrap_or(&self.current);
        let wanted = self.base.resolve_secs > 0 && endpoints(config).any(is_name);
        self.resolve_at = wanted.then(|| now + Duration::from_secs(self.base.resolve_secs));
    }

    /// How long nothing has to be done.
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        let next = [self.look_at, self.resolve_at].into_iter().flatten().min();
        // A millisecond late, as polls round down.
        next.map(|at| at.saturating_duration_since(now) + Duration::from_millis(1))
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = Some(now + LOOK_EVERY);
            let changed =
                self.file.as_mut().is_some_and(|(path, watch)| watch.look(Look::at(path)));
            if changed {
                self.read();
            }
        }
        if self.resolve_at.is_some_and(|at| at <= now) {
            self.plan_resolving(now);
            self.ask();
        }
    }

    /// SIGHUP: reads the file, if there is one, whether it seems to have changed or not, and looks
    /// names up.
    pub fn read_now(&mut self) {
        if let Some((path, watch)) = &mut self.file {
            *watch = Watch::new(Look::at(path));
            self.read();
        }
        if self.wanted.is_none() && endpoints(&self.current).any(is_name) {
            self.ask();
        }
    }

    fn read(&mut self) {
        self.wanted = None;
        match servers_file::load(&self.base) {
            Err(why) => log::error!("proxy: {why}; the servers stay as they were"),
            Ok(config) if config == *self.current => {
                log::warn!("proxy: the servers file was read: nothing has changed");
            }
            Ok(config) => {
                self.wanted = Some(Arc::new(config));
                self.ask();
            }
        }
    }

    fn ask(&mut self) {
        if self.busy {
            self.again = true;
            return;
        }
        let job = Job {
            config: Arc::clone(self.wanted.as_ref().unwrap_or(&self.current)),
            old: Arc::clone(&self.setup),
            other_places: self.wanted.is_some(),
        };
        match self.to_thread().map(|to| to.send(job).is_ok()) {
            Ok(true) => self.busy = true,
            Ok(false) => self.thread = None,
            Err(error) => log::error!("proxy: cannot start a thread: {}", plain(&error)),
        }
    }

    /// The thread ends when nobody is left to ask it.
    fn to_thread(&mut self) -> io::Result<&Sender<Job>> {
        if self.thread.is_none() {
            let (to, jobs) = mpsc::channel::<Job>();
            let (answers, found) = mpsc::channel();
            let waker = Arc::clone(&self.waker);
            std::thread::Builder::new().name("proxy names".to_owned()).spawn(move || {
                let mut resolver = Resolver { look_up, lost: HashSet::new() };
                while let Ok(job) = jobs.recv() {
                    let setup = resolver.work(&job);
                    let found = Found { config: job.config, setup };
                    if answers.send(found).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            })?;
            self.thread = Some((to, found));
        }
        self.thread.as_ref().map(|(to, _)| to).ok_or_else(|| io::Error::other("no thread"))
    }

    /// What the workers are to use from now on, and its configuration, if anything is new.
    pub fn take(&mut self, now: Instant) -> Option<(Arc<Config>, Arc<Setup>)> {
        let found = self.thread.as_ref()?.1.try_recv().ok()?;
        self.busy = false;
        let new = self.settle(found, now);
        if std::mem::take(&mut self.again) {
            self.ask();
        }
        new
    }

    fn settle(&mut self, found: Found, now: Instant) -> Option<(Arc<Config>, Arc<Setup>)> {
        let wanted = self.wanted.as_ref().is_some_and(|one| Arc::ptr_eq(one, &found.config));
        let setup = match found.setup {
            Ok(setup) if wanted || Arc::ptr_eq(&self.current, &found.config) => setup,
            // The file was read again since.
            Ok(_) => return None,
            Err(why) => {
                log::error!("proxy: servers file: {why}; the servers stay as they were");
                // Names may be found later: it is tried again with the others.
                self.plan_resolving(now);
                return None;
            }
        };
        if wanted {
            let changes = changes(&self.current, &found.config);
            log::warn!("proxy: the servers file was read: {changes}");
            self.current = found.config;
            self.wanted = None;
            self.plan_resolving(now);
        } else if Arc::ptr_eq(&self.setup, &setup) {
            return None;
        }
        self.setup = Arc::clone(&setup);
        Some((Arc::clone(&self.current), setup))
    }
}

/// What was added and removed, for the log.
fn changes(old: &Config, new: &Config) -> String {
    let mut all = Vec::new();
    for (kind, old, new) in
        [("server", &old.servers, &new.servers), ("backup", &old.backups, &new.backups)]
    {
        all.extend(without(new, old).into_iter().map(|place| format!("added {kind} {place}")));
        all.extend(without(old, new).into_iter().map(|place| format!("removed {kind} {place}")));
    }
    if all.is_empty() {
        return "the servers have another order".to_owned();
    }
    let more = all.len().saturating_sub(NAMED_MAX);
    all.truncate(NAMED_MAX);
    let and = if more > 0 { format!(", and {more} more changes") } else { String::new() };
    all.join(", ") + &and
}

/// Those of `all` that are not among `others`, each as often as it is there too often.
fn without(all: &[Place], others: &[Place]) -> Vec<String> {
    let mut left: Vec<&Place> = others.iter().collect();
    let mut found = Vec::new();
    for place in all {
        match left.iter().position(|other| *other == place) {
            Some(at) => drop(left.swap_remove(at)),
            None => found.push(shown(place)),
        }
    }
    found
}

fn shown(place: &Place) -> String {
    let first = place.first();
    let name = first.name.as_ref().map(|name| format!("{name}=")).unwrap_or_default();
    let weight =
        if first.weight == 1 { String::new() } else { format!(" weight {}", first.weight) };
    format!("{name}{place}{weight}")
}

#[cfg(test)]
#[path = "renew_tests.rs"]
mod tests;
