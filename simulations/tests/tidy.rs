//! House rules as a test. Each rule is a function over a [`Tree`] of files, so that the rules themselves are tested
//! on trees that break them (at the bottom).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Most lines of a source file, without its `#[cfg(test)]` module at the end.
const LINES_MAX: usize = 600;

/// Most lines of a file that holds only tests.
const TEST_LINES_MAX: usize = 700;

/// All that may stand at the top of the repository.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".config",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "bootstrap",
    "clippy.toml",
    "deny.toml",
    "docs",
    "gateway",
    "mesh",
    "node",
    "rustfmt.toml",
    "simulations",
];

/// Normal dependencies of the sans-IO crate: pure computation only.
const PROTO_DEPENDENCIES: &[&str] = &[
    "bincode",
    "data-encoding",
    "ed25519-dalek",
    "indexmap",
    "rand",
    "rustls-pki-types",
    "rustls-webpki",
    "serde",
    "sha2",
    "thiserror",
    "x509-parser",
    "zeroize",
];

/// Words that bring a clock, a socket, a file, chance or an unordered map into the sans-IO crate.
const PROTO_FORBIDDEN: &[&str] = &[
    "tokio",
    "libp2p",
    "quinn",
    "futures",
    "std::fs",
    "std::thread",
    "std::env",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "Instant::now",
    "SystemTime",
    "thread_rng",
    "rand::rng",
    "rand::random",
    "OsRng",
    "HashMap",
    "HashSet",
];

/// Folders of one machine, and hosts of package registries: none of it means anything to another user. Put together
/// here, so that this file does not break its own rule.
fn foreign_words() -> Vec<String> {
    let folder = |name: &str| format!("/{name}/");
    let mut words: Vec<String> = ["work", "root", "farm", "home"].map(folder).into();
    words.push(["..", "shared"].join("/"));
    words.extend(["crates", "static.crates", "index.crates"].map(|host| format!("{host}.{}", "io")));
    words.push(["pypi", "org"].join("."));
    words
}

/// The tracked text files, by path from the root.
struct Tree(BTreeMap<String, String>);

/// One broken rule: `path:line`, and which rule it is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Broken {
    path: String,
    line: usize,
    rule: String,
}

type Found = Vec<Broken>;

fn broken(path: &str, line: usize, rule: impl Into<String>) -> Broken {
    Broken { path: path.to_owned(), line, rule: rule.into() }
}

impl Tree {
    /// What git tracks.
    fn of_repository() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the workspace");
        let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().expect("git is there");
        assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
        let names = String::from_utf8(listed.stdout).expect("paths are UTF-8");
        let read = |name: &str| std::fs::read_to_string(root.join(name)).ok().map(|text| (name.to_owned(), text));
        Self(names.split_terminator('\0').filter_map(read).collect())
    }

    fn text(&self, path: &str) -> &str {
        self.0.get(path).map_or("", String::as_str)
    }

    fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The files of the sans-IO crate that are not compiled for tests alone.
    fn proto_sources(&self) -> impl Iterator<Item = (&str, &str)> {
        let of_tests: BTreeSet<String> = self
            .sources()
            .filter(|(path, _)| path.starts_with("mesh/proto/src/"))
            .flat_map(|(path, text)| test_modules(path, text))
            .collect();
        self.sources().filter(move |(path, _)| {
            path.starts_with("mesh/proto/src/") && !of_tests.iter().any(|prefix| path.starts_with(prefix.as_str()))
        })
    }

    fn manifests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter(|(path, _)| path.ends_with("/Cargo.toml")).map(|(p, t)| (p.as_str(), t.as_str()))
    }
}

/// Path prefixes of the modules that a file declares under `#[cfg(test)]`: `src/a.rs` with `mod t;` is `src/a/t`.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let stem = path.trim_end_matches(".rs");
    let folder = match stem.rsplit_once('/') {
        Some((folder, "lib" | "main" | "mod")) => folder,
        _ => stem,
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let module = |line: &str| {
        let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        Some(format!("{folder}/{}", line.strip_prefix("mod ")?.strip_suffix(';')?))
    };
    let declared = |pair: &[&str]| if pair[0].starts_with("#[cfg(test)") { module(pair[1]) } else { None };
    lines.windows(2).filter_map(declared).collect()
}

