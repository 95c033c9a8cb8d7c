//! How names become keys and channels.
//!
//! ```text
//! coord:{<namespace>/<kind>/<name>}:<part>     a key of a name
//! coord:{<namespace>/<kind>/<name>}:news       the channel on which a change of a line is told
//! coord:client:<id>                            the channel of one client
//! ```
//!
//! The braces are a hash tag of Redis Cluster: all keys of a name are in one slot. In a namespace and a name, `}` is
//! written `%7D` and `%` is written `%25`, so that the tag ends where it should. Neither a kind nor a namespace holds a `/`,
//! and no part holds a brace, so no two names share a key.

use std::fmt::Write;

use coord_core::{
    Namespace,
    spi::{Kind, LineId, jobs::QueueId},
};

/// What all keys of one name begin with: `coord:{…}:`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Stem(String);

impl Stem {
    pub(crate) fn new(namespace: &str, kind: &str, name: &str) -> Self {
        let mut stem = String::with_capacity(12 + namespace.len() + kind.len() + name.len());
        stem.push_str("coord:{");
        escape(&mut stem, namespace);
        // Writing to a string does not fail.
        let _ = write!(stem, "/{kind}/");
        escape(&mut stem, name);
        stem.push_str("}:");
        Self(stem)
    }

    pub(crate) fn of_line(line: &LineId) -> Self {
        Self::new(line.namespace.as_str(), line.kind.as_str(), line.name.as_str())
    }

    /// A queue.
    pub(crate) fn of_queue(queue: &QueueId) -> Self {
        Self::new(queue.namespace.as_str(), Kind::Queue.as_str(), queue.name.as_str())
    }

    /// The values of a namespace, which stand together because a transaction spans keys: `coord:{<namespace>/config}:`.
    pub(crate) fn of_values(namespace: &Namespace) -> Self {
        let mut stem = "coord:{".to_owned();
        escape(&mut stem, namespace.as_str());
        // Writing to a string does not fail.
        let _ = write!(stem, "/{}}}:", Kind::Config);
        Self(stem)
    }

    /// One key of the name.
    pub(crate) fn key(&self, part: &str) -> String {
        debug_assert!(!part.contains(['{', '}']), "{part}");
        [self.0.as_str(), part].concat()
    }

    /// The channel on which changes are told.
    pub(crate) fn news(&self) -> Channel {
        Channel(self.key("news"))
    }
}

/// A channel of the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Channel(String);

impl Channel {
    /// The channel of a client.
    pub(crate) fn of_client(id: &str) -> Self {
        Self(format!("coord:client:{id}"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Channel {
    fn from(name: String) -> Self {
        Self(name)
    }
}

fn escape(into: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '%' => into.push_str("%25"),
            '}' => into.push_str("%7D"),
            other => into.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use coord_core::{Name, Namespace, spi::Kind};

    use super::*;

    fn tag(key: &str) -> &str {
        let (_, after) = key.split_once('{').unwrap();
        after.split_once('}').unwrap().0
    }

    #[test]
    fn no_two_lines_share_a_key_and_the_keys_of_one_share_a_slot() {
        let names = [
            "a",
            "/",
            "a/b",
            "b",
            "..",
            "lock/a",
            "default/a",
            "e\u{301}",
            "\u{e9}",
            "🦀",
            " a",
            "a ",
            "}",
            "{",
            "{}",
            "a}:line",
            "%7D",
            "%",
            "%25",
            "%257D",
        ];
        let namespaces = ["a", "default", "lock", "a b", "}", "{", "%7D"];
        let mut keys = HashSet::new();
        for kind in Kind::ALL {
            for namespace in namespaces {
                for name in names {
                    let line = LineId {
                        namespace: Namespace::new(namespace).unwrap(),
                        kind,
                        name: Name::new(name).unwrap(),
                    };
                    let stem = Stem::of_line(&line);
                    for part in ["line", "ends", "news"] {
                        let key = stem.key(part);
                        assert!(!tag(&key).is_empty());
                        assert_eq!(tag(&key), tag(&stem.key("claims")));
                        assert!(keys.insert(key), "{line} {part}");
                    }
                }
            }
        }
        let line =
            LineId { namespace: Namespace::default(), kind: Kind::Lock, name: Name::new("x").unwrap() };
        assert_eq!(Stem::of_line(&line).key("line"), "coord:{default/lock/x}:line");
        let LineId { namespace, name, .. } = line;
        assert_eq!(Stem::of_values(&namespace).key("log"), "coord:{default/config}:log");
        let queue = QueueId { namespace, name };
        assert_eq!(Stem::of_queue(&queue).key("items"), "coord:{default/queue/x}:items");
    }
}
