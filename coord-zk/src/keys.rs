//! How names become paths of nodes.
//!
//! ```text
//! <chroot>/coord/<namespace>/<kind>/<name>/…      a line of claims; a queue
//! <chroot>/coord/<namespace>/config/…             the values of a namespace
//! <chroot>/<name>/…                               a lock in the layout of another library
//! <chroot>/<name>/<instance>                      an instance of a service, for Curator
//! ```
//!
//! A namespace, a kind and a name are one component each. In them, `%XX` stands for each byte of what a component must not
//! hold: `/`, control characters, what the server refuses of Unicode (everything that Java writes by two characters, such
//! as emoji, and the private area), `%` itself, and the dots of `.` and `..`. So no two names share a path.
//!
//! Folders of lines are *container* nodes: the server removes them some time after they became empty. Everything above them, and
//! what a queue or the values of a namespace need to go on, stays.

use std::fmt::Write;

use coord_core::{
    Error, ErrorKind, Namespace, Result,
    spi::{Kind, LineId, jobs::QueueId},
};

use crate::config::{Config, Layout};

/// The folder of a line or a queue, and how much of its path stays.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Folder {
    path: String,
}

impl Folder {
    pub(crate) fn as_str(&self) -> &str {
        &self.path
    }

    /// A node in it.
    pub(crate) fn node(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

/// Where all nodes of our own layout stand.
fn own(config: &Config) -> String {
    format!("{}/coord", config.chroot)
}

/// The folder of a line.
///
/// # Errors
/// [`ErrorKind::InvalidName`] for a name that is no path, in the layouts in which it must be one.
pub(crate) fn of_line(config: &Config, line: &LineId) -> Result<Folder> {
    if at_its_name(config.layout(), line.kind) {
        return Ok(Folder { path: exact(config, &line.namespace, line.name.as_str())? });
    }
    Ok(Folder { path: of_name(config, line.namespace.as_str(), line.kind, line.name.as_str()) })
}

/// Whether a line stands at exactly its name, where other libraries look for it.
pub(crate) fn at_its_name(layout: Layout, kind: Kind) -> bool {
    layout != Layout::Own && kind == Kind::Lock
}

/// The folder in which Curator's service discovery looks for the instances of a service, in the layouts that show them there.
///
/// # Errors
/// [`ErrorKind::InvalidName`] for a name that is no path.
pub(crate) fn of_faces(config: &Config, line: &LineId) -> Result<Option<Folder>> {
    if line.kind != Kind::Registry || !matches!(config.layout(), Layout::Curator | Layout::Interop) {
        return Ok(None);
    }
    Ok(Some(Folder { path: exact(config, &line.namespace, line.name.as_str())? }))
}

/// The folder of a queue.
pub(crate) fn of_queue(config: &Config, queue: &QueueId) -> Folder {
    Folder { path: of_name(config, queue.namespace.as_str(), Kind::Queue, queue.name.as_str()) }
}

/// The folder of the values of a namespace. It is persistent.
pub(crate) fn of_values(config: &Config, namespace: &Namespace) -> String {
    format!("{}/{}/{}", own(config), escape(namespace.as_str()), Kind::Config)
}

fn of_name(config: &Config, namespace: &str, kind: Kind, name: &str) -> String {
    format!("{}/{}/{kind}/{}", own(config), escape(namespace), escape(name))
}

/// The name itself as a path. A namespace that is not the default is one more folder in front. So here names are not apart from
/// each other as they are elsewhere: a slash in front means nothing, and a namespace is a folder that names may begin with.
fn exact(config: &Config, namespace: &Namespace, name: &str) -> Result<String> {
    let inner = name.strip_prefix('/').unwrap_or(name);
    let path = if *namespace == Namespace::default() {
        inner.to_owned()
    } else {
        format!("{}/{inner}", escape(namespace.as_str()))
    };
    // The first is the servers' own, the second ours.
    let taken = ["zookeeper", "coord"].contains(&path.split('/').next().unwrap_or_default());
    if !inner.split('/').all(is_component) || taken {
        return Err(Error::new(
            ErrorKind::InvalidName,
            format!("in this layout a name is a path of a node, which {name:?} cannot be"),
        ));
    }
    Ok(format!("{}/{path}", config.chroot))
}

/// Whether the server takes it as one component of a path.
pub(crate) fn is_component(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(|c| c == '/' || is_refused(c))
}

/// What the server refuses in paths; see its `PathUtils.validatePath`.
fn is_refused(character: char) -> bool {
    matches!(u32::from(character), 0..=0x1f | 0x7f..=0x9f | 0xe000..=0xf8ff | 0xfff0..)
}

/// One component of a path for any text.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let dots = matches!(text, "." | "..");
    for character in text.chars() {
        if character == '/' || character == '%' || (dots && character == '.') || is_refused(character) {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a string does not fail.
                let _ = write!(escaped, "%{byte:02X}");
            }
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Undoes [`escape`]; `None` for what it does not make.
pub(crate) fn unescape(component: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(component.len());
    let mut rest = component.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The path above a node; `None` for the root.
pub(crate) fn parent(path: &str) -> Option<&str> {
    let (parent, _) = path.rsplit_once('/')?;
    (!path[1..].is_empty()).then_some(if parent.is_empty() { "/" } else { parent })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use coord_core::Name;

    use super::*;

    const NAMES: [&str; 20] = [
        "a",
        "/",
        "a/b",
        "b",
        ".",
        "..",
        "...",
        "lock/a",
        "e\u{301}",
        "\u{e9}",
        "🦀",
        " a",
        "a ",
        "%",
        "%25",
        "%2F",
        "\u{e000}",
        "\u{fff0}",
        "zookeeper",
        "🦀🦀",
    ];

    #[test]
    fn no_two_names_share_a_path_and_all_are_components() {
        let config = Config::new("h", 1);
        let mut paths = HashSet::new();
        for kind in Kind::ALL {
            for namespace in ["a", "default", "lock", "a b", "%", "..", "🦀"] {
                for name in NAMES {
                    let line = LineId {
                        namespace: Namespace::new(namespace).unwrap(),
                        kind,
                        name: Name::new(name).unwrap(),
                    };
                    let folder = of_line(&config, &line).unwrap();
                    assert!(folder.as_str()[1..].split('/').all(is_component), "{folder:?}");
                    assert_eq!(folder.as_str().split('/').count(), 5, "{folder:?}");
                    assert!(paths.insert(folder.path), "{line}");
                }
            }
        }
        for name in NAMES {
            assert_eq!(unescape(&escape(name)).as_deref(), Some(name));
        }
        assert_eq!(unescape("%"), None);
        assert_eq!(unescape("%zz"), None);
    }

    #[test]
    fn a_lock_of_others_stands_at_its_name() {
        let config = Config::new("h", 1).with_chroot("/root").unwrap().with_layout(Layout::Curator);
        let line = |namespace: &str, kind, name: &str| LineId {
            namespace: Namespace::new(namespace).unwrap(),
            kind,
            name: Name::new(name).unwrap(),
        };
        let path = |line: &LineId| of_line(&config, line).map(|folder| folder.path);
        assert_eq!(path(&line("default", Kind::Lock, "a/b")).unwrap(), "/root/a/b");
        assert_eq!(path(&line("default", Kind::Lock, "/a/b")).unwrap(), "/root/a/b");
        assert_eq!(path(&line("team", Kind::Lock, "a")).unwrap(), "/root/team/a");
        assert_eq!(path(&line("default", Kind::Semaphore, "a")).unwrap(), "/root/coord/default/semaphore/a");
        for wrong in
            ["/", "a/", "a//b", "..", "a/../b", "🦀", "zookeeper/quota", "coord/default/lock/a", "/coord"]
        {
            let error = path(&line("default", Kind::Lock, wrong)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidName, "{wrong}");
            let error = of_faces(&config, &line("default", Kind::Registry, wrong)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidName, "{wrong}");
        }
        // A service stands in our own layout, and is shown to Curator beside.
        let service = line("team", Kind::Registry, "services/shop");
        assert_eq!(path(&service).unwrap(), "/root/coord/team/registry/services%2Fshop");
        let faces = |layout, line: &LineId| {
            of_faces(&config.clone().with_layout(layout), line).unwrap().map(|folder| folder.path)
        };
        for layout in [Layout::Curator, Layout::Interop] {
            assert_eq!(faces(layout, &service).as_deref(), Some("/root/team/services/shop"));
            assert_eq!(faces(layout, &line("team", Kind::Election, "services/shop")), None);
        }
        for layout in [Layout::Own, Layout::Kazoo] {
            assert_eq!(faces(layout, &service), None);
        }
    }

    #[test]
    fn parents() {
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/"), None);
    }
}
