use super::*;
use http_body_util::BodyExt;
use std::os::unix::fs::symlink;

/// `root` has files, a hidden one, and links that stay and links that leave; `outside` is beside it.
fn tree() -> (tempfile::TempDir, Files) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("sub/.git")).unwrap();
    std::fs::create_dir_all(root.join("site")).unwrap();
    std::fs::write(root.join("a.txt"), "0123456789").unwrap();
    std::fs::write(root.join("sub/b & <c>.md"), "# b").unwrap();
    std::fs::write(root.join("sub/.git/config"), "hidden").unwrap();
    std::fs::write(root.join(".env"), "hidden").unwrap();
    std::fs::write(root.join("site/index.html"), "<p>index").unwrap();
    std::fs::write(dir.path().join("outside"), "outside").unwrap();
    symlink(root.join("a.txt"), root.join("inner")).unwrap();
    symlink(dir.path().join("outside"), root.join("leaves")).unwrap();
    symlink("/", root.join("sub/slash")).unwrap();
    symlink(root.join(".env"), root.join("env")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let root = root.canonicalize().unwrap();
    (dir, Files::new(root))
}

async fn ask(files: &Files, method: &str, path: &str, headers: &[(&str, &str)]) -> (Response<()>, String) {
    let builder = Request::builder().method(method).uri(path);
    let request = headers.iter().fold(builder, |b, (k, v)| b.header(*k, *v)).body(Body::Empty).unwrap();
    let (parts, body) = files.serve(request).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(parts, ()), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn files_have_types_ranges_and_conditions() {
    let (_dir, files) = tree();
    let (head, body) = ask(&files, "GET", "/a.txt", &[]).await;
    assert_eq!((head.status().as_u16(), body.as_str()), (200, "0123456789"));
    assert_eq!(head.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(head.headers()["content-length"], "10");
    let modified = head.headers()["last-modified"].to_str().unwrap().to_owned();
    let (head, body) = ask(&files, "GET", "/a.txt", &[("if-modified-since", &modified)]).await;
    assert_eq!((head.status().as_u16(), body.as_str()), (304, ""));
    let (head, body) = ask(&files, "GET", "/a.txt", &[("range", "bytes=2-4")]).await;
    assert_eq!((head.status().as_u16(), body.as_str()), (206, "234"));
    assert_eq!(head.headers()["content-range"], "bytes 2-4/10");
    let (head, _) = ask(&files, "GET", "/a.txt", &[("range", "bytes=20-")]).await;
    assert_eq!(head.status(), 416);
    let (head, body) = ask(&files, "HEAD", "/a.txt", &[]).await;
    assert_eq!((head.status().as_u16(), body.as_str()), (200, ""));
    assert_eq!(head.headers()["content-length"], "10");
    assert_eq!(ask(&files, "GET", "/inner", &[]).await.1, "0123456789", "a link that stays inside is followed");
}

#[tokio::test]
async fn nothing_outside_and_nothing_hidden_is_served() {
    let (_dir, files) = tree();
    for path in [
        "/.env",
        "/env",
        "/%2eenv",
        "/sub/.git/config",
        "/leaves",
        "/sub/slash/etc/passwd",
        "/sub/slash/",
        "/../outside",
        "/%2e%2e/outside",
        "/..%2foutside",
        "/sub/..%2f..%2foutside",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/loop",
        "/a.txt%00",
        "/a.txt/",
        "/a.txt/x",
        "/nothing",
        "/%ff",
        "/..%5coutside",
    ] {
        let (head, body) = ask(&files, "GET", path, &[]).await;
        assert_eq!(head.status(), 404, "{path}: {body}");
        assert!(!body.contains("outside") && !body.contains("root:"), "{path}: {body}");
    }
}

#[tokio::test]
async fn pipes_are_not_opened() {
    let (dir, files) = tree();
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("root/pipe")).status().unwrap();
    assert!(made.success());
    assert_eq!(ask(&files, "GET", "/pipe", &[]).await.0.status(), 404);
}

#[tokio::test]
async fn directories_are_listed_with_care() {
    let (_dir, files) = tree();
    let (head, body) = ask(&files, "GET", "/sub/", &[]).await;
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-type"], "text/html; charset=utf-8");
    assert!(body.contains("href=\"./b%20%26%20%3Cc%3E.md\">b &amp; &lt;c&gt;.md</a>"), "{body}");
    assert!(body.contains("../") && !body.contains(".git") && !body.contains("slash"), "{body}");
    let (_, body) = ask(&files, "GET", "/", &[("accept", "application/json")]).await;
    let listing: serde_json::Value = serde_json::from_str(&body).unwrap();
    let names: Vec<_> = listing["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["site", "sub", "a.txt", "inner"]);
    assert_eq!(listing["entries"][2]["size"], 10);
    let (head, body) = ask(&files, "HEAD", "/", &[]).await;
    assert_eq!((head.status().as_u16(), body.as_str()), (200, ""));
    assert_eq!(ask(&files, "GET", "/site/", &[]).await.1, "<p>index");
    for (prefix, base) in [
        ("/api/service/files", Some("<base href=\"/api/service/files/sub/\">")),
        ("//evil.example", None),
        ("/\"><script>", None),
    ] {
        let (_, body) = ask(&files, "GET", "/sub/", &[("x-forwarded-prefix", prefix)]).await;
        assert!(base.map_or(!body.contains("<base"), |b| body.contains(b)), "{body}");
    }
}

#[tokio::test]
async fn a_directory_without_its_slash_is_redirected_relatively() {
    let (_dir, files) = tree();
    let (head, _) = ask(&files, "GET", "/sub", &[]).await;
    assert_eq!(head.status(), 308);
    assert_eq!(head.headers()["location"], "./sub/");
}

#[tokio::test]
async fn other_methods_are_refused() {
    let (_dir, files) = tree();
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let (head, _) = ask(&files, method, "/a.txt", &[]).await;
        assert_eq!((head.status().as_u16(), head.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
    }
}

#[tokio::test]
async fn a_data_directory_is_neither_served_nor_listed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let keep = root.join("keep");
    std::fs::create_dir_all(keep.join("below")).unwrap();
    std::fs::write(keep.join("below/a.txt"), "secret").unwrap();
    let status = |path: &'static str| {
        let files = Files::new(root.clone());
        async move { files.serve(Request::builder().uri(path).body(Body::Empty).unwrap()).await.status() }
    };
    assert_eq!(status("/keep/below/a.txt").await, StatusCode::OK);
    for key in KEYS {
        std::fs::write(keep.join(key), "x").unwrap();
        for path in ["/keep/below/a.txt", "/keep/below/", "/keep/", "/keep/identity.key", "/keep/admin.key"] {
            assert_eq!(status(path).await, StatusCode::NOT_FOUND, "{path} with {key}");
        }
        assert_eq!(listing::names(&root), Vec::<String>::new());
        assert!(crate::services::directory(keep.join("below").to_str().unwrap()).is_err(), "{key}");
        std::fs::remove_file(keep.join(key)).unwrap();
    }
    assert_eq!(listing::names(&root), ["keep"]);
}
