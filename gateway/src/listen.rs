//! The HTTP port: one listening socket for each lane, all on the same address, the kernel spreading connections.

use std::net::{SocketAddr, TcpListener};

use paceline_mesh::Bind;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Callers, GatewayError};

/// Connections that the kernel holds for a lane until it accepts them.
const BACKLOG: i32 = 4096;

/// Listening sockets, bound before anything else is changed.
#[derive(Debug)]
pub struct Listeners {
    address: SocketAddr,
    sockets: Vec<TcpListener>,
}

impl Listeners {
    /// Binds one SO_REUSEPORT listener for each lane; an explicit port that is taken is an error, a default one gives
    /// way to a free one with a warning. Off loopback it refuses where callers could show nothing.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn bind(http: Bind, lanes: usize, callers: &Callers) -> Result<Self, GatewayError> {
        let wanted = http.address;
        callers.check_bind(wanted)?;
        let failed = |source| GatewayError::Bind { address: wanted, source };
        let address = match probe(wanted) {
            Ok(()) => wanted,
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && !http.explicit => SocketAddr::new(wanted.ip(), 0),
            Err(e) => return Err(failed(e)),
        };
        let first = listen(address).map_err(failed)?;
        let address = first.local_addr().map_err(failed)?;
        if address.port() != wanted.port() && wanted.port() != 0 {
            tracing::warn!(%wanted, bound = %address, "the default HTTP port is taken: using a free one");
        }
        let mut sockets = vec![first];
        for _ in 1..lanes.max(1) {
            sockets.push(listen(address).map_err(failed)?);
        }
        Ok(Self { address, sockets })
    }

    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn into_sockets(self) -> Vec<TcpListener> {
        self.sockets
    }
}

/// Whether the port is free: without SO_REUSEPORT, which would share it with another process of the same user.
fn probe(address: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(address).map(drop)
}

/// Listens at once: a bound socket that does not listen holds its port against nobody who sets SO_REUSEADDR.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str, explicit: bool) -> Bind {
        Bind { address: address.parse().expect("address"), explicit }
    }

    #[test]
    fn lanes_share_one_port() {
        let l = Listeners::bind(at("127.0.0.1:0", true), 3, &Callers::default()).expect("bind");
        assert_ne!(l.address().port(), 0);
        for s in l.into_sockets() {
            assert_eq!(s.local_addr().expect("address").ip().to_string(), "127.0.0.1");
        }
    }

    #[test]
    fn an_explicit_port_that_is_taken_is_an_error_even_where_it_could_be_shared() {
        let held = Listeners::bind(at("127.0.0.1:0", true), 1, &Callers::default()).expect("bind");
        let taken = held.address();
        let e = Listeners::bind(Bind { address: taken, explicit: true }, 2, &Callers::default()).expect_err("taken");
        assert!(e.to_string().contains(&taken.to_string()), "{e}");
        let other =
            Listeners::bind(Bind { address: taken, explicit: false }, 2, &Callers::default()).expect("gives way");
        assert_ne!(other.address(), taken);
    }

    #[test]
    fn off_loopback_needs_the_word() {
        let bound = |callers: &Callers| Listeners::bind(at("0.0.0.0:0", true), 1, callers).map(drop);
        let callers = Callers::default();
        let e = bound(&callers).expect_err("refused");
        assert!(e.to_string().contains("--insecure-no-auth") && e.to_string().contains("key create"), "{e}");
        callers.keys().create(Default::default()).expect("a key");
        assert!(bound(&callers).is_ok());
        assert!(bound(&Callers::insecure()).is_ok());
    }
}
