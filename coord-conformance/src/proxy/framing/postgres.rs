//! Postgres's protocol, version 3: <https://www.postgresql.org/docs/15/protocol-message-formats.html>.

use super::{Framer, Next, Part, Protocol, number};

/// Postgres's protocol.
#[derive(Debug, Clone, Copy, Default)]
pub struct Postgres;

/// The codes of a first message that asks for encryption, and of one that asks to cancel.
const ENCRYPT: [u32; 2] = [80_877_103, 80_877_104];
const CANCEL: u32 = 80_877_102;

#[derive(Debug, Default)]
struct Session {
    /// The client has said who it is.
    opened: bool,
    /// The next answer is one byte: whether it will be encrypted.
    offered: bool,
    encrypted: bool,
    /// The server was ready for the first request.
    ready: bool,
    asked: u64,
    answered: u64,
}

impl Protocol for Postgres {
    fn framer(&self) -> Box<dyn Framer> {
        Box::new(Session::default())
    }
}

/// A message whose length, which counts itself, stands here.
fn frame(bytes: &[u8], at: usize) -> Option<usize> {
    let length = at + number(bytes, at)? as usize;
    (bytes.len() >= length).then_some(length)
}

impl Framer for Session {
    fn request(&mut self, bytes: &[u8]) -> Next {
        if self.encrypted {
            return Next::Unknown;
        }
        if !self.opened {
            let Some(length) = frame(bytes, 0) else { return Next::More };
            let code = number(bytes, 4);
            self.offered = code.is_some_and(|code| ENCRYPT.contains(&code));
            self.opened = !self.offered && code != Some(CANCEL);
            return Next::Frame(length, Part::Other);
        }
        let Some(length) = frame(bytes, 1) else { return Next::More };
        let kind = match bytes[0] {
            b'Q' => "Query",
            b'S' => "Sync",
            b'F' => "FunctionCall",
            _ => return Next::Frame(length, Part::Other),
        };
        self.asked += 1;
        Next::Frame(length, Part::Request { kind: kind.into(), id: self.asked })
    }

    fn reply(&mut self, bytes: &[u8]) -> Next {
        if self.encrypted {
            return Next::Unknown;
        }
        if std::mem::take(&mut self.offered) {
            self.encrypted = bytes.first() != Some(&b'N');
            return Next::Frame(1, Part::Other);
        }
        let Some(length) = frame(bytes, 1) else { return Next::More };
        let part = match bytes[0] {
            // A notice, a notification, a setting.
            b'N' | b'A' | b'S' => Part::Event,
            _ if !self.ready => Part::Other,
            _ => Part::Reply(self.answered + 1),
        };
        // It is ready for the next one.
        if bytes[0] == b'Z' && std::mem::replace(&mut self.ready, true) {
            self.answered += 1;
        }
        Next::Frame(length, part)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Next, Part, Protocol},
        Postgres,
    };

    #[test]
    fn a_reply_ends_when_the_server_is_ready() {
        let mut framer = Postgres.framer();
        let encrypt = [0, 0, 0, 8, 4, 210, 22, 47];
        assert_eq!(framer.request(&encrypt), Next::Frame(8, Part::Other));
        assert_eq!(framer.reply(b"N"), Next::Frame(1, Part::Other));
        assert_eq!(framer.request(&[0, 0, 0, 9, 0, 3, 0, 0, 0]), Next::Frame(9, Part::Other));
        assert_eq!(framer.reply(b"S\0\0\0\x06ab"), Next::Frame(7, Part::Event));
        assert_eq!(framer.reply(b"Z\0\0\0\x05I"), Next::Frame(6, Part::Other));
        assert_eq!(framer.request(b"P\0\0\0\x05aS\0"), Next::Frame(6, Part::Other));
        assert_eq!(framer.request(b"S\0\0"), Next::More);
        let sync = Part::Request { kind: "Sync".into(), id: 1 };
        assert_eq!(framer.request(b"S\0\0\0\x04"), Next::Frame(5, sync));
        assert_eq!(framer.reply(b"1\0\0\0\x04"), Next::Frame(5, Part::Reply(1)));
        assert_eq!(framer.reply(b"Z\0\0\0\x05I"), Next::Frame(6, Part::Reply(1)));
        assert_eq!(framer.reply(b"1\0\0\0\x04"), Next::Frame(5, Part::Reply(2)));
    }

    #[test]
    fn what_is_encrypted_is_passed_on() {
        let mut framer = Postgres.framer();
        framer.request(&[0, 0, 0, 8, 4, 210, 22, 47]);
        assert_eq!(framer.reply(b"S"), Next::Frame(1, Part::Other));
        assert_eq!((framer.request(b"x"), framer.reply(b"y")), (Next::Unknown, Next::Unknown));
    }
}
