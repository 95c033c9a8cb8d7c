//! Redis's protocol, RESP 2 and 3: replies come in the order of the commands.

use std::collections::VecDeque;

use super::{Framer, Next, Part, Protocol};

/// Redis's protocol. Not known are `CLIENT REPLY OFF`, and `UNSUBSCRIBE` without names on more than one channel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Redis;

#[derive(Debug, Default)]
struct Commands {
    asked: u64,
    /// Those without a complete answer: the number, and how many replies are to come.
    open: VecDeque<(u64, usize)>,
}

impl Protocol for Redis {
    fn framer(&self) -> Box<dyn Framer> {
        Box::new(Commands::default())
    }
}

impl Framer for Commands {
    fn request(&mut self, bytes: &[u8]) -> Next {
        let (length, name, words) = match bytes.first() {
            Some(b'*') => match value(bytes, 0) {
                Found::At(end) => (end, word(bytes, 0), words(bytes)),
                Found::More => return Next::More,
                Found::Nonsense => return Next::Unknown,
            },
            // A command in a line, as people type it.
            Some(letter) if letter.is_ascii_alphabetic() => match end_of_line(bytes, 0) {
                Some(end) => {
                    let line: Vec<_> = bytes[..end].split(u8::is_ascii_whitespace).collect();
                    let words: Vec<_> = line.into_iter().filter(|word| !word.is_empty()).collect();
                    (end, words.first().copied(), words.len())
                }
                None => return Next::More,
            },
            _ => return Next::Unknown,
        };
        let name = String::from_utf8_lossy(name.unwrap_or_default()).to_ascii_uppercase();
        self.asked += 1;
        let replies = if name.ends_with("SUBSCRIBE") { words.saturating_sub(1).max(1) } else { 1 };
        self.open.push_back((self.asked, replies));
        Next::Frame(length, Part::Request { kind: name.into(), id: self.asked })
    }

    fn reply(&mut self, bytes: &[u8]) -> Next {
        let length = match value(bytes, 0) {
            Found::At(end) => end,
            Found::More => return Next::More,
            Found::Nonsense => return Next::Unknown,
        };
        let name = if matches!(bytes[0], b'*' | b'>') { word(bytes, 0) } else { None };
        let part = match (name, bytes[0]) {
            (Some(b"message" | b"pmessage" | b"smessage"), _) => Part::Event,
            // The answer to a subscription is pushed.
            (Some(name), b'>') if !name.ends_with(b"subscribe") => Part::Event,
            _ => match self.open.front_mut() {
                Some((id, replies)) => {
                    let id = *id;
                    *replies -= 1;
                    if *replies == 0 {
                        self.open.pop_front();
                    }
                    Part::Reply(id)
                }
                None => Part::Event,
            },
        };
        Next::Frame(length, part)
    }
}

enum Found {
    At(usize),
    More,
    Nonsense,
}

fn end_of_line(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.iter().position(|byte| *byte == b'\n').map(|end| at + end + 1)
}

/// The number in a line after its first byte.
fn count(bytes: &[u8], at: usize, end: usize) -> Option<i64> {
    std::str::from_utf8(&bytes[at + 1..end]).ok()?.trim_end().parse().ok()
}

/// Where the value that begins here ends.
fn value(bytes: &[u8], at: usize) -> Found {
    let (mut at, mut left) = (at, 1_u64);
    while left > 0 {
        let Some(kind) = bytes.get(at) else { return Found::More };
        let Some(end) = end_of_line(bytes, at) else { return Found::More };
        left -= 1;
        let number = || count(bytes, at, end);
        at = match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => end,
            b'$' | b'=' | b'!' => match number().map(usize::try_from) {
                Some(Ok(length)) => end + length + 2,
                // Nothing.
                Some(Err(_)) => end,
                None => return Found::Nonsense,
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => match number().map(u64::try_from) {
                Some(Ok(length)) => {
                    left += match kind {
                        b'%' => 2 * length,
                        // Attributes stand before what they belong to.
                        b'|' => 2 * length + 1,
                        _ => length,
                    };
                    end
                }
                Some(Err(_)) => end,
                None => return Found::Nonsense,
            },
            _ => return Found::Nonsense,
        };
    }
    if at <= bytes.len() { Found::At(at) } else { Found::More }
}

fn words(bytes: &[u8]) -> usize {
    let end = end_of_line(bytes, 0).unwrap_or_default();
    count(bytes, 0, end).and_then(|count| usize::try_from(count).ok()).unwrap_or_default()
}

/// The first element of the array that begins here, if it is text.
fn word(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let head = end_of_line(bytes, at)?;
    if *bytes.get(head)? != b'$' {
        return None;
    }
    let text = end_of_line(bytes, head)?;
    let length = usize::try_from(count(bytes, head, text)?).ok()?;
    bytes.get(text..text + length)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Next, Part, Protocol},
        Redis,
    };

    fn asked(kind: &str, id: u64, length: usize) -> Next {
        Next::Frame(length, Part::Request { kind: kind.to_owned().into(), id })
    }

    #[test]
    fn replies_belong_to_commands_in_their_order() {
        let mut framer = Redis.framer();
        assert_eq!(framer.request(b"*2\r\n$3\r\nget\r\n$1\r\na\r\n*1\r\n"), asked("GET", 1, 20));
        assert_eq!(framer.request(b"*1\r\n$4\r\nPI"), Next::More);
        assert_eq!(framer.request(b"*1\r\n$4\r\nPING\r\n"), asked("PING", 2, 14));
        assert_eq!(framer.request(b"ping\r\n"), asked("PING", 3, 6));
        assert_eq!(framer.reply(b"$5\r\nab"), Next::More);
        assert_eq!(framer.reply(b"$5\r\nab\r\nc\r\n+PONG\r\n"), Next::Frame(11, Part::Reply(1)));
        assert_eq!(framer.reply(b"*2\r\n:1\r\n*2\r\n$-1\r\n+a\r\n"), Next::Frame(21, Part::Reply(2)));
        assert_eq!(framer.reply(b"%1\r\n+a\r\n:1\r\n"), Next::Frame(12, Part::Reply(3)));
        assert_eq!(framer.reply(b">2\r\n$3\r\nabc\r\n:1\r\n"), Next::Frame(17, Part::Event));
        assert_eq!(framer.reply(b"HTTP/1.1 400"), Next::More);
        assert_eq!(framer.reply(b"HTTP/1.1 400 Bad\r\n"), Next::Unknown);
    }

    #[test]
    fn a_subscription_has_a_reply_for_each_channel_and_messages_are_none() {
        let mut framer = Redis.framer();
        let subscribe = b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n";
        assert_eq!(framer.request(subscribe), asked("SUBSCRIBE", 1, subscribe.len()));
        assert_eq!(framer.request(b"PING\r\n"), asked("PING", 2, 6));
        let done = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n";
        assert_eq!(framer.reply(done), Next::Frame(done.len(), Part::Reply(1)));
        let message = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n";
        assert_eq!(framer.reply(message), Next::Frame(message.len(), Part::Event));
        assert_eq!(framer.reply(done), Next::Frame(done.len(), Part::Reply(1)));
        assert_eq!(framer.reply(b"+PONG\r\n"), Next::Frame(7, Part::Reply(2)));
    }
}
