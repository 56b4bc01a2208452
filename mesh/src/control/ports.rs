//! Ports: probed and held before anything on disk is touched.
//!
//! libp2p listens on TCP with `SO_REUSEPORT`, which would let two processes share a port without a word; so the ports
//! are bound here first, without it, and given free just before libp2p listens. UDP is bound by both without reuse,
//! and decides a race.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Bind;
use crate::mesh::StartError;

/// How often a free port is looked for that UDP and TCP both have.
const TRIES: usize = 16;

/// One port number, held for UDP and TCP.
#[derive(Debug)]
pub(crate) struct MeshPort {
    /// Where; the port is never 0.
    pub(crate) address: SocketAddr,
    _udp: UdpSocket,
    _tcp: Socket,
}

fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // a port with connections in TIME_WAIT is free for a restart; one with a listener is not
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // two bound sockets are told apart by who listens first
    socket.listen(1)?;
    Ok(socket)
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn pair(address: SocketAddr) -> io::Result<MeshPort> {
    let udp = udp(address)?;
    let address = udp.local_addr()?;
    Ok(MeshPort { address, _udp: udp, _tcp: tcp(address)? })
}

fn any_pair(mut address: SocketAddr) -> io::Result<MeshPort> {
    address.set_port(0);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        match pair(address) {
            Ok(port) => return Ok(port),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Holds the mesh port.
///
/// # Errors
/// [`StartError::Bind`]: it was asked for by number and is taken, or the address is not this machine's.
pub(crate) fn mesh(bind: Bind) -> Result<MeshPort, StartError> {
    let error = |source| StartError::Bind { what: "--mesh", address: bind.address, source };
    if bind.address.port() == 0 {
        return any_pair(bind.address).map_err(error);
    }
    match pair(bind.address) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && !bind.explicit => {
            let port = any_pair(bind.address).map_err(error)?;
            tracing::warn!(taken = %bind.address, instead = %port.address, "the default mesh port is taken");
            Ok(port)
        }
        result => result.map_err(error),
    }
}

/// Binds the data port, for good.
///
/// # Errors
/// As for [`mesh`].
pub(crate) fn data(bind: Bind) -> Result<UdpSocket, StartError> {
    let error = |source| StartError::Bind { what: "--data", address: bind.address, source };
    match udp(bind.address) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && !bind.explicit => {
            let mut any = bind.address;
            any.set_port(0);
            let socket = udp(any).map_err(error)?;
            let instead = socket.local_addr().map_err(error)?;
            tracing::warn!(taken = %bind.address, %instead, "the default data port is taken");
            Ok(socket)
        }
        result => result.map_err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(address: SocketAddr, explicit: bool) -> Bind {
        Bind { address, explicit }
    }

    #[test]
    fn a_taken_port_is_an_error_where_it_was_asked_for_and_replaced_where_not() {
        let held = mesh(bind("127.0.0.1:0".parse().expect("an address"), true)).expect("a free port");
        let refused = mesh(bind(held.address, true)).expect_err("taken");
        assert!(refused.to_string().starts_with(&format!("cannot bind --mesh {}: ", held.address)), "{refused}");
        let other = mesh(bind(held.address, false)).expect("another port");
        assert_ne!(other.address.port(), held.address.port());
    }

    #[test]
    fn a_tcp_listener_alone_takes_the_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        assert!(mesh(bind(address, true)).is_err());
    }

    #[test]
    fn the_data_port_alike() {
        let held = data(bind("127.0.0.1:0".parse().expect("an address"), true)).expect("a free port");
        let address = held.local_addr().expect("an address");
        assert!(data(bind(address, true)).is_err());
        assert!(data(bind(address, false)).is_ok());
    }
}
