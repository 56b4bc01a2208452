//! How requests and responses look on a QUIC stream between gateway and node.
//!
//! A message is a head frame, data frames, and for trailers one frame of them; the frame that ends it says so, and then
//! the stream is free for the next message of its direction. A frame is a byte of kind, three of length (big endian) and
//! that many of payload. Heads hold their fields as lengths and bytes: no scanning for ends of lines, no chunked coding,
//! and one way to say where a body ends.
//!
//! ```text
//! frame     kind:8 (1 head, 2 data, 3 trailers; +128: the last one)  length:24  payload
//! request   method:8+n  service:8+n  target:16+n  fields
//! response  status:16  fields
//! trailers  fields
//! fields    (name:16+n  value:16+n)*
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, uri::PathAndQuery};
use paceline_proto::id::ServiceName;

use crate::http::Body;

/// Bytes before each payload.
pub(super) const HEADER_BYTES: usize = 4;
/// Most bytes of a head or of trailers: what a client's or a service's head may have, and what hops add to it.
pub(super) const HEAD_BYTES_MAX: usize = 128 * 1024;
/// Most bytes that one data frame is given; a receiver takes any length, and holds none of it.
pub(super) const DATA_BYTES_MAX: usize = 1 << 20;
/// Most fields of a head or of trailers.
const FIELDS_MAX: usize = 512;
/// What a head usually has room in.
const HEAD_BYTES_USUAL: usize = 1024;
/// The bit of a frame's first byte that ends a message.
const LAST: u8 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Head = 1,
    Data = 2,
    Trailers = 3,
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) last: bool,
    pub(super) length: usize,
}

/// What a peer may not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::data) enum Malformed {
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a frame out of order")]
    Order,
    #[error("a head of {0} bytes")]
    TooLong(usize),
    #[error("too many header fields")]
    TooMany,
    #[error("a head that is cut short")]
    Short,
    #[error("no HTTP {0}")]
    Field(&'static str),
}

/// What does not fit into a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {0} is too long")]
pub(in crate::data) struct TooLong(&'static str);

impl Frame {
    pub(super) fn bytes(self) -> [u8; HEADER_BYTES] {
        debug_assert!(self.length < 1 << 24);
        let [_, a, b, c] = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        [self.kind as u8 | if self.last { LAST } else { 0 }, a, b, c]
    }

    pub(super) fn read([kind, a, b, c]: [u8; HEADER_BYTES]) -> Result<Self, Malformed> {
        let last = kind & LAST != 0;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let kind = match kind & !LAST {
            1 => Kind::Head,
            2 => Kind::Data,
            3 => Kind::Trailers,
            other => return Err(Malformed::Kind(other)),
        };
        if kind != Kind::Data && length > HEAD_BYTES_MAX {
            return Err(Malformed::TooLong(length));
        }
        if kind == Kind::Trailers && !last {
            return Err(Malformed::Order);
        }
        Ok(Self { kind, last, length })
    }
}

/// A head or trailers being written, its frame's header filled in at the end.
pub(super) struct Writer {
    bytes: BytesMut,
}

impl Writer {
    fn new() -> Self {
        let mut bytes = BytesMut::with_capacity(HEAD_BYTES_USUAL);
        bytes.put_bytes(0, HEADER_BYTES);
        Self { bytes }
    }

    /// The head of a request for a service.
    ///
    /// # Errors
    /// [`TooLong`].
    pub(super) fn request(request: &Request<Body>, service: &ServiceName) -> Result<Self, TooLong> {
        let mut writer = Self::new();
        writer.short(request.method().as_str().as_bytes(), "method")?;
        writer.short(service.as_str().as_bytes(), "service")?;
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        writer.long(target.as_bytes(), "target")?;
        writer.fields(request.headers())?;
        Ok(writer)
    }

    /// The head of a response.
    ///
    /// # Errors
    /// [`TooLong`].
    pub(super) fn response<B>(response: &Response<B>) -> Result<Self, TooLong> {
        let mut writer = Self::new();
        writer.bytes.put_u16(response.status().as_u16());
        writer.fields(response.headers())?;
        Ok(writer)
    }

    /// Trailers.
    ///
    /// # Errors
    /// [`TooLong`].
    pub(super) fn trailers(fields: &HeaderMap) -> Result<Self, TooLong> {
        let mut writer = Self::new();
        writer.fields(fields)?;
        Ok(writer)
    }

    fn short(&mut self, what: &[u8], name: &'static str) -> Result<(), TooLong> {
        self.bytes.put_u8(what.len().try_into().map_err(|_| TooLong(name))?);
        self.bytes.put_slice(what);
        Ok(())
    }

    fn long(&mut self, what: &[u8], name: &'static str) -> Result<(), TooLong> {
        self.bytes.put_u16(what.len().try_into().map_err(|_| TooLong(name))?);
        self.bytes.put_slice(what);
        Ok(())
    }

    fn fields(&mut self, fields: &HeaderMap) -> Result<(), TooLong> {
        for (name, value) in fields {
            self.long(name.as_str().as_bytes(), "name of a header field")?;
            self.long(value.as_bytes(), "value of a header field")?;
        }
        if self.bytes.len() - HEADER_BYTES > HEAD_BYTES_MAX || fields.len() > FIELDS_MAX {
            return Err(TooLong("head"));
        }
        Ok(())
    }

    /// The frame.
    pub(super) fn finish(mut self, kind: Kind, last: bool) -> BytesMut {
        let frame = Frame { kind, last, length: self.bytes.len() - HEADER_BYTES };
        self.bytes[..HEADER_BYTES].copy_from_slice(&frame.bytes());
        self.bytes
    }
}

/// A payload being read.
struct Reader {
    bytes: Bytes,
}

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.bytes.len() {
            return Err(Malformed::Short);
        }
        Ok(self.bytes.split_to(length))
    }

    fn u8(&mut self) -> Result<usize, Malformed> {
        Ok(self.take(1)?[0].into())
    }

    fn u16(&mut self) -> Result<usize, Malformed> {
        let two = self.take(2)?;
        Ok(u16::from_be_bytes([two[0], two[1]]).into())
    }

    fn short(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u8()?;
        self.take(length)
    }

    fn long(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u16()?;
        self.take(length)
    }

    fn fields(mut self) -> Result<HeaderMap, Malformed> {
        const USUAL: usize = 16;
        let mut fields = HeaderMap::with_capacity(USUAL);
        while !self.bytes.is_empty() {
            if fields.len() >= FIELDS_MAX {
                return Err(Malformed::TooMany);
            }
            let name = HeaderName::from_bytes(&self.long()?).map_err(|_| Malformed::Field("field name"))?;
            let value = HeaderValue::from_maybe_shared(self.long()?).map_err(|_| Malformed::Field("field value"))?;
            fields.append(name, value);
        }
        Ok(fields)
    }
}