/// The lines before the tests module at the end of the file, counted from 1.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let inline_tests = |pair: &[&str]| pair[0].trim() == "#[cfg(test)]" && pair[1].trim().ends_with('{');
    let end = lines.windows(2).position(inline_tests).unwrap_or(lines.len());
    lines.into_iter().take(end).enumerate().map(|(at, line)| (at + 1, line))
}

/// The line up to its comment. Text in quotes is left alone: a forbidden word there is rare, and worth a look.
fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(before, _)| before)
}

fn section<'a>(toml: &'a str, name: &str) -> Vec<(usize, &'a str)> {
    let head = format!("[{name}]");
    let after = toml.lines().enumerate().skip_while(|(_, line)| line.trim() != head).skip(1);
    after.take_while(|(_, line)| !line.starts_with('[')).map(|(at, line)| (at + 1, line.trim())).collect()
}

fn only_known_folders(tree: &Tree) -> Found {
    let mut found = Found::new();
    for path in tree.0.keys() {
        let top = path.split('/').next().unwrap_or(path);
        if !TOP.contains(&top) {
            found.push(broken(path, 1, format!("`{top}` has no place at the top of the repository")));
        }
    }
    found
}

fn sans_io_dependencies(tree: &Tree) -> Found {
    let path = "mesh/proto/Cargo.toml";
    let toml = tree.text(path);
    let mut found = Found::new();
    if section(toml, "dependencies").is_empty() {
        found.push(broken(path, 1, "the sans-IO crate's dependencies cannot be read"));
    }
    for (line, text) in section(toml, "dependencies") {
        let name = text.split(['.', ' ', '=']).next().unwrap_or("");
        if !name.is_empty() && !name.starts_with('#') && !PROTO_DEPENDENCIES.contains(&name) {
            found.push(broken(path, line, format!("the sans-IO crate may not depend on `{name}`")));
        }
    }
    for (line, text) in toml.lines().enumerate() {
        let own = ["[dependencies]", "[dev-dependencies]"].contains(&text.trim());
        if text.starts_with('[') && text.contains("dependencies") && !own {
            found.push(broken(path, line + 1, "dependencies of the sans-IO crate stand in one list"));
        }
    }
    found
}

fn sans_io_words(tree: &Tree) -> Found {
    let mut found = Found::new();
    for (path, text) in tree.proto_sources() {
        for (line, text) in code(text) {
            for word in PROTO_FORBIDDEN {
                if without_comment(text).contains(word) {
                    found.push(broken(path, line, format!("`{word}` has no place in the sans-IO crate")));
                }
            }
        }
    }
    found
}

fn file_sizes(tree: &Tree) -> Found {
    let too_long = |(path, text): (&str, &str)| {
        let lines = code(text).count();
        let only_tests = path.contains("/tests/") || path.ends_with("/tests.rs");
        let max = if only_tests { TEST_LINES_MAX } else { LINES_MAX };
        (lines > max).then(|| broken(path, lines, format!("at most {max} lines without tests: split by state")))
    };
    tree.sources().filter_map(too_long).collect()
}

fn nothing_unfinished(tree: &Tree) -> Found {
    let words = ["todo", "unimplemented", "dbg"].map(|word| format!("{word}!("));
    let mut found = Found::new();
    for (path, text) in tree.sources() {
        for (line, text) in text.lines().enumerate() {
            for word in &words {
                if without_comment(text).contains(word.as_str()) {
                    found.push(broken(path, line + 1, format!("`{word}..)` is unfinished work")));
                }
            }
        }
    }
    found
}

/// `#[allow(..)]` and `#[expect(..)]` need `reason = ".."`, or a comment on the line or on the one above.
fn allows_have_reasons(tree: &Tree) -> Found {
    let mut found = Found::new();
    for (path, text) in tree.sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let trimmed = line.trim();
            let opens = ["allow(", "expect("]
                .iter()
                .any(|w| trimmed.starts_with(&format!("#[{w}")) || trimmed.starts_with(&format!("#![{w}")));
            if !opens {
                continue;
            }
            let end = lines[at..].iter().position(|l| l.contains(")]")).map_or(at, |n| at + n);
            let reason = lines[at..=end].iter().any(|l| l.contains("reason =") || l.contains("//"));
            let above = at.checked_sub(1).is_some_and(|n| {
                let above = lines[n].trim();
                above.starts_with("//") && !above.starts_with("///")
            });
            if !reason && !above {
                found.push(broken(path, at + 1, "an exception from a lint needs its reason"));
            }
        }
    }
    found
}

