//! How lines are named in the database.

use coord_core::{
    Error, ErrorKind, Name, Namespace, Result,
    spi::{Kind, LineId, jobs::QueueId, values::Prefix},
};
use xxhash_rust::xxh3::xxh3_128;

use crate::dialect::Value;

/// The text that stands for a line: `kind/namespace/name`.
///
/// Neither a kind nor a namespace holds a `/`, so the first two end the first two parts and no two lines share a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LineKey(String);

/// Sixteen bytes that stand for a line in a wake-up. Lines that collide wake each other in vain, which is allowed.
pub(crate) type LineMark = [u8; 16];

impl LineKey {
    pub(crate) fn of(line: &LineId) -> Self {
        Self(format!("{}/{}/{}", line.kind, line.namespace, line.name))
    }

    /// The watch of a prefix.
    pub(crate) fn of_prefix(namespace: &Namespace, text: &str) -> Self {
        Self(format!("{}/{namespace}/{text}", Kind::Config))
    }

    /// The watch of a queue.
    pub(crate) fn of_queue(queue: &QueueId) -> Self {
        Self(format!("{}/{}/{}", Kind::Queue, queue.namespace, queue.name))
    }

    /// A key as the database holds it.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn value(&self) -> Value<'_> {
        Value::Text(&self.0)
    }

    /// The same in every process and in every version of this crate.
    pub(crate) fn mark(&self) -> LineMark {
        xxh3_128(self.0.as_bytes()).to_be_bytes()
    }
}

/// The text that stands for a key of the values: `namespace/key`.
#[derive(Debug)]
pub(crate) struct ValueKey(String);

impl ValueKey {
    pub(crate) fn of(namespace: &str, key: &Name) -> Self {
        Self(format!("{namespace}/{key}"))
    }

    /// The first key that may have a prefix, and the first one behind it that has not.
    pub(crate) fn range(prefix: &Prefix) -> (Self, Self) {
        let from = format!("{}/{}", prefix.namespace, prefix.text);
        let mut to = from.clone();
        // The `/` has a successor, so it ends there if not before.
        while let Some(last) = to.pop() {
            let next = match last {
                // Texts have no surrogates.
                '\u{d7ff}' => Some('\u{e000}'),
                _ => char::from_u32(u32::from(last) + 1),
            };
            if let Some(next) = next {
                to.push(next);
                break;
            }
        }
        (Self(from), Self(to))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The key's own name.
    pub(crate) fn name(namespace: &str, stored: &str) -> Result<Name> {
        let name = stored.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('/'));
        name.and_then(|name| Name::new(name).ok()).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the stored values are damaged: a key is not as it was written")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use coord_core::{Name, Namespace, spi::Kind};

    use super::*;

    #[test]
    fn no_two_lines_share_a_key() {
        let names =
            ["a", "/", "a/b", "b", "..", "lock/a", "default/a", "e\u{301}", "\u{e9}", "🦀", " a", "a "];
        let namespaces = ["a", "default", "lock", "a b"];
        let mut keys = HashSet::new();
        for kind in Kind::ALL {
            for namespace in namespaces {
                for name in names {
                    let line = LineId {
                        namespace: Namespace::new(namespace).unwrap(),
                        kind,
                        name: Name::new(name).unwrap(),
                    };
                    assert!(keys.insert(LineKey::of(&line)), "{line}");
                }
            }
        }
        assert_eq!(keys.iter().map(LineKey::mark).collect::<HashSet<_>>().len(), keys.len());
    }
}