/// The service that a request is for, and the request.
///
/// # Errors
/// [`Malformed`].
pub(super) fn request(payload: Bytes) -> Result<(ServiceName, Request<()>), Malformed> {
    let mut reader = Reader { bytes: payload };
    let method = Method::from_bytes(&reader.short()?).map_err(|_| Malformed::Field("method"))?;
    let service = reader.short()?;
    let service = std::str::from_utf8(&service).ok().and_then(|name| ServiceName::new(name).ok());
    let service = service.ok_or(Malformed::Field("service name"))?;
    let target = Uri::from_maybe_shared(reader.long()?).map_err(|_| Malformed::Field("target"))?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.headers_mut() = reader.fields()?;
    Ok((service, request))
}

/// A response.
///
/// # Errors
/// [`Malformed`].
pub(super) fn response(payload: Bytes) -> Result<Response<()>, Malformed> {
    let mut reader = Reader { bytes: payload };
    let status = u16::try_from(reader.u16()?).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let mut response = Response::new(());
    *response.status_mut() = status.ok_or(Malformed::Field("status"))?;
    *response.headers_mut() = reader.fields()?;
    Ok(response)
}

/// Trailers.
///
/// # Errors
/// [`Malformed`].
pub(super) fn trailers(payload: Bytes) -> Result<HeaderMap, Malformed> {
    Reader { bytes: payload }.fields()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(bytes: &BytesMut) -> (Frame, Bytes) {
        let frame = Frame::read(bytes[..HEADER_BYTES].try_into().expect("four")).expect("a frame");
        (frame, Bytes::copy_from_slice(&bytes[HEADER_BYTES..HEADER_BYTES + frame.length]))
    }

    fn service() -> ServiceName {
        ServiceName::new("upload").expect("a name")
    }

    #[test]
    fn a_request_comes_out_as_it_went_in() {
        let mut sent = Request::put("/a/b?c=%20d").header("x-one", "1").header("X-Two", "2").header("x-one", "3");
        let sent = {
            let odd = HeaderValue::from_bytes(b"\xff\t~").expect("obs-text");
            sent = sent.header("odd", odd).header("empty", "");
            sent.body(Body::Empty).expect("a request")
        };
        let bytes = Writer::request(&sent, &service()).expect("fits").finish(Kind::Head, false);
        let (frame, payload) = frame_of(&bytes);
        assert_eq!((frame.kind, frame.last), (Kind::Head, false));
        let (to, got) = request(payload).expect("a request");
        assert_eq!(to, service());
        assert_eq!((got.method(), got.uri(), got.headers()), (sent.method(), sent.uri(), sent.headers()));
        let ones: Vec<_> = got.headers().get_all("x-one").iter().collect();
        assert_eq!(ones, ["1", "3"], "in their order");
    }

    #[test]
    fn a_response_and_trailers_come_out_as_they_went_in() {
        let sent = Response::builder().status(299).header("a", "b").body(()).expect("a response");
        let (frame, payload) = frame_of(&Writer::response(&sent).expect("fits").finish(Kind::Head, true));
        assert!(frame.last);
        let got = response(payload).expect("a response");
        assert_eq!((got.status(), got.headers()), (sent.status(), sent.headers()));
        let bytes = Writer::trailers(sent.headers()).expect("fits").finish(Kind::Trailers, true);
        let (frame, payload) = frame_of(&bytes);
        assert_eq!(frame.kind, Kind::Trailers);
        assert_eq!(&trailers(payload).expect("trailers"), sent.headers());
    }

    #[test]
    fn what_is_cut_short_or_wrong_is_refused() {
        let sent = Request::get("/a?b").header("name", "value").body(Body::Empty).expect("a request");
        let bytes = Writer::request(&sent, &service()).expect("fits").finish(Kind::Head, true);
        let (_, payload) = frame_of(&bytes);
        let whole = payload.len();
        let field = 2 + "name".len() + 2 + "value".len();
        for cut in (0..whole).filter(|cut| *cut != whole - field) {
            let got = request(payload.slice(..cut));
            assert!(matches!(got, Err(Malformed::Short | Malformed::Field(_))), "{cut} of {whole}: {got:?}");
        }
        assert_eq!(Frame::read([0, 0, 0, 0]), Err(Malformed::Kind(0)));
        assert_eq!(Frame::read([LAST | 4, 0, 0, 0]), Err(Malformed::Kind(4)));
        assert_eq!(Frame::read([1, 2, 0, 1]), Err(Malformed::TooLong(HEAD_BYTES_MAX + 1)));
        assert_eq!(Frame::read([3, 0, 0, 1]), Err(Malformed::Order), "trailers end a message");
        assert_eq!(Frame::read([2, 0xff, 0xff, 0xff]).map(|frame| frame.length), Ok((1 << 24) - 1));
        assert_eq!(response(Bytes::from_static(&[0, 99])).err(), Some(Malformed::Field("status")));
        for wrong in [&b"\0\x01\n\0\0"[..], b"\0\x01 \0\0", b"\0\0\0\0"] {
            assert_eq!(trailers(Bytes::from_static(wrong)).err(), Some(Malformed::Field("field name")), "{wrong:?}");
        }
        assert_eq!(trailers(Bytes::from_static(b"\0\x01a\0\x01\n")).err(), Some(Malformed::Field("field value")));
        let many = b"\0\x01a\0\0".repeat(FIELDS_MAX + 1);
        assert_eq!(trailers(many.into()).err(), Some(Malformed::TooMany));
        for target in ["a b", "/\u{7f}"] {
            let mut head = vec![3];
            head.extend(b"GET\x01a\0");
            head.push(u8::try_from(target.len()).expect("short"));
            head.extend(target.as_bytes());
            assert_eq!(request(head.into()).err(), Some(Malformed::Field("target")), "{target:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_sent() {
        let sent = Request::get(format!("/{}", "a".repeat(1 << 15))).header("x", "y".repeat(1 << 15));
        let mut sent = sent.body(Body::Empty).expect("a request");
        assert!(Writer::request(&sent, &service()).is_ok());
        for n in 0..4 {
            let name: HeaderName = format!("x-{n}").parse().expect("a name");
            sent.headers_mut().insert(name, HeaderValue::from_str(&"z".repeat(1 << 15)).expect("a value"));
        }
        assert!(Writer::request(&sent, &service()).is_err());
    }
}
