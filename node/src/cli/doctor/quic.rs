//! Whether a QUIC port can be reached, without a handshake: a long-header packet of a version that nobody speaks must be
//! answered with the versions that the server speaks (RFC 9000, sections 6.1 and 15).

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

/// Servers answer no shorter datagram (RFC 9000, section 14.1).
const DATAGRAM_BYTES: usize = 1200;
/// Reserved to force the answer.
const VERSION: u32 = 0x1a2a_3a4a;
/// Length of our connection ids.
const ID_BYTES: usize = 8;
/// Datagrams get lost: sent again after this long.
const AGAIN: Duration = Duration::from_millis(300);
/// For all of it.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a QUIC server answers there, within a second.
pub(super) async fn answers(address: SocketAddr) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    let local: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let Ok(socket) = UdpSocket::bind(local).await else { return false };
    if socket.connect(address).await.is_err() {
        return false;
    }
    let id: [u8; ID_BYTES] = rand::random();
    let packet = packet(id);
    let mut answer = [0; DATAGRAM_BYTES];
    while Instant::now() < deadline {
        if socket.send(&packet).await.is_err() {
            return false;
        }
        let until = (Instant::now() + AGAIN).min(deadline);
        while let Ok(received) = timeout_at(until, socket.recv(&mut answer)).await {
            match received {
                Ok(length) if is_answer(&answer[..length], id) => return true,
                Ok(_) => {}
                // A closed port says so.
                Err(_) => return false,
            }
        }
    }
    false
}

fn packet(id: [u8; ID_BYTES]) -> [u8; DATAGRAM_BYTES] {
    let mut packet = [0; DATAGRAM_BYTES];
    // Long header, fixed bit; then version, a destination id and our own.
    packet[0] = 0xc0;
    packet[1..5].copy_from_slice(&VERSION.to_be_bytes());
    packet[5] = ID_BYTES as u8;
    packet[6..14].copy_from_slice(&id);
    packet[14] = ID_BYTES as u8;
    packet[15..23].copy_from_slice(&id);
    packet
}

/// Version negotiation: a long header, version 0, and our id as its destination.
fn is_answer(bytes: &[u8], id: [u8; ID_BYTES]) -> bool {
    matches!(bytes, [first, 0, 0, 0, 0, length, rest @ ..]
        if first & 0x80 != 0 && usize::from(*length) == ID_BYTES && rest.starts_with(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_version_negotiation_for_us_is_an_answer() {
        let id = [7; ID_BYTES];
        let mut answer = vec![0x80, 0, 0, 0, 0, 8];
        answer.extend(id);
        assert!(is_answer(&answer, id));
        assert!(!is_answer(&answer, [8; ID_BYTES]));
        assert!(!is_answer(&packet(id), id), "an echo is none");
        assert!(!is_answer(b"", id) && !is_answer(&answer[..9], id));
    }

    #[tokio::test]
    async fn silence_and_echoes_are_no_server() {
        let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = echo.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut bytes = [0; 2048];
            while let Ok((n, from)) = echo.recv_from(&mut bytes).await {
                let _ = echo.send_to(&bytes[..n], from).await;
            }
        });
        assert!(!answers(address).await);
        server.abort();
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(!answers(closed).await);
    }
}
