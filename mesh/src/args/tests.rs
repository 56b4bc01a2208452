use std::ffi::OsString;

use super::*;
use clap::{CommandFactory, Parser};

#[derive(Parser, Debug)]
#[command(name = "paceline")]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(clap::Subcommand, Debug)]
enum Sub {
    Up {
        #[command(flatten)]
        mesh: Box<MeshArgs>,
        #[command(flatten)]
        gateway: Box<GatewayArgs>,
        #[command(flatten)]
        worker: Box<WorkerArgs>,
    },
    Node {
        #[command(flatten)]
        mesh: Box<MeshArgs>,
    },
}

fn run(argv: &[&str]) -> Result<Cli, Fault> {
    parse(std::iter::once("paceline").chain(argv.iter().copied()).map(OsString::from))
}

fn up(argv: &[&str]) -> (Box<MeshArgs>, GatewayArgs, WorkerArgs) {
    let argv: Vec<_> = std::iter::once("up").chain(argv.iter().copied()).collect();
    match run(&argv).unwrap().command {
        Sub::Up { mesh, gateway, worker } => (mesh, *gateway, *worker),
        Sub::Node { .. } => unreachable!(),
    }
}

fn refused(argv: &[&str]) -> String {
    let fault = run(argv).unwrap_err();
    assert_eq!(fault.code(), 2, "{fault}");
    let words = fault.to_string();
    assert!(!words.contains('\n'), "one line: {words}");
    words
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path.to_str().unwrap().to_owned())
}

#[test]
fn defaults_parse_and_are_not_explicit() {
    for default in [DEFAULT_MESH, DEFAULT_DATA, DEFAULT_HTTP, DEFAULT_LOCAL_HTTP] {
        assert_eq!(bind(None, default).address.to_string(), default);
    }
    let (mesh, gateway, _) = up(&["--mesh", "0.0.0.0:4900"]);
    let config = mesh.config(ProcessRole::Up).unwrap();
    assert!(config.mesh.explicit, "a default that was typed is explicit");
    assert!(!config.data.explicit && !gateway.bind().explicit);
    assert_eq!(config.site.as_str(), "default");
    assert!(matches!(config.membership, Membership::FoundOrResume));
    assert!(matches!(mesh.config(ProcessRole::Node).unwrap().membership, Membership::Resume));
}

