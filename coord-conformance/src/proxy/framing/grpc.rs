//! gRPC over HTTP/2, as etcd speaks it: <https://www.rfc-editor.org/rfc/rfc9113>.

use std::{borrow::Cow, collections::HashMap, fmt};

use fluke_hpack::Decoder;

use super::{Framer, Next, Part, Protocol, number};

/// gRPC. A request is a message of the client; on a stream that goes on, such as one of watches, all that follows is the
/// reply to the last one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Grpc;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
/// Frames have 16 kilobytes unless both ends agreed on more; what says that it has more than this is no HTTP/2.
const MOST: usize = 1 << 20;

/// Kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const CONTINUATION: u8 = 9;
/// Flags of frames.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

#[derive(Default)]
struct Connection {
    began: bool,
    asked: u64,
    headers: Decoder<'static>,
    /// Headers whose rest comes with the next frame.
    unfinished: Vec<u8>,
    streams: HashMap<u32, Stream>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("asked", &self.asked).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Stream {
    method: String,
    /// How many bytes of the present message are to come.
    left: u64,
    /// The last request on it.
    request: u64,
}

impl Protocol for Grpc {
    fn framer(&self) -> Box<dyn Framer> {
        Box::new(Connection::default())
    }
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    fn first(bytes: &'a [u8]) -> Result<Self, Next> {
        let (Some(length), Some(stream)) = (number(bytes, 0), number(bytes, 5)) else {
            return Err(Next::More);
        };
        let length = (length >> 8) as usize;
        if length > MOST {
            return Err(Next::Unknown);
        }
        let payload = bytes.get(HEAD..HEAD + length).ok_or(Next::More)?;
        Ok(Self { kind: bytes[3], flags: bytes[4], stream: stream & (u32::MAX >> 1), payload })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn is(&self, part: Part) -> Next {
        Next::Frame(HEAD + self.payload.len(), part)
    }

    /// The payload without padding and priority.
    fn content(&self) -> Option<&'a [u8]> {
        let mut content = self.payload;
        if self.has(PADDED) {
            let (padding, rest) = content.split_first()?;
            content = rest.get(..rest.len().checked_sub((*padding).into())?)?;
        }
        if self.kind == HEADERS && self.has(PRIORITY) {
            content = content.get(5..)?;
        }
        Some(content)
    }
}

impl Framer for Connection {
    fn request(&mut self, bytes: &[u8]) -> Next {
        if !self.began {
            let begins = bytes.len().min(PREFACE.len());
            return match bytes[..begins] == PREFACE[..begins] {
                false => Next::Unknown,
                true if begins < PREFACE.len() => Next::More,
                true => {
                    self.began = true;
                    Next::Frame(PREFACE.len(), Part::Other)
                }
            };
        }
        match Frame::first(bytes) {
            Ok(frame) => self.asks(&frame).unwrap_or(Next::Unknown),
            Err(next) => next,
        }
    }

