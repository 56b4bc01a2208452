//! Child processes, and what they cost: CPU time and memory of a process and all its descendants, from `/proc`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Ticks of `/proc/<pid>/stat` in a second: fixed by Linux for user space on every architecture that it runs on here.
const TICKS_S: f64 = 100.0;
/// How long a process may take to end by SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks at something that cannot be awaited from outside the process.
const LOOK: Duration = Duration::from_millis(2);

/// A child that ends with this value: SIGTERM, and SIGKILL for all that is left of it after [`GRACE`].
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with its standard error in `log`, and as many open files as the system allows.
    pub(super) fn start(command: &[&str], log: &Path, input: Stdio, output: Stdio) -> anyhow::Result<Self> {
        let errors = File::create(log).with_context(|| format!("{}", log.display()))?;
        let child = Command::new("sh")
            .args(["-c", "ulimit -n \"$(ulimit -Hn)\"; exec \"$0\" \"$@\""])
            .args(command)
            .stdin(input)
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", command.first().unwrap_or(&"")))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of its standard error, for messages.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// SIGKILL, as a crash would be.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended() {
            return;
        }
        let family = family(&[self.pid()]);
        signal("TERM", &[self.pid()]);
        let start = Instant::now();
        while start.elapsed() < GRACE {
            if self.ended() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        signal("KILL", &family);
        let _ = self.child.wait();
    }
}

fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    let _ = Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status();
}

/// Looks every [`LOOK`] until `probe` gives something.
///
/// # Errors
/// After `patience`, saying what was waited for.
pub(super) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Ok((value, start.elapsed()));
        }
        anyhow::ensure!(start.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(LOOK);
    }
}

/// These processes and all that descend from them.
pub(super) fn family(roots: &[u32]) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = roots.to_vec();
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.get(pid).into_iter().flatten());
        at += 1;
    }
    found
}

/// The fields of `/proc/<pid>/stat` after the name, which may hold spaces: 0 is the state, 1 the parent.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// CPU time used so far: by ticks, which also count threads that have ended, and by the scheduler's nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    ticks_s: f64,
    exact_s: f64,
}

impl Cpu {
    /// Of these processes, not of their children.
    pub(crate) fn of(pids: &[u32]) -> Self {
        let mut cpu = Self::default();
        for pid in pids {
            let ticks = |fields: Vec<String>| {
                Some((fields.get(11)?.parse::<f64>().ok()?, fields.get(12)?.parse::<f64>().ok()?))
            };
            if let Some((user, system)) = stat(*pid).and_then(ticks) {
                cpu.ticks_s += (user + system) / TICKS_S;
            }
            for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
                let ns = text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok());
                cpu.exact_s += ns.unwrap_or(0.0) / 1e9;
            }
        }
        cpu
    }

    /// Seconds from `earlier` to `self`: the exact ones, unless a thread that ended took its own with it.
    pub(crate) fn since(self, earlier: Self) -> f64 {
        let ticks = self.ticks_s - earlier.ticks_s;
        let exact = self.exact_s - earlier.exact_s;
        // Ticks are off by one a process at most, apart from what ended threads used.
        if exact + 0.05 < ticks { ticks } else { exact }
    }
}

/// Memory of these processes together, MiB: resident, and proportional (a shared page counts once).
pub(crate) fn memory_mib(pids: &[u32]) -> (f64, f64) {
    let mut sum = (0.0, 0.0);
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        };
        sum.0 += field("Rss:").unwrap_or(0.0) / 1024.0;
        sum.1 += field("Pss:").unwrap_or(0.0) / 1024.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_something() {
        let me = [std::process::id()];
        let before = Cpu::of(&me);
        let mut sum = 0_u64;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(120) {
            sum = std::hint::black_box(sum + 1);
        }
        let used = Cpu::of(&me).since(before);
        assert!(used > 0.01, "used {used} s");
        let (resident, proportional) = memory_mib(&me);
        assert!(resident > 0.5 && proportional > 0.1 && proportional <= resident, "{resident} {proportional}");
    }

    #[test]
    fn ended_threads_are_not_lost() {
        let at = |ticks_s, exact_s| Cpu { ticks_s, exact_s };
        assert_eq!(at(2.0, 1.5).since(at(1.0, 1.0)), 1.0, "half a second went with its thread");
        assert_eq!(at(1.01, 1.002).since(at(1.0, 1.0)), 1.002 - 1.0);
    }

    #[test]
    fn a_family_is_found_and_ends_with_its_value() {
        let folder = tempfile::tempdir().expect("folder");
        let log = folder.path().join("log");
        let process = Process::start(&["sh", "-c", "sleep 60 & wait"], &log, Stdio::null(), Stdio::null()).expect("sh");
        let pid = process.pid();
        let (family, _) = wait_for("the grandchild", Duration::from_secs(10), || {
            let family = family(&[pid]);
            (family.len() == 2).then_some(family)
        })
        .expect("sleep was started");
        signal("TERM", &family[1..]);
        drop(process);
        assert!(stat(pid).is_none(), "it was waited for");
    }
}