fn nothing_of_one_machine(tree: &Tree) -> Found {
    let words = foreign_words();
    let mut found = Found::new();
    for (path, text) in tree.0.iter().filter(|(path, _)| path.as_str() != "Cargo.lock") {
        for (line, text) in text.lines().enumerate() {
            for word in words.iter().filter(|word| text.contains(word.as_str())) {
                found.push(broken(path, line + 1, format!("`{word}` means nothing on another machine")));
            }
        }
    }
    found
}

fn crates_share_the_lints(tree: &Tree) -> Found {
    let without = |(path, text): (&str, &str)| {
        let shared = section(text, "lints").iter().any(|(_, line)| *line == "workspace = true");
        (!shared).then(|| broken(path, 1, "`[lints] workspace = true` is missing"))
    };
    tree.manifests().filter_map(without).collect()
}

/// `docs/requirements.md`: rows `| id | what | state | proven by |`, each group complete and in order, each named test
/// there, and no claim without one.
fn requirements_are_proven(tree: &Tree) -> Found {
    const GROUPS: &[(char, usize)] = &[('N', 13), ('M', 8), ('G', 16), ('J', 8), ('O', 7), ('D', 5)];
    let path = "docs/requirements.md";
    let mut expected = GROUPS.iter().flat_map(|(group, last)| (1..=*last).map(move |n| format!("{group}{n}")));
    let tests: BTreeSet<&str> = tree.sources().flat_map(|(_, text)| test_names(text)).collect();
    let mut found = Found::new();
    let is_row = |line: &str| {
        let mut chars = line.trim_start_matches("| ").chars();
        line.starts_with("| ")
            && chars.next().is_some_and(|c| c.is_ascii_uppercase())
            && chars.next().is_some_and(|c| c.is_ascii_digit())
    };
    for (at, row) in tree.text(path).lines().enumerate().filter(|(_, line)| is_row(line)) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [id, _what, state, proof] = cells[..] else {
            found.push(broken(path, at + 1, "a row is `| id | what | state | proven by |`"));
            continue;
        };
        if expected.next().as_deref() != Some(id) {
            found.push(broken(path, at + 1, format!("`{id}` is out of order, or one before it is missing")));
            return found;
        }
        let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        for test in named.iter().filter(|test| !tests.contains(**test)) {
            found.push(broken(path, at + 1, format!("there is no test `{test}`")));
        }
        match state {
            "not yet" => {}
            "partly" | "since 0.1" if !named.is_empty() => {}
            "partly" | "since 0.1" => found.push(broken(path, at + 1, format!("`{id}` names no test that proves it"))),
            other => found.push(broken(path, at + 1, format!("`{other}` is no state: since 0.1, partly, not yet"))),
        }
    }
    if let Some(id) = expected.next() {
        found.push(broken(path, tree.text(path).lines().count(), format!("`{id}` is missing")));
    }
    found
}

/// Functions under `#[test]` or `#[tokio::test..]`, and in proptest blocks; attributes may stand between. One that is
/// ignored proves nothing.
fn test_names(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        let function = line.trim_start_matches("pub ").trim_start_matches("async ").strip_prefix("fn ");
        match function {
            Some(function) if marked => {
                names.push(function.split(['(', '<']).next().unwrap_or(function));
                marked = false;
            }
            _ if line.starts_with("#[test") || line.starts_with("#[tokio::test") => marked = true,
            _ if line.starts_with("#[ignore") => marked = false,
            _ if line.starts_with("#[") || line.starts_with("//") => {}
            _ => marked = false,
        }
    }
    names
}

