//! ZooKeeper's protocol: a length of four bytes, then the number of the request and its code, or the number of the reply.

use super::{Framer, Next, Part, Protocol, number};

/// ZooKeeper's protocol.
#[derive(Debug, Clone, Copy, Default)]
pub struct ZooKeeper;

/// No frame is so large; words of four letters look as if they were.
const MOST: u32 = 100 << 20;
const PING: u32 = 11;

#[derive(Debug, Default)]
struct Session {
    /// The first frame of each direction opens the session and has no number.
    asked: bool,
    opened: bool,
}

impl Protocol for ZooKeeper {
    fn framer(&self) -> Box<dyn Framer> {
        Box::new(Session::default())
    }
}

fn frame(bytes: &[u8], part: impl FnOnce() -> Part) -> Next {
    match number(bytes, 0) {
        Some(length) if length > MOST => Next::Unknown,
        Some(length) if bytes.len() >= 4 + length as usize => Next::Frame(4 + length as usize, part()),
        _ => Next::More,
    }
}

impl Framer for Session {
    fn request(&mut self, bytes: &[u8]) -> Next {
        frame(bytes, || {
            let first = !std::mem::replace(&mut self.asked, true);
            match (number(bytes, 4), number(bytes, 8)) {
                (Some(id), Some(code)) if !first && code != PING => {
                    Part::Request { kind: name(code).into(), id: id.into() }
                }
                _ => Part::Other,
            }
        })
    }

    fn reply(&mut self, bytes: &[u8]) -> Next {
        frame(bytes, || {
            let first = !std::mem::replace(&mut self.opened, true);
            match number(bytes, 4).filter(|_| !first).map(u32::cast_signed) {
                // What the protocol calls a watch that fired.
                Some(-1) => Part::Event,
                Some(-2) | None => Part::Other,
                Some(id) => Part::Reply(id.cast_unsigned().into()),
            }
        })
    }
}

/// The names of `ZooDefs.OpCode`.
fn name(code: u32) -> &'static str {
    match code.cast_signed() {
        1 => "create",
        2 => "delete",
        3 => "exists",
        4 => "getData",
        5 => "setData",
        6 => "getACL",
        7 => "setACL",
        8 => "getChildren",
        9 => "sync",
        12 => "getChildren2",
        13 => "check",
        14 => "multi",
        15 => "create2",
        16 => "reconfig",
        17 => "checkWatches",
        18 => "removeWatches",
        19 => "createContainer",
        21 => "createTTL",
        22 => "multiRead",
        100 => "auth",
        101 => "setWatches",
        102 => "sasl",
        103 => "getEphemerals",
        104 => "getAllChildrenNumber",
        105 => "setWatches2",
        106 => "addWatch",
        107 => "whoAmI",
        -11 => "closeSession",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Next, Part, Protocol},
        ZooKeeper,
    };

    fn packet(words: &[i32]) -> Vec<u8> {
        let length = i32::try_from(4 * words.len()).unwrap();
        std::iter::once(&length).chain(words).flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn requests_have_the_numbers_of_their_replies() {
        let mut framer = ZooKeeper.framer();
        let opening = packet(&[1, 2, 3]);
        assert_eq!(framer.request(&opening[..7]), Next::More);
        assert_eq!(framer.request(&opening), Next::Frame(16, Part::Other));
        assert_eq!(framer.reply(&opening), Next::Frame(16, Part::Other));
        let mut two = packet(&[7, 14]);
        two.extend(packet(&[8, 22]));
        let multi = Part::Request { kind: "multi".into(), id: 7 };
        assert_eq!(framer.request(&two), Next::Frame(12, multi));
        assert_eq!(framer.request(&packet(&[-2, 11])), Next::Frame(12, Part::Other));
        assert_eq!(framer.reply(&packet(&[7, 0])), Next::Frame(12, Part::Reply(7)));
        assert_eq!(framer.reply(&packet(&[-1, 0])), Next::Frame(12, Part::Event));
        assert_eq!(framer.reply(&packet(&[-2, 0])), Next::Frame(12, Part::Other));
    }

    #[test]
    fn words_of_four_letters_are_passed_on() {
        assert_eq!(ZooKeeper.framer().request(b"srvr"), Next::Unknown);
    }
}
