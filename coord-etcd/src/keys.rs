//! How names become keys.
//!
//! ```text
//! coord/c/<namespace>/<kind>/<name>/<claim>   a claim of a line
//! coord/…/<namespace>/…                       values and jobs: see there
//! ```
//!
//! In namespaces and names, `/` is written `%2F` and `%` is written `%25`, so no name is the beginning of another one's keys, and
//! no two names share a key.

use coord_core::spi::{ClaimId, LineId};

/// What all keys of this library begin with.
pub(crate) const ROOT: &str = "coord/";

/// What the keys of one part of a namespace begin with: `coord/<part>/<namespace>/`.
pub(crate) fn stem(part: &str, namespace: &str) -> String {
    let mut stem = String::with_capacity(ROOT.len() + part.len() + namespace.len() + 2);
    stem.push_str(ROOT);
    stem.push_str(part);
    stem.push('/');
    escape(&mut stem, namespace);
    stem.push('/');
    stem
}

/// What the keys of a line begin with, in our own layout.
pub(crate) fn line(line: &LineId) -> String {
    let mut prefix = stem("c", line.namespace.as_str());
    prefix.push_str(line.kind.as_str());
    prefix.push('/');
    escape(&mut prefix, line.name.as_str());
    prefix.push('/');
    prefix
}

/// A claim's id as it stands in keys: 32 hexadecimal digits.
pub(crate) fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

/// The id that these 32 digits stand for.
pub(crate) fn claim_id(digits: &[u8]) -> Option<ClaimId> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.len() == 32)?;
    if text.bytes().any(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    Some(ClaimId::from_bytes(u128::from_str_radix(text, 16).ok()?.to_be_bytes()))
}

/// The first key behind all that begin with this.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // All keys from here on.
    vec![0]
}

/// Writes a name so that it holds no `/`.
pub(crate) fn escape(into: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '%' => into.push_str("%25"),
            '/' => into.push_str("%2F"),
            other => into.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use coord_core::{Name, Namespace, spi::Kind};

    use super::*;

    fn key(namespace: &str, kind: Kind, name: &str) -> String {
        line(&LineId { namespace: Namespace::new(namespace).unwrap(), kind, name: Name::new(name).unwrap() })
    }

    #[test]
    fn no_two_names_share_keys() {
        let keys = [
            key("a", Kind::Lock, "b"),
            key("a", Kind::Lock, "b/"),
            key("a", Kind::Lock, "b%2F"),
            key("a", Kind::Lock, "b%"),
            key("a", Kind::Election, "b"),
            key("a%2Flock", Kind::Lock, "b"),
            key("b", Kind::Lock, "b"),
        ];
        for (at, one) in keys.iter().enumerate() {
            for other in &keys[at + 1..] {
                assert!(
                    !one.starts_with(other.as_str()) && !other.starts_with(one.as_str()),
                    "{one} {other}"
                );
            }
        }
        assert_eq!(keys[1], "coord/c/a/lock/b%2F/");
    }

    #[test]
    fn ids_are_read_back() {
        let id = ClaimId::random();
        assert_eq!(claim_id(hex(id.as_bytes()).as_bytes()), Some(id));
        for wrong in ["", "00", &"0".repeat(33), &"g".repeat(32), &format!("+{}", "0".repeat(31))] {
            assert_eq!(claim_id(wrong.as_bytes()), None);
        }
    }

    #[test]
    fn prefixes_end() {
        assert_eq!(end_of(b"a/"), b"a0");
        assert_eq!(end_of(b"a\xff\xff"), b"b");
        assert_eq!(end_of(b"\xff"), [0]);
    }
}