/// The README's test command is what `.ci/run` runs, and its first two commands are the promised ones.
fn readme_commands(tree: &Tree) -> Found {
    let mut found = Found::new();
    for command in ["cargo run --release -- up --serve files=./docs", "cargo test --workspace"] {
        if !tree.text("README.md").lines().any(|line| line.trim().starts_with(command)) {
            found.push(broken("README.md", 1, format!("the command `{command}` is missing")));
        }
    }
    if !tree.text(".ci/run").lines().any(|line| line.trim() == "step tests cargo test --workspace") {
        found.push(broken(".ci/run", 1, "does not run the README's test command"));
    }
    found
}

/// Links between the documents lead somewhere.
fn links_lead_somewhere(tree: &Tree) -> Found {
    let mut found = Found::new();
    for (path, text) in tree.0.iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (line, text) in text.lines().enumerate() {
            for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = target.split('#').next().unwrap_or("");
                if file.is_empty() || file.contains("://") {
                    continue;
                }
                let full = join(folder, file);
                if !tree.0.keys().any(|known| *known == full || known.starts_with(&format!("{full}/"))) {
                    found.push(broken(path, line + 1, format!("`{target}` leads nowhere")));
                }
            }
        }
    }
    found
}

/// Bounds that the protocol document names are constants of the sources.
fn named_bounds_exist(tree: &Tree) -> Found {
    let path = "docs/protocol.md";
    let constants: BTreeSet<&str> = tree.sources().flat_map(|(_, text)| constant_names(text)).collect();
    let is_bound = |word: &str| {
        word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
    };
    let mut found = Found::new();
    for (at, line) in tree.text(path).lines().enumerate() {
        for word in line.split('`').skip(1).step_by(2).filter(|word| is_bound(word) && !constants.contains(*word)) {
            found.push(broken(path, at + 1, format!("there is no constant `{word}`")));
        }
    }
    found
}

fn constant_names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| Some(line.split_once("const ")?.1.split_once(": ")?.0))
}

