//! How many connections an address may hold, and that the head of each request is one that no two servers can read in
//! two ways.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, Uri, Version, header::HOST};

use super::failures::source_of;
use crate::lane::lock;

/// The connections of each address that is counted.
#[derive(Debug)]
pub(crate) struct Connections {
    max: u32,
    open: Mutex<HashMap<IpAddr, u32>>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held(Arc<Connections>, IpAddr);

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = lock(&self.0.open);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

impl Connections {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { max, open: Mutex::default() })
    }

    /// A place for one more; `None` where the address has as many as it may. The table has no more entries than there
    /// are connections, which are bounded.
    pub(crate) fn hold(self: &Arc<Self>, ip: IpAddr) -> Option<Held> {
        let source = source_of(ip);
        let mut open = lock(&self.open);
        let count = open.entry(source).or_insert(0);
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Held(self.clone(), source))
    }
}

/// Refuses a head whose authority is not one: HTTP/1.1 demands exactly one Host (RFC 9112, section 3.2), and whom a
/// request is for must not depend on which of two names a server looks at.
///
/// # Errors
/// In words for the caller.
pub(crate) fn check_host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("the request has more than one Host header");
    }
    if host.is_none() && version == Version::HTTP_11 {
        return Err("the request has no Host header");
    }
    match (uri.authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) => {
            Err("the request's target names another host than its Host header")
        }
        (Some(authority), _) if authority.as_str().contains('@') => Err("the request's target names a user"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_so_many_and_no_more() {
        let all = Connections::new(2);
        let (a, b) = ("192.0.2.1".parse().expect("ip"), "192.0.2.2".parse().expect("ip"));
        let first = all.hold(a).expect("free");
        let _second = all.hold(a).expect("free");
        assert!(all.hold(a).is_none() && all.hold(b).is_some());
        drop(first);
        assert!(all.hold(a).is_some());
        assert_eq!(lock(&all.open).len(), 1, "who holds none is forgotten");
    }

    #[test]
    fn one_host_and_the_same_in_the_target() {
        let check = |uri: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().expect("a value"));
            }
            check_host(Version::HTTP_11, &uri.parse().expect("a URI"), &headers)
        };
        assert!(check("/a", &["x:1"]).is_ok() && check("http://x:1/a", &["X:1"]).is_ok());
        assert!(check("/a", &[]).is_err() && check("/a", &["x", "x"]).is_err());
        assert!(check("http://y/a", &["x"]).is_err() && check("http://u@x/a", &["u@x"]).is_err());
        assert!(check_host(Version::HTTP_10, &"/a".parse().expect("a URI"), &HeaderMap::new()).is_ok());
    }
}
