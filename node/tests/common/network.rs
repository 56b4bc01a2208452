//! Tests in a network namespace of their own.

use std::process::{Command, Stdio};

use super::{Folder, available};

/// Says that the namespace is there.
const INSIDE: &str = "INSIDE_OWN_NETWORK";

/// Runs `body` in a network namespace, with `hosts` as `/etc/hosts`: by starting this very test again inside.
pub fn in_own_network(test: &str, hosts: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    if !available("unshare", &["-rnm", "true"]) || !available("ip", &["-V"]) {
        return;
    }
    let folder = Folder::new();
    let file = folder.path("hosts");
    std::fs::write(&file, format!("127.0.0.1 localhost\n{hosts}\n")).expect("hosts");
    let script = "ip link set lo up && mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
    let this = std::env::current_exe().expect("this test");
    let status = Command::new("unshare")
        .args(["-rnm", "sh", "-c", script, "sh"])
        .arg(&file)
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .expect("unshare");
    assert!(status.success(), "inside its own network: {status}");
}