fn join(folder: &str, file: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

const RULES: &[fn(&Tree) -> Found] = &[
    only_known_folders,
    sans_io_dependencies,
    sans_io_words,
    file_sizes,
    nothing_unfinished,
    allows_have_reasons,
    nothing_of_one_machine,
    crates_share_the_lints,
    requirements_are_proven,
    readme_commands,
    links_lead_somewhere,
    named_bounds_exist,
];

#[test]
fn house_rules() {
    let tree = Tree::of_repository();
    assert!(tree.proto_sources().count() > 3, "the sans-IO crate was not found");
    let mut found: Found = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    found.sort();
    let lines: Vec<String> = found.iter().map(|b| format!("{}:{}: {}", b.path, b.line, b.rule)).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

mod rules_speak {
    use super::*;

    fn tree<const N: usize>(files: [(&str, &str); N]) -> Tree {
        Tree(files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect())
    }

    fn places(found: &Found) -> Vec<(&str, usize)> {
        found.iter().map(|b| (b.path.as_str(), b.line)).collect()
    }

    #[test]
    fn on_a_strange_folder() {
        let found = only_known_folders(&tree([("node/src/lib.rs", ""), ("tools/x.py", "")]));
        assert_eq!(places(&found), [("tools/x.py", 1)]);
    }

    #[test]
    fn on_what_the_sans_io_crate_depends_on() {
        let toml =
            "[dependencies]\nserde.workspace = true\ntokio = { version = \"1\" }\n[dev-dependencies]\ntokio = \"1\"\n";
        assert_eq!(
            places(&sans_io_dependencies(&tree([("mesh/proto/Cargo.toml", toml)]))),
            [("mesh/proto/Cargo.toml", 3)]
        );
        let hidden = "[dependencies]\nserde = \"1\"\n[target.'cfg(unix)'.dependencies]\ntokio = \"1\"\n";
        assert_eq!(sans_io_dependencies(&tree([("mesh/proto/Cargo.toml", hidden)])).len(), 1);
    }

    #[test]
    fn on_a_clock_in_a_core_but_not_in_its_tests() {
        let core = "// Instant::now is the driver's\nfn f() { Instant::now(); }\n#[cfg(test)]\nmod tests {\nInstant::now();\n}";
        let found = sans_io_words(&tree([
            ("mesh/proto/src/lib.rs", "#[cfg(test)]\nmod testing;\n"),
            ("mesh/proto/src/testing.rs", "use std::fs;"),
            ("mesh/proto/src/node.rs", core),
            ("mesh/src/lib.rs", "fn f() { Instant::now(); }"),
        ]));
        assert_eq!(places(&found), [("mesh/proto/src/node.rs", 2)]);
    }

    #[test]
    fn on_a_long_file() {
        let long = "fn f() {}\n".repeat(LINES_MAX + 1);
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}", "fn f() {}\n".repeat(LINES_MAX));
        let files = [("node/src/long.rs", &*long), ("node/src/tested.rs", &tested), ("node/tests/long.rs", &long)];
        let found = file_sizes(&tree(files));
        assert_eq!(places(&found), [("node/src/long.rs", LINES_MAX + 1)]);
    }

    #[test]
    fn on_unfinished_work() {
        let text = format!("// {0}!()\nfn f() {{ {0}!() }}", "todo");
        assert_eq!(places(&nothing_unfinished(&tree([("node/src/lib.rs", &text)]))), [("node/src/lib.rs", 2)]);
    }

    #[test]
    fn on_an_exception_without_reason() {
        let text = "#[allow(dead_code)]\nfn a() {}\n// the API asks for it\n#[allow(dead_code)]\nfn b() {}\n\
                    #[expect(dead_code, reason = \"x\")]\nfn c() {}\n/// Documentation is no reason.\n#[allow(dead_code)]\n";
        assert_eq!(
            places(&allows_have_reasons(&tree([("node/src/lib.rs", text)]))),
            [("node/src/lib.rs", 1), ("node/src/lib.rs", 9)]
        );
    }

    #[test]
    fn on_a_folder_of_one_machine() {
        let text = format!("a\ncd /{}/paceline\n", "work");
        assert_eq!(places(&nothing_of_one_machine(&tree([("docs/a.md", &text)]))), [("docs/a.md", 2)]);
    }

    #[test]
    fn on_a_crate_with_lints_of_its_own() {
        let files = [("a/Cargo.toml", "[lints]\nworkspace = true\n"), ("b/Cargo.toml", "[dependencies]\n")];
        assert_eq!(places(&crates_share_the_lints(&tree(files))), [("b/Cargo.toml", 1)]);
    }

    fn requirements(rows: &str) -> Tree {
        let source = "#[test]\nfn it_works() {}\n#[tokio::test]\nasync fn also() {}\nfn helper() {}\n\
                      #[test]\n#[ignore = \"slow\"]\nfn never() {}\n";
        tree([("docs/requirements.md", rows), ("node/tests/a.rs", source)])
    }

    #[test]
    fn on_requirements_out_of_order_or_unproven() {
        let said = |rows: &str| requirements_are_proven(&requirements(rows))[0].rule.clone();
        assert!(said("| N1 | a | since 0.1 | `it_works`, `also` |\n").contains("`N2` is missing"));
        assert!(said("| N1 | a | not yet | |\n| N3 | a | not yet | |\n").contains("`N3` is out of order"));
        assert!(said("| N1 | a | since 0.1 | `helper` |\n").contains("no test `helper`"));
        assert!(said("| N1 | a | since 0.1 | `never` |\n").contains("no test `never`"), "it is ignored");
        assert!(said("| N1 | a | since 0.1 | |\n").contains("names no test"));
        assert!(said("| N1 | a | soon | |\n").contains("is no state"));
    }

    #[test]
    fn on_bounds_that_are_not_there() {
        let text = "| `CHAIN_BYTES_MAX` | 4096 |\n| `GONE_MAX` | 1 |\n`--join` `PATH`\n";
        let source = "pub(crate) const CHAIN_BYTES_MAX: usize = 4096;\n";
        let all = tree([("docs/protocol.md", text), ("mesh/src/lib.rs", source)]);
        assert_eq!(places(&named_bounds_exist(&all)), [("docs/protocol.md", 2)]);
    }

    #[test]
    fn on_commands_and_links() {
        let readme = "    cargo test --workspace\n[a](docs/a.md) [b](docs/b.md) [c](https://example.org)\n";
        let all = tree([("README.md", readme), ("docs/a.md", "[up](../README.md#x)"), (".ci/run", "")]);
        assert_eq!(readme_commands(&all).len(), 2, "the first command, and .ci/run");
        assert_eq!(places(&links_lead_somewhere(&all)), [("README.md", 2)]);
    }
}
