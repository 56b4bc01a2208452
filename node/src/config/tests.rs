use super::*;
use std::path::Path;

fn document(text: &str) -> Document {
    Document::new(Path::new("c.toml"), text.to_owned())
}

fn refused(text: &str) -> String {
    read(&document(text)).expect_err(text).to_string()
}

#[test]
fn the_example_is_right_and_the_schema_knows_all_of_it() {
    let document = document(EXAMPLE);
    paceline_mesh::args::check_file(&document).unwrap();
    let file = read(&document).unwrap();
    let names: Vec<_> = file.services.iter().map(|(spec, _)| spec.name.as_str()).collect();
    assert_eq!(names, ["notes", "llm", "files"]);
    assert_eq!(file.limits.max_concurrency.map(std::num::NonZeroU32::get), Some(256));
    assert_eq!(file.detect.len(), 2);
    let schema = schema::whole();
    let known = schema["properties"].as_object().unwrap();
    for key in document.table().unwrap().get_ref().keys() {
        assert!(known.contains_key(key.get_ref().as_ref()), "{}", key.get_ref());
    }
}

#[test]
fn services_are_read_with_all_they_have() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "serve = \"docs={0}\"\n[[service]]\nname = \"a\"\nurl = \"http://127.0.0.1:1\"\nhealth = \"none\"\n\
         max_concurrency = 3\nkind = \"openai\"\nlabels = {{ x = 1, y = true }}\n[[service]]\nname = \"b\"\ndir = \"{0}\"\n",
        dir.path().display()
    );
    let file = read(&document(&text)).unwrap();
    let (a, line) = &file.services[0];
    assert_eq!((a.name.as_str(), *line, a.origin, a.max_concurrency), ("a", 2, Origin::Config, Some(3)));
    assert_eq!(a.labels, BTreeMap::from([("x".into(), "1".into()), ("y".into(), "true".into())]));
    assert!(matches!(&a.source, Source::Http { health: HealthCheck::Connect, .. }));
    assert_eq!(a.kind, ServiceKind::OpenAi);
    let rest: Vec<_> = file.services[1..].iter().map(|(spec, line)| (spec.name.as_str(), *line)).collect();
    assert_eq!(rest, [("b", 9), ("docs", 1)]);
    let texts = read(&document("service = [\"n=http://127.0.0.1:1,health=none\"]")).unwrap();
    assert_eq!(texts.services[0].0.name.as_str(), "n");
}

#[test]
fn a_fault_names_file_and_line_and_what_was_meant() {
    let service = "[[service]]\nname = \"a\"\nurl = \"http://127.0.0.1:1\"\n";
    for (text, line, said) in [
        (format!("{service}helth = \"/x\"\n"), 4, "did you mean `health`"),
        (format!("{service}zzzzzzzzzzzz = 1\n"), 4, "the keys are"),
        ("[[service]]\nname = \"a\"\ncomand = \"sleep 1\"\n".to_owned(), 3, "did you mean `command`"),
        (format!("{service}requires = {{ gpu = true }}\n"), 4, "give its command too"),
        (format!("{service}kind = \"grpc\"\n"), 4, "grpc"),
        (format!("{service}max_concurrency = 0\n"), 4, "nonzero"),
        (format!("{service}max_concurrency = \"many\"\n"), 4, "invalid type"),
        (format!("{service}health = \"ping\"\n"), 4, "like /ping"),
        (format!("{service}dir = \".\"\n"), 4, "not both"),
        (format!("{service}labels = {{ a = [1] }}\n"), 4, "expected a text"),
        (format!("{service}{service}"), 4, "stands in line 1 already"),
        ("[[service]]\nurl = \"http://127.0.0.1:1\"\n".into(), 1, "missing field `name`"),
        ("[[service]]\nname = \"a\"\n".into(), 2, "give url"),
        ("[[service]]\nname = \"A b\"\nurl = \"http://x\"\n".into(), 2, "must match"),
        ("[[service]]\nname = \"a\"\nurl = \"https://x\"\n".into(), 3, "https is not spoken"),
        ("[[service]]\nname = \"a\"\ndir = \"/nowhere\"\n".into(), 3, "/nowhere"),
        ("[service]\nname = \"a\"\n".into(), 1, "two brackets"),
        ("service = 3\n".into(), 1, "expected a table"),
        ("\nserve = [\"x\"]\n".into(), 2, "NAME="),
        ("[limits]\nmax_concurency = 1\n".into(), 2, "did you mean `max_concurrency`"),
        ("limits = 1\n".into(), 1, "expected a table"),
        ("[detect]\nvllm = true\n".into(), 2, "expected false"),
        ("[detect]\nA = false\n".into(), 2, "must match"),
        ("[detect.x]\nhosts = []\n".into(), 1, "missing field `port`"),
        ("[detect.x]\nport = 70000\n".into(), 2, "u16"),
        ("[detect.x]\nport = 1\nfingerprnt = \"named\"\n".into(), 3, "did you mean `fingerprint`"),
        ("[detect.x]\nport = 1\nhealth = \"none\"\n".into(), 1, "needs a path"),
        ("[[service]\n".into(), 1, ""),
        ("[[service]]\nname = \"a\"\nurl = \"http://12".into(), 3, ""),
    ] {
        let words = refused(&text);
        assert!(words.starts_with(&format!("c.toml:{line}: ")) && words.contains(said), "{text:?}: {words}");
        assert!(!words.contains('\n'), "one line: {words}");
    }
    let many: String = (0..=SERVICES_MAX).map(|i| format!("[[service]]\nname=\"s{i}\"\nurl=\"http://x\"\n")).collect();
    assert!(refused(&many).contains("at most"), "too many");
}

#[test]
fn every_cut_of_a_file_is_refused_or_read_but_never_a_panic() {
    for (end, _) in EXAMPLE.char_indices() {
        let _ = read(&document(&EXAMPLE[..end]));
    }
}

#[test]
fn the_flag_comes_before_the_files_limit() {
    let file = read(&document("[limits]\nmax_concurrency = 7\n")).unwrap();
    let mut args = WorkerArgs { service: vec![], serve: vec![], max_concurrency: None, no_detect: false };
    assert_eq!(max_concurrency(&args, &file), Some(7));
    args.max_concurrency = Some(3);
    assert_eq!(max_concurrency(&args, &file), Some(3));
}
