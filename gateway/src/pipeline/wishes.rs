//! What a caller wants of the worker: `X-Paceline-Site`, `X-Paceline-Require`, `X-Paceline-Worker` and
//! `X-Paceline-Affinity`. Read only where one is there, and never passed on: no header of ours reaches a service.

use http::{HeaderMap, HeaderName};
use paceline_mesh::http::headers::{OWN_PREFIX, strip_own};
use paceline_proto::view::Provider;

use super::{
    affinity,
    require::{BYTES_MAX, Require, Wrong},
};

const SITE: HeaderName = HeaderName::from_static("x-paceline-site");
const REQUIRE: HeaderName = HeaderName::from_static("x-paceline-require");
const WORKER: HeaderName = HeaderName::from_static("x-paceline-worker");
const AFFINITY: HeaderName = HeaderName::from_static("x-paceline-affinity");

/// A header that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WishError {
    /// Bytes that no name has.
    #[error("{0} is not plain text")]
    NotText(&'static str),
    /// One value is wanted.
    #[error("{0} stands twice")]
    Twice(&'static str),
    /// See [`Wrong`].
    #[error("X-Paceline-Require, {0}")]
    Require(Wrong),
}

/// Which workers a caller accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Narrow {
    pub(crate) site: Option<String>,
    pub(crate) require: Option<String>,
    pub(crate) worker: Option<String>,
}

/// What a caller wants.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) narrow: Option<Box<Narrow>>,
    /// Of the value of `X-Paceline-Affinity`.
    pub(crate) key: Option<u64>,
}

impl Wishes {
    /// Takes all headers of ours from a request.
    ///
    /// # Errors
    /// [`WishError`], with the headers taken all the same.
    pub(crate) fn take(headers: &mut HeaderMap) -> Result<Self, WishError> {
        if !headers.keys().any(|name| name.as_str().starts_with(OWN_PREFIX)) {
            return Ok(Self::default());
        }
        let wishes = Self::read(headers);
        strip_own(headers);
        wishes
    }

    fn read(headers: &HeaderMap) -> Result<Self, WishError> {
        let narrow = Narrow {
            site: one(headers, &SITE, "X-Paceline-Site")?,
            worker: one(headers, &WORKER, "X-Paceline-Worker")?,
            require: list(headers)?,
        };
        if let Some(text) = &narrow.require {
            Require::parse(text).map_err(WishError::Require)?;
        }
        Ok(Self {
            narrow: (narrow != Narrow::default()).then(|| Box::new(narrow)),
            key: headers.get(AFFINITY).map(|value| affinity::hash(value.as_bytes())),
        })
    }
}

impl Narrow {
    /// Whether a worker will do, but for its name.
    pub(crate) fn fits<'a>(&'a self) -> impl Fn(&Provider) -> bool + use<'a> {
        let require = self.require.as_deref().and_then(|text| Require::parse(text).ok());
        move |provider| {
            self.site.as_deref().is_none_or(|site| provider.member.manifest.site.as_str() == site)
                && require.as_ref().is_none_or(|require| require.fits(provider))
        }
    }

    /// The wish in words, without the worker's name.
    pub(crate) fn words(&self) -> String {
        let site = self.site.as_ref().map(|site| format!("X-Paceline-Site '{site}'"));
        let require = self.require.as_ref().map(|text| format!("X-Paceline-Require '{text}'"));
        [site, require].into_iter().flatten().collect::<Vec<_>>().join(" and ")
    }
}

fn one(headers: &HeaderMap, name: &HeaderName, shown: &'static str) -> Result<Option<String>, WishError> {
    let mut all = headers.get_all(name).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(WishError::Twice(shown));
    }
    value.to_str().map(|text| Some(text.trim().to_owned())).map_err(|_| WishError::NotText(shown))
}

/// All lines of it as one list (RFC 9110, 5.3).
fn list(headers: &HeaderMap) -> Result<Option<String>, WishError> {
    let mut all: Option<String> = None;
    for value in headers.get_all(REQUIRE) {
        let text = value.to_str().map_err(|_| WishError::NotText("X-Paceline-Require"))?;
        match &mut all {
            None => all = Some(text.to_owned()),
            Some(all) => {
                // Too long already: what follows changes nothing.
                if all.len() <= BYTES_MAX {
                    all.push(',');
                    all.push_str(text);
                }
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn taken(lines: &[(&'static str, &str)]) -> (Result<Wishes, WishError>, usize) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("value"));
        }
        let wishes = Wishes::take(&mut headers);
        (wishes, headers.len())
    }

    #[test]
    fn nothing_is_wished_for_and_nothing_is_left() {
        assert_eq!(taken(&[("accept", "*/*")]), (Ok(Wishes::default()), 1));
        let (wishes, left) = taken(&[("x-paceline-error", "timeout"), ("x-paceline-path", "a"), ("x-pace", "b")]);
        assert_eq!((wishes, left), (Ok(Wishes::default()), 1));
        let lines = [
            ("x-paceline-site", " berlin "),
            ("x-paceline-require", "gpu"),
            ("x-paceline-require", "vram>=16GiB"),
            ("x-paceline-worker", "w1"),
            ("x-paceline-affinity", "me"),
        ];
        let (wishes, left) = taken(&lines);
        let wishes = wishes.expect("fine");
        let narrow =
            Narrow { site: Some("berlin".into()), require: Some("gpu,vram>=16GiB".into()), worker: Some("w1".into()) };
        assert_eq!((wishes.narrow.as_deref(), wishes.key, left), (Some(&narrow), Some(affinity::hash(b"me")), 0));
        assert_eq!(narrow.words(), "X-Paceline-Site 'berlin' and X-Paceline-Require 'gpu,vram>=16GiB'");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (lines, words) in [
            (&[("x-paceline-site", "a"), ("x-paceline-site", "b")][..], "X-Paceline-Site stands twice"),
            (&[("x-paceline-worker", "\u{e9}")][..], "X-Paceline-Worker is not plain text"),
            (
                &[("x-paceline-require", "gpu"), ("x-paceline-require", "vram>=")][..],
                "X-Paceline-Require, at character 11: a value is missing",
            ),
        ] {
            let (wishes, left) = taken(lines);
            assert_eq!((wishes.expect_err("wrong").to_string().as_str(), left), (words, 0));
        }
    }
}
