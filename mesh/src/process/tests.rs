use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn the_admin_key_is_made_once_and_kept_secret() {
    let dir = tempfile::tempdir().unwrap();
    let key = files::admin_key(dir.path()).unwrap();
    assert!(key.len() >= 43, "{key}");
    let path = dir.path().join(ADMIN_KEY);
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(files::admin_key(dir.path()).unwrap(), key);
    assert_eq!(mode(), 0o600, "a key that others could read is closed");
    std::fs::write(&path, "short\n").unwrap();
    let fault = files::admin_key(dir.path()).unwrap_err();
    assert_eq!(fault.code(), 2);
    assert!(fault.to_string().contains("admin.key"), "{fault}");
}

#[test]
fn runtime_json_has_the_fields_of_the_contract_and_goes_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime {
        pid: 7,
        role: "node".to_owned(),
        worker_id: "w".to_owned(),
        peer_id: "12D3".to_owned(),
        cluster_id: "c".to_owned(),
        http: None,
        local_http: "127.0.0.1:1".parse().unwrap(),
        mesh: vec!["/ip4/127.0.0.1/udp/1/quic-v1".to_owned()],
        data: "127.0.0.1:2".parse().unwrap(),
        admin_key_file: dir.path().join(ADMIN_KEY),
        join_token_file: None,
    };
    assert_eq!(Runtime::read(dir.path()).unwrap(), None);
    let file = files::RuntimeFile::write(dir.path(), &runtime).unwrap();
    assert_eq!(Runtime::read(dir.path()).unwrap(), Some(runtime));
    let text = std::fs::read(dir.path().join(RUNTIME)).unwrap();
    let json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let fields: Vec<_> = json.keys().map(String::as_str).collect();
    let mut contract = [
        "pid",
        "role",
        "worker_id",
        "peer_id",
        "cluster_id",
        "http",
        "local_http",
        "mesh",
        "data",
        "admin_key_file",
        "join_token_file",
    ];
    contract.sort_unstable();
    let mut fields = fields.clone();
    fields.sort_unstable();
    assert_eq!(fields, contract);
    drop(file);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_failed_write_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("taken");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("x"), "x").unwrap();
    assert!(files::write_atomically(&target, b"y", true).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_killed_processs_half_written_files_go() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let half = |name: &str| {
        let path = dir.path().join(format!(".{name}.new"));
        std::fs::write(&path, "half").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    };
    half(files::JOIN_TOKEN);
    let token = dir.path().join(files::JOIN_TOKEN);
    files::write_atomically(&token, b"whole", true).unwrap();
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the next write takes its place");
    [files::RUNTIME, files::ADMIN_KEY, files::JOIN_TOKEN].into_iter().for_each(half);
    files::remove_stale(dir.path());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the next start clears the rest");
}

#[test]
fn log_levels_are_words_or_filters() {
    for good in ["info", "DEBUG", "warning", "off", "paceline_mesh=trace,libp2p=info"] {
        assert!(log_filter(good).is_ok(), "{good}");
    }
    for bad in ["loud", "", "a=b=c"] {
        assert!(log_filter(bad).is_err(), "{bad}");
    }
}

#[test]
fn faults_are_one_line() {
    let fault = Fault::user("a\nb");
    assert_eq!((fault.code(), Fault::failed("x").code(), Fault::quiet(0).code()), (2, 1, 0));
}
