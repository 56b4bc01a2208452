//! The processes below one process, as `/proc` shows them: who they are, and the memory that they hold.

use std::{collections::BTreeSet, fs};

/// Most processes that one look follows: a fork bomb is not listed to its end, it is killed round after round.
const PROCESSES_MAX: usize = 16 * 1024;

/// All descendants of `root`, without it, parents before their children. Those that are born meanwhile may be missing.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([root]);
    children(root, &mut seen, &mut found);
    let mut next = 0;
    while next < found.len() && found.len() < PROCESSES_MAX {
        let pid = found[next];
        children(pid, &mut seen, &mut found);
        next += 1;
    }
    found
}

/// `/proc/PID/task/TID/children` (proc(5), `CONFIG_PROC_CHILDREN`) of each thread: whoever forked is the parent.
fn children(pid: u32, seen: &mut BTreeSet<u32>, out: &mut Vec<u32>) {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let Ok(list) = fs::read_to_string(task.path().join("children")) else { continue };
        out.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| seen.insert(*pid)));
    }
}

/// Bytes of memory that these processes hold themselves: what no file backs. Pages that a fork shares count once for
/// each process in the quick sum; where that is above `limit`, the kernel's proportional count is asked, which is slow.
pub(crate) fn memory(pids: &[u32], limit: u64) -> u64 {
    let quick: u64 = pids.iter().filter_map(|pid| field(*pid, "status", "RssAnon:")).sum();
    if quick <= limit {
        return quick;
    }
    let exact = |pid: &u32| field(*pid, "smaps_rollup", "Pss_Anon:").or_else(|| field(*pid, "status", "RssAnon:"));
    pids.iter().filter_map(exact).sum()
}

/// A line `Name:   123 kB` of a file of `/proc/PID`, in bytes.
fn field(pid: u32, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn children_and_their_children_are_found() {
        let script = "sleep 60 & sh -c 'sleep 60 & echo ready; wait'";
        let mut shell = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("sh");
        let mut ready = [0; 5];
        std::io::Read::read_exact(shell.stdout.as_mut().expect("piped"), &mut ready).expect("ready");
        let below = descendants(shell.id());
        assert!(below.len() >= 3, "{below:?}");
        assert!(descendants(std::process::id()).contains(&below[2]));
        let held = memory(&below, u64::MAX);
        assert!(held > 0);
        assert!(memory(&below, 0) <= held + (1 << 20), "the exact count is not above the quick one");
        for pid in below {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("not 0"),
                rustix::process::Signal::KILL,
            );
        }
        shell.kill().expect("kill");
        shell.wait().expect("wait");
    }
}
