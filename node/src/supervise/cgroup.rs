//! Limits by cgroup v2, in a group below this process's own, where the system allows it.
//!
//! A group that hands controllers down may hold no processes itself (cgroups(7), "no internal processes"), unless it is
//! the root. So this process first moves into a leaf of its own; where other processes share its group, that would not
//! be ours to do, and services are held without cgroups instead.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The leaf that the node moves into.
const LEAF: &str = "paceline-node";
/// Groups of services begin so.
const PREFIX: &str = "paceline-service-";
/// Length of a period in which a group may use its share (cgroup v2's default).
const PERIOD: Duration = Duration::from_millis(100);

/// A group in which groups with limits can be made.
#[derive(Debug)]
pub(crate) struct Parent {
    path: PathBuf,
    memory: bool,
    cpu: bool,
}

impl Parent {
    /// Prepares this process's own group.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub(crate) fn prepare() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
        let mount = mount_point(&mounts).ok_or("cgroup v2 is not mounted")?;
        let own = own_path(&own).ok_or("this process has no cgroup v2")?;
        Self::below(&mount.join(own.trim_start_matches('/')), std::process::id())
    }

    fn below(path: &Path, pid: u32) -> Result<Self, String> {
        let words = |file: &str| {
            let path = path.join(file);
            move |e: io::Error| format!("{}: {e}", path.display())
        };
        let read = |file: &str| fs::read_to_string(path.join(file)).map_err(words(file));
        let available = read("cgroup.controllers")?;
        let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|c| c == name);
        let (memory, cpu) = (has(&available, "memory"), has(&available, "cpu"));
        if !memory && !cpu {
            return Err(format!("{} has neither the memory nor the cpu controller", path.display()));
        }
        let enabled = read("cgroup.subtree_control")?;
        let missing: Vec<String> = [("memory", memory), ("cpu", cpu)]
            .into_iter()
            .filter(|(name, there)| *there && !has(&enabled, name))
            .map(|(name, _)| format!("+{name}"))
            .collect();
        if !missing.is_empty() {
            // The root alone has no type, and may have processes.
            if path.join("cgroup.type").exists() {
                let others = read("cgroup.procs")?.lines().any(|line| line.trim() != pid.to_string());
                if others {
                    return Err(format!("other processes share the group {}", path.display()));
                }
                let leaf = path.join(LEAF);
                fs::create_dir(&leaf).or_else(exists).map_err(words(LEAF))?;
                fs::write(leaf.join("cgroup.procs"), pid.to_string()).map_err(words(LEAF))?;
            }
            fs::write(path.join("cgroup.subtree_control"), missing.join(" "))
                .map_err(words("cgroup.subtree_control"))?;
        }
        remove_stale(path);
        Ok(Self { path: path.to_owned(), memory, cpu })
    }

    /// Whether such a group can hold these limits.
    pub(crate) fn holds(&self, memory_max: Option<u64>, cpu_max: Option<f64>) -> bool {
        (memory_max.is_none() || self.memory) && (cpu_max.is_none() || self.cpu)
    }

    /// Makes a service's group.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn make(&self, name: &str, memory_max: Option<u64>, cpu_max: Option<f64>) -> io::Result<PathBuf> {
        let path = self.path.join(format!("{PREFIX}{}-{name}", std::process::id()));
        kill(&path);
        remove(&path);
        fs::create_dir(&path).or_else(exists)?;
        if let Some(max) = memory_max {
            fs::write(path.join("memory.max"), max.to_string())?;
            // Without swap the limit means memory; with one the group would be moved out instead of ended.
            let _ = fs::write(path.join("memory.swap.max"), "0");
            // The service as a whole, not one of its processes.
            let _ = fs::write(path.join("memory.oom.group"), "1");
        }
        if let Some(cores) = cpu_max {
            let period = PERIOD.as_micros();
            // A quota of at least 1 ms is the kernel's demand; the cast saturates.
            let quota = ((cores * period as f64) as u128).max(1000);
            fs::write(path.join("cpu.max"), format!("{quota} {period}"))?;
        }
        Ok(path)
    }
}

