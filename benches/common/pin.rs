//! Which processors the servers and the load generator have.
//!
//! Owns the affinity of the calling thread, which children and threads started by it inherit. Where
//! there is one processor only, or the kernel refuses, everybody shares all.

use nix::sched::{sched_getaffinity, sched_setaffinity, CpuSet};
use nix::unistd::Pid;

/// The processors of this process, as they were when it started.
pub struct Processors {
    all: CpuSet,
    numbers: Vec<usize>,
}

impl Processors {
    /// Those that this thread may use now.
    pub fn of_this_thread() -> Processors {
        let all = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        let numbers = (0..CpuSet::count()).filter(|&n| all.is_set(n).unwrap_or(false)).collect();
        Processors { all, numbers }
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.numbers.len().max(1)
    }

    /// Runs `start`, whose children have the first processor to themselves; from then on this
    /// thread has the last one.
    pub fn apart<T>(&self, start: impl FnOnce() -> T) -> T {
        match self.numbers[..] {
            [first, .., last] => {
                set(&only(first));
                let result = start();
                set(&only(last));
                result
            }
            _ => start(),
        }
    }

    /// Gives this thread, and what it starts, all of them again.
    pub fn together(&self) {
        set(&self.all);
    }
}

fn only(number: usize) -> CpuSet {
    let mut set = CpuSet::new();
    // The number came from a set of the same size.
    let _ = set.set(number);
    set
}

fn set(processors: &CpuSet) {
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), processors) {
        eprintln!("processors are shared: {error}");
    }
}
