//! CPU time of processes, where the system tells (Linux: proc(5)).

use std::fs;
use std::time::Duration;

/// Linux counts in hundredths of a second for its users, whatever it does inside (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// What one process has used so far, and those of its children that have ended.
pub(super) fn of(process: u32) -> Option<Duration> {
    let stat = Stat::read(process)?;
    Some(time(stat.own + stat.ended_children))
}

/// The same, and those of its children that run.
pub(super) fn with_children(parent: u32) -> Option<Duration> {
    let children: u64 = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .filter(|child| child.parent == parent)
        .map(|child| child.own)
        .sum();
    Some(of(parent)? + time(children))
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks * (1_000 / TICKS_PER_SECOND))
}

struct Stat {
    parent: u32,
    /// In ticks, in user and kernel mode together.
    own: u64,
    ended_children: u64,
}

impl Stat {
    fn read(process: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name may hold anything, parentheses included: what counts comes after the last one.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: number(11)? + number(12)?,
            ended_children: number(13)? + number(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_a_name_with_parentheses() {
        let stat = "42 (a (b) c) S 7 42 42 0 -1 4194304 1 2 3 4 11 22 33 44 20 0 9 0 100 1 1";
        let stat = Stat::parse(stat).expect("a process");
        assert_eq!((stat.parent, stat.own, stat.ended_children), (7, 33, 77));
    }
}