    fn reply(&mut self, bytes: &[u8]) -> Next {
        let frame = match Frame::first(bytes) {
            Ok(frame) => frame,
            Err(next) => return next,
        };
        if !matches!(frame.kind, DATA | HEADERS | RESET) {
            return frame.is(Part::Other);
        }
        let request = self.streams.get(&frame.stream).map_or(0, |stream| stream.request);
        if frame.kind == RESET || frame.has(END_STREAM) {
            self.streams.remove(&frame.stream);
        }
        frame.is(if request == 0 { Part::Other } else { Part::Reply(request) })
    }
}

impl Connection {
    /// `None` if it makes no sense.
    fn asks(&mut self, frame: &Frame<'_>) -> Option<Next> {
        match frame.kind {
            HEADERS | CONTINUATION => {
                self.unfinished.extend_from_slice(frame.content()?);
                if frame.has(END_HEADERS) {
                    let headers = self.headers.decode(&std::mem::take(&mut self.unfinished)).ok()?;
                    let path = headers.into_iter().find(|(name, _)| name == b":path");
                    let path = String::from_utf8(path.map(|(_, path)| path).unwrap_or_default()).ok()?;
                    let method = path.rsplit('/').next().unwrap_or_default().to_owned();
                    self.streams.insert(frame.stream, Stream { method, ..Stream::default() });
                }
            }
            RESET => drop(self.streams.remove(&frame.stream)),
            DATA if !frame.payload.is_empty() => {
                let Some(stream) = self.streams.get_mut(&frame.stream) else {
                    // The server has answered without waiting for it.
                    return Some(frame.is(Part::Other));
                };
                stream.follow(frame.content()?)?;
                // A message whose rest comes later is a request when that has come.
                if stream.left == 0 {
                    self.asked += 1;
                    stream.request = self.asked;
                    let kind = Cow::Owned(stream.method.clone());
                    return Some(frame.is(Part::Request { kind, id: self.asked }));
                }
            }
            _ => {}
        }
        Some(frame.is(Part::Other))
    }
}

impl Stream {
    /// Takes the messages in it into account, each of which stands after a flag and its length.
    fn follow(&mut self, mut data: &[u8]) -> Option<()> {
        loop {
            let taken = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= taken as u64;
            data = &data[taken..];
            if data.is_empty() {
                return Some(());
            }
            self.left = number(data, 1)?.into();
            data = &data[5..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Next, Part, Protocol},
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Grpc, HEADERS, PREFACE, PRIORITY,
    };

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn request(kind: &str, id: u64, length: usize) -> Next {
        Next::Frame(length, Part::Request { kind: kind.to_owned().into(), id })
    }

    #[test]
    fn messages_are_requests_and_streams_have_their_replies() {
        let mut framer = Grpc.framer();
        assert_eq!(framer.request(&PREFACE[..9]), Next::More);
        assert_eq!(framer.request(PREFACE), Next::Frame(24, Part::Other));
        let path = fluke_hpack::Encoder::new().encode([(&b":path"[..], &b"/etcdserverpb.KV/Txn"[..])]);
        let (one, two) = path.split_at(3);
        let headers = frame(HEADERS, PRIORITY, 1, &[&[0; 5], one].concat());
        assert_eq!(framer.request(&headers), Next::Frame(headers.len(), Part::Other));
        let headers = frame(CONTINUATION, END_HEADERS, 1, two);
        assert_eq!(framer.request(&headers), Next::Frame(headers.len(), Part::Other));
        // A message of three bytes in two frames, of which the first has but its head.
        assert_eq!(framer.request(&frame(DATA, 0, 1, &[0, 0, 0, 0, 3])), Next::Frame(14, Part::Other));
        assert_eq!(framer.request(&frame(DATA, END_STREAM, 1, b"abc")), request("Txn", 1, 12));
        let headers = frame(HEADERS, END_HEADERS, 3, &path);
        assert_eq!(framer.request(&headers), Next::Frame(headers.len(), Part::Other));
        assert_eq!(framer.request(&frame(DATA, 0, 3, &[0, 0, 0, 0, 0])), request("Txn", 2, 14));
        assert_eq!(framer.request(&frame(DATA, END_STREAM, 3, &[])), Next::Frame(9, Part::Other));
        assert_eq!(framer.reply(&frame(4, 0, 0, b"")), Next::Frame(9, Part::Other));
        assert_eq!(framer.reply(&frame(HEADERS, END_HEADERS, 3, b"a")), Next::Frame(10, Part::Reply(2)));
        assert_eq!(framer.reply(&frame(DATA, 0, 1, b"a")), Next::Frame(10, Part::Reply(1)));
        assert_eq!(framer.reply(&frame(HEADERS, END_STREAM, 1, b"a")), Next::Frame(10, Part::Reply(1)));
        assert_eq!(framer.reply(&frame(HEADERS, END_STREAM, 1, b"a")), Next::Frame(10, Part::Other));
    }

    #[test]
    fn what_is_no_http_2_is_passed_on() {
        assert_eq!(Grpc.framer().request(b"GET /health"), Next::Unknown);
        assert_eq!(Grpc.framer().request(&[22, 3, 1, 2]), Next::Unknown);
    }
}
