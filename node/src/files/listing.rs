//! A directory's listing, as HTML or JSON.

use std::{
    fmt::Write,
    io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use paceline_mesh::http::Body;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;

use super::{is_data_directory, is_open, may_be_served, plain};

/// Most entries that are listed; the answer says when there are more.
const ENTRIES_MAX: usize = 10_000;

/// What may stand bare in a link's path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Serialize)]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    size: Option<u64>,
    modified_unix_s: Option<u64>,
    #[serde(skip)]
    link: String,
}

#[derive(Serialize)]
struct Listing {
    entries: Vec<Entry>,
    truncated: bool,
}

pub(super) async fn answer(request: &Request<()>, root: &Path, directory: &Path) -> Response<Body> {
    let (root, directory, is_root) = (root.to_owned(), directory.to_owned(), root == directory);
    let read = tokio::task::spawn_blocking(move || read(&root, &directory)).await;
    let listing = match read.unwrap_or_else(|e| Err(io::Error::other(e))) {
        Ok(listing) => listing,
        Err(error) => {
            tracing::warn!(%error, "cannot list a served directory");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "this directory cannot be read");
        }
    };
    let (content_type, text) = if wants_json(request) {
        ("application/json", serde_json::to_string(&listing).unwrap_or_default())
    } else {
        ("text/html; charset=utf-8", html(&listing, is_root, &base(request)))
    };
    let length = HeaderValue::from(text.len());
    let body = if *request.method() == Method::HEAD { Body::Empty } else { Body::full(text) };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
    );
    response
}

fn wants_json(request: &Request<()>) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/html")
}

fn read(root: &Path, directory: &Path) -> io::Result<Listing> {
    let mut entries = Vec::new();
    let mut truncated = false;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let path = entry.path();
        if !is_open(std::path::Component::Normal(&file_name)) {
            continue;
        }
        // A link that leads nowhere, or out, is not served, so it is not listed.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() && !std::fs::canonicalize(&path).is_ok_and(|target| may_be_served(root, &target)) {
            continue;
        }
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if !metadata.is_dir() && !metadata.is_file() || metadata.is_dir() && is_data_directory(&path) {
            continue;
        }
        if entries.len() == ENTRIES_MAX {
            truncated = true;
            break;
        }
        let slash = if metadata.is_dir() { "/" } else { "" };
        entries.push(Entry {
            name: file_name.to_string_lossy().into_owned(),
            kind: if metadata.is_dir() { "directory" } else { "file" },
            size: metadata.is_file().then_some(metadata.len()),
            modified_unix_s: metadata.modified().ok().and_then(unix_seconds),
            link: format!("./{}{slash}", percent_encode(file_name.as_encoded_bytes(), SEGMENT)),
        });
    }
    entries.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(Listing { entries, truncated })
}

#[cfg(test)]
pub(super) fn names(directory: &Path) -> Vec<String> {
    read(directory, directory).expect("a directory").entries.into_iter().map(|entry| entry.name).collect()
}

fn unix_seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs())
}

/// Where this listing's relative links start: the gateway tells what stands before the service's path, so that the
/// links are right even where the caller left out the last slash.
fn base(request: &Request<()>) -> String {
    let prefix = request.headers().get("x-forwarded-prefix").and_then(|p| p.to_str().ok()).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~%".contains(c);
    if prefix.starts_with('/') && !prefix.starts_with("//") && prefix.chars().all(plain) {
        format!("<base href=\"{}{}\">", prefix.trim_end_matches('/'), escape(request.uri().path()))
    } else {
        String::new()
    }
}

fn html(listing: &Listing, is_root: bool, base: &str) -> String {
    let mut out = String::from("<!doctype html><meta charset=utf-8>");
    out.push_str(base);
    out.push_str(
        "<meta name=viewport content=\"width=device-width\"><title>Files</title>\
         <style>body{font:15px/1.6 system-ui;margin:2em;max-width:60em}td{padding:0 2em 0 0}td+td{text-align:right;\
         color:#666}a{text-decoration:none}</style>\n<table>\n",
    );
    if !is_root {
        out.push_str("<tr><td><a href=\"../\">../</a><td>\n");
    }
    for entry in &listing.entries {
        let slash = if entry.size.is_none() { "/" } else { "" };
        let size = entry.size.map(|s| s.to_string()).unwrap_or_default();
        // Writing to a String cannot fail; the link is percent-encoded throughout.
        let _ = writeln!(out, "<tr><td><a href=\"{}\">{}{slash}</a><td>{size}", entry.link, escape(&entry.name));
    }
    out.push_str("</table>\n");
    if listing.truncated {
        let _ = writeln!(out, "<p>The first {ENTRIES_MAX} entries; there are more.");
    }
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