#[test]
fn every_flag_has_its_variable() {
    let command = <Cli as CommandFactory>::command();
    for sub in command.get_subcommands() {
        for arg in sub.get_arguments().filter(|a| a.get_id() != "help") {
            let long = arg.get_long().unwrap();
            let expected = format!("PACELINE_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(expected.as_str()));
        }
    }
}

#[test]
fn values_are_judged_with_words() {
    let (mesh, ..) =
        up(&["--advertise", "192.0.2.7", "--advertise", "[2001:db8::1]:77", "--capability", "docker=true"]);
    assert_eq!(mesh.advertise, ["192.0.2.7:0".parse().unwrap(), "[2001:db8::1]:77".parse().unwrap()]);
    assert_eq!(mesh.capabilities(), BTreeMap::from([("docker".into(), true)]));
    for (argv, said) in [
        (vec!["up", "--advertise", "0.0.0.0"], "nobody can reach"),
        (vec!["up", "--capability", "docker=maybe"], "neither true nor false"),
        (vec!["up", "--label", "x"], "expected K=V"),
        (vec!["up", "--name", "a/b"], "must match"),
        (vec!["up", "--mesh", "nowhere"], "--mesh"),
        (vec!["up", "--type", "tpu"], "auto, gpu, cpu, edge"),
        (vec!["up", "--entry", "host:4900"], "not a multiaddr"),
        (vec!["up", "--leaf-ttl", "1s"], "between 1m and 366d"),
        (vec!["up", "--log-level", "loud"], "loud"),
        (vec!["up", "--htpt", "127.0.0.1:1"], "--http"),
        (vec!["dance"], "dance"),
        (vec![], "a command is missing"),
    ] {
        let words = refused(&argv);
        assert!(words.contains(said), "{argv:?}: {words}");
    }
}

#[test]
fn tokens_are_read_before_anything_is_bound() {
    let (mesh, ..) = up(&["--join", "Cargo.toml"]);
    let fault = mesh.config(ProcessRole::Node).err().unwrap().to_string();
    assert!(fault.contains("--join @Cargo.toml"), "{fault}");
    let (mesh, ..) = up(&["--join", "@/nowhere/token"]);
    let words = mesh.config(ProcessRole::Node).err().unwrap().to_string();
    assert!(words.contains("/nowhere/token"), "{words}");
}

#[test]
fn the_file_stands_below_flags_and_above_defaults() {
    let (_dir, path) = file(
        "name = \"from-file\"\nsite = \"lab\"\nno-mdns = true\nlabel = [\"a=1\", \"b=2\"]\nhttp = \"127.0.0.1:1\"\n",
    );
    let (mesh, gateway, _) = up(&["--config", &path, "--site", "flag"]);
    assert_eq!(mesh.name.as_ref().map(WorkerName::as_str), Some("from-file"));
    assert_eq!(mesh.site.as_ref().map(Site::as_str), Some("flag"));
    assert!(mesh.no_mdns);
    assert_eq!(mesh.label.len(), 2);
    assert!(gateway.bind().explicit, "a port in the file was asked for");
    assert!(run(&["node", "--config", &path]).is_ok(), "a gateway's key does not disturb a node");
}

#[test]
fn a_bad_file_is_refused_with_file_line_and_name() {
    for (text, line, said) in [
        ("site = \"x\"\nnaem = \"y\"\n", 2, "did you mean `name`"),
        ("data_dir = \"y\"\n", 1, "did you mean `data-dir`"),
        ("\n\nzzzzzzzzzzzzzzzz = 1\n", 3, "unknown key"),
        ("name = \n", 1, ""),
        ("site = \"ok\"\nmesh = \"nowhere\"\n", 2, "--mesh"),
        ("no-mdns = \"yes\"\n", 1, "true or false"),
        ("name = [\"a\"]\n", 1, "not a list"),
        ("[name]\na = 1\n", 1, "expected a text"),
        ("site = \"x\"\n[labes]\na = 1\n", 2, "did you mean `labels`"),
        ("[labels]\na = 1\nb = [1]\n", 3, "[labels] b"),
        ("[labels]\n\"\" = 1\n", 2, "1 to 128 bytes"),
        ("[capabilities]\ngpu = \"yes\"\n", 2, "[capabilities] gpu"),
        ("labels = \"x\"\n", 1, "write a table"),
        ("site = \"x\"\nsite = \"y\"\n", 2, "duplicate"),
        ("http = \"nowhere\"\n", 1, "--http"),
        ("capability = \"{not json\"\n", 1, "expected JSON"),
        ("heartbeat = \"soon\"\n", 1, "--heartbeat"),
        ("config = \"other\"\n", 1, "unknown key"),
    ] {
        let (_dir, path) = file(text);
        let words = refused(&["up", "--config", &path]);
        assert!(words.contains(&format!("{path}:{line}: ")) && words.contains(said), "{text:?}: {words}");
    }
    assert!(refused(&["up", "--config", "/nowhere.toml"]).contains("/nowhere.toml"));
}

#[test]
fn capabilities_have_many_forms() {
    let (_dir, path) = file("docker\nprivileged=no\n");
    let at = format!("@{path}");
    for (text, expected) in [
        ("docker=true", vec![("docker", true)]),
        ("docker", vec![("docker", true)]),
        ("docker, gpu=off,network_access", vec![("docker", true), ("gpu", false), ("network_access", true)]),
        ("{\"docker\": true, \"gpu\": false}", vec![("docker", true), ("gpu", false)]),
        ("[\"docker\", \"gpu\"]", vec![("docker", true), ("gpu", true)]),
        (&at, vec![("docker", true), ("privileged", false)]),
    ] {
        let (mesh, ..) = up(&["--capability", text]);
        let expected: BTreeMap<_, _> = expected.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        assert_eq!(mesh.capabilities(), expected, "{text}");
    }
    for (text, said) in
        [("", "expected K=V"), ("{\"gpu\": 1}", "expected JSON"), ("@/nowhere", "/nowhere"), ("a=b=c", "neither")]
    {
        let words = refused(&["up", "--capability", text]);
        assert!(words.contains(said), "{text}: {words}");
    }
}

#[test]
fn the_files_tables_stand_below_flags() {
    let (_dir, path) = file("[labels]\nrack = 7\nrow = \"b\"\n[capabilities]\ndocker = true\ngpu = false\n");
    let argv = ["paceline", "up", "--config", &path, "--label", "row=c", "--capability", "gpu"];
    let loaded = Invocation::new::<Cli>(argv.map(OsString::from)).load().unwrap();
    let labels = BTreeMap::from([("rack".to_owned(), "7".to_owned()), ("row".to_owned(), "c".to_owned())]);
    assert_eq!(loaded.labels(), labels);
    let capabilities = loaded.capabilities();
    assert_eq!(capabilities, BTreeMap::from([("docker".to_owned(), true), ("gpu".to_owned(), true)]));
    let told = loaded.args::<MeshArgs>().unwrap().worker_type;
    assert_eq!((told, told.of(&capabilities)), (TypeArg::Auto, WorkerType::Gpu));
}

#[test]
fn each_value_tells_where_it_comes_from() {
    let (_dir, path) = file("\nsite = \"lab\"\nname = \"n\"\n");
    let argv = ["paceline", "up", "--config", &path, "--name", "flag"];
    let values = Invocation::new::<Cli>(argv.map(OsString::from)).load().unwrap().values();
    let origin = |name: &str| values.iter().find(|v| v.name == name).map(|v| v.origin.clone());
    assert_eq!(origin("name"), Some(Origin::Flag));
    assert_eq!(origin("site"), Some(Origin::File(2)));
    assert_eq!(origin("term"), Some(Origin::Default));
    let http = values.iter().find(|v| v.name == "http").unwrap();
    assert_eq!((&*http.texts, &http.origin), (&["127.0.0.1:8080".to_owned()][..], &Origin::Default));
}

#[test]
fn changes_are_told_apart_by_whether_they_need_a_restart() {
    let (_dir, path) = file("site = \"a\"\n[labels]\nx = 1\n");
    let invocation = Invocation::new::<Cli>(["paceline", "up", "--config", &path].map(OsString::from));
    let before = invocation.load().unwrap();
    std::fs::write(&path, "site = \"b\"\nlog-level = \"debug\"\n# a note\n[labels]\nx = 2\n").unwrap();
    let (live, restart) = invocation.load().unwrap().changes(&before);
    assert_eq!(live, ["log-level", "labels"]);
    assert_eq!(restart, ["site"]);
}