fn exists(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// Ends every process of the group at once (`cgroup.kill`, Linux 5.14); where that is not there, nothing happens.
pub(crate) fn kill(group: &Path) {
    // Not created where it is missing: what is no cgroup stays untouched.
    if let Ok(mut file) = fs::OpenOptions::new().write(true).open(group.join("cgroup.kill")) {
        let _ = io::Write::write_all(&mut file, b"1");
    }
}

/// How many processes of the group the kernel has ended for want of memory.
pub(crate) fn oom_kills(group: &Path) -> u64 {
    let events = fs::read_to_string(group.join("memory.events")).unwrap_or_default();
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// Removes an empty group; one with processes stays.
pub(crate) fn remove(group: &Path) {
    let _ = fs::remove_dir(group);
}

/// Groups of nodes that have ended.
fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')?.0.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            kill(&entry.path());
            remove(&entry.path());
        }
    }
}

/// Where cgroup v2 is mounted, by `/proc/self/mountinfo` (proc(5)).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next() == Some("cgroup2")).then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// This process's cgroup v2, by `/proc/self/cgroup` (cgroups(7)).
fn own_path(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like a group.
    fn group(controllers: &str, enabled: &str, procs: &str, root: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("folder");
        for (file, text) in
            [("cgroup.controllers", controllers), ("cgroup.subtree_control", enabled), ("cgroup.procs", procs)]
        {
            fs::write(dir.path().join(file), text).expect("file");
        }
        if !root {
            fs::write(dir.path().join("cgroup.type"), "domain\n").expect("file");
        }
        dir
    }

    #[test]
    fn the_own_group_is_found() {
        let mounts = "25 30 0:23 / /sys rw - sysfs sysfs rw\n\
                      36 25 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      37 25 0:32 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point(""), None);
        assert_eq!(own_path("4:memory:/a\n0::/user.slice/x\n"), Some("/user.slice/x"));
        assert_eq!(own_path("4:memory:/a\n"), None);
    }

    #[test]
    fn the_node_moves_into_a_leaf_where_it_is_alone() {
        let dir = group("cpu io memory pids\n", "\n", "77\n", false);
        let parent = Parent::below(dir.path(), 77).expect("usable");
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).expect("text"), "+memory +cpu");
        assert!(parent.holds(Some(1), Some(1.0)));
        // On a file system that is no cgroup, the files are made by the write.
        fs::create_dir(dir.path().join("x")).expect("folder");
        let made = parent.make("notes", Some(1 << 20), Some(0.5)).expect("made");
        assert_eq!(fs::read_to_string(made.join("memory.max")).expect("text"), "1048576");
        assert_eq!(fs::read_to_string(made.join("cpu.max")).expect("text"), "50000 100000");
        fs::write(made.join("memory.events"), "low 0\noom 3\noom_kill 2\n").expect("file");
        assert_eq!(oom_kills(&made), 2);
        kill(&made);
        assert!(!made.join("cgroup.kill").exists());
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let shared = group("cpu memory\n", "\n", "77\n78\n", false);
        assert!(Parent::below(shared.path(), 77).expect_err("shared").contains("other processes share"));
        assert!(Parent::below(shared.path(), 77).is_err() && !shared.path().join(LEAF).exists());
        let poor = group("hugetlb\n", "\n", "1\n", true);
        assert!(Parent::below(poor.path(), 77).expect_err("poor").contains("neither"));
        let root = group("memory\n", "\n", "1\n2\n", true);
        let parent = Parent::below(root.path(), 77).expect("the root may have processes");
        assert!(parent.holds(Some(1), None) && !parent.holds(None, Some(1.0)));
        assert!(!root.path().join(LEAF).exists());
    }
}
