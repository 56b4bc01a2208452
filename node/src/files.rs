//! A directory as a service: files with ranges, conditional requests and content types, and listings.
//!
//! Never served: names that begin with a dot, whatever a symlink leads to outside of the directory, devices and pipes, and
//! data directories of Paceline.

mod listing;

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use paceline_mesh::http::Body;
use tower::ServiceExt;
use tower_http::services::ServeDir;

/// Served for a directory that has one.
const INDEX: &str = "index.html";

/// By any of these a directory is known to be a data directory.
const KEYS: [&str; 3] = ["identity.key", "admin.key", "api-keys.json"];

/// A directory that is served.
#[derive(Clone)]
pub struct Files {
    root: PathBuf,
    inner: ServeDir,
}

/// What a request path leads to, inside of the root.
enum Found {
    File,
    Directory(PathBuf),
    Nothing,
}

impl Files {
    /// `root` must be canonical, as [`crate::services::parse`] makes it.
    pub fn new(root: PathBuf) -> Self {
        let inner = ServeDir::new(&root).append_index_html_on_directories(false);
        Self { root, inner }
    }

    /// Answers a request; its URI is in origin form, below the service.
    pub async fn serve(&self, request: Request<Body>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        // Its body is of no use here, and not `Sync`: without it, the rest can be borrowed across awaits.
        let request = request.map(drop);
        let path = request.uri().path().to_owned();
        match self.find(&path).await {
            Ok(Found::Nothing) => plain(StatusCode::NOT_FOUND, "no such file"),
            Ok(Found::File) => self.file(request, &path).await,
            Ok(Found::Directory(_)) if !path.ends_with('/') => redirect(&path),
            Ok(Found::Directory(directory)) => match self.find(&format!("{path}{INDEX}")).await {
                Ok(Found::File) => self.file(request, &format!("{path}{INDEX}")).await,
                _ => listing::answer(&request, &self.root, &directory).await,
            },
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                plain(StatusCode::FORBIDDEN, "this file cannot be read")
            }
            Err(error) => {
                tracing::warn!(%error, root = %self.root.display(), "cannot read a served file");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "this file cannot be read")
            }
        }
    }

    async fn find(&self, path: &str) -> io::Result<Found> {
        let Some(relative) = decode(path) else { return Ok(Found::Nothing) };
        let target = match tokio::fs::canonicalize(self.root.join(relative)).await {
            Ok(target) => target,
            Err(e) if is_missing(&e) => return Ok(Found::Nothing),
            Err(e) => return Err(e),
        };
        if !may_be_served(&self.root, &target) {
            return Ok(Found::Nothing);
        }
        let metadata = tokio::fs::metadata(&target).await?;
        Ok(if metadata.is_dir() {
            Found::Directory(target)
        } else if metadata.is_file() && !path.ends_with('/') {
            Found::File
        } else {
            Found::Nothing
        })
    }

    async fn file(&self, request: Request<()>, path: &str) -> Response<Body> {
        let (mut parts, _) = request.into_parts();
        let Ok(uri) = path.parse() else { return plain(StatusCode::NOT_FOUND, "no such file") };
        parts.uri = uri;
        let response = match self.inner.clone().oneshot(Request::from_parts(parts, Body::Empty)).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let mut response = response.map(Body::boxed);
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let bare_text = headers
            .get(header::CONTENT_TYPE)
            .and_then(|t| t.to_str().ok())
            .filter(|t| t.starts_with("text/") && !t.contains(';'));
        if let Some(value) = bare_text.and_then(|t| HeaderValue::from_str(&format!("{t}; charset=utf-8")).ok()) {
            headers.insert(header::CONTENT_TYPE, value);
        }
        response
    }
}

fn is_missing(e: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    let is_loop = rustix::io::Errno::from_io_error(e) == Some(rustix::io::Errno::LOOP);
    is_loop || matches!(e.kind(), NotFound | NotADirectory | InvalidFilename | InvalidInput)
}

/// The path below the root that a URL path names; `None` where it names none: `..`, hidden names, rubbish.
fn decode(path: &str) -> Option<PathBuf> {
    let decoded = percent_encoding::percent_decode_str(path.trim_start_matches('/')).decode_utf8().ok()?;
    if decoded.contains(['\0', '\\']) {
        return None;
    }
    let relative = PathBuf::from(&*decoded);
    relative.components().all(is_open).then_some(relative)
}

/// Whether a component of a path is a name that is not hidden.
fn is_open(component: Component<'_>) -> bool {
    match component {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        Component::CurDir => true,
        Component::ParentDir | Component::RootDir | Component::Prefix(_) => false,
    }
}

/// Whether a canonical path lies in the root, and not behind a hidden name (a symlink may lead to one), nor in a data
/// directory of Paceline: what is in it opens the cluster.
fn may_be_served(root: &Path, target: &Path) -> bool {
    let Ok(below) = target.strip_prefix(root) else { return false };
    below.components().all(is_open) && !target.ancestors().take(below.components().count() + 1).any(is_data_directory)
}

/// Whether a process keeps its keys there.
pub(crate) fn is_data_directory(directory: &Path) -> bool {
    KEYS.iter().any(|key| directory.join(key).exists())
}

fn plain(status: StatusCode, words: &str) -> Response<Body> {
    let mut response = Response::new(Body::full(format!("{words}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// To the directory's own URL, so that relative links in it work. Relative: what stands before the service's path at
/// the gateway is not known here.
fn redirect(path: &str) -> Response<Body> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut response = plain(StatusCode::PERMANENT_REDIRECT, "this is a directory");
    // `./` keeps a name with a colon from being read as a scheme. It came out of a URI, so it fits a header.
    if let Ok(location) = HeaderValue::from_str(&format!("./{name}/")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests;
