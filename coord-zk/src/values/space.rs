//! The nodes of a namespace's values.
//!
//! ```text
//! …/config/head             set by every commit; its mzxid is the revision of the namespace
//! …/config/deleted          set by every commit that removes a node of a key
//! …/config/keys/<key>       the state of a key; see `record`
//! …/config/log              the revision of the last change that was forgotten, 8 bytes
//! …/config/log/c<changes>.<bytes>-<number>      what a commit changed; see `log`
//! …/config/done/<digit>/<write id>              a transaction that was done
//! ```
//!
//! The first five folders and nodes are made with the first commit and stay. The folders of `done` are container nodes.

use coord_core::{
    Name, Namespace,
    spi::{Kind, values::WriteId},
};
use uuid::Uuid;

use crate::{config::Config, keys, session::Mode};

/// The nodes of a namespace's values.
#[derive(Debug, Clone)]
pub(super) struct Space {
    root: String,
}

impl Space {
    pub(super) fn new(config: &Config, namespace: &Namespace) -> Self {
        let root = keys::of_values(config, namespace);
        debug_assert!(root.ends_with(Kind::Config.as_str()));
        Self { root }
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn head(&self) -> String {
        format!("{}/head", self.root)
    }

    pub(super) fn deleted(&self) -> String {
        format!("{}/deleted", self.root)
    }

    pub(super) fn keys(&self) -> String {
        format!("{}/keys", self.root)
    }

    pub(super) fn key(&self, key: &Name) -> String {
        format!("{}/keys/{}", self.root, keys::escape(key.as_str()))
    }

    pub(super) fn log(&self) -> String {
        format!("{}/log", self.root)
    }

    /// The folder of transactions that were done with ids like this one.
    pub(super) fn bucket(&self, id: &WriteId) -> String {
        let id = Uuid::from_bytes(*id.as_bytes());
        format!("{}/done/{:x}", self.root, id.as_bytes()[0] >> 4)
    }

    pub(super) fn done(&self, id: &WriteId) -> String {
        format!("{}/{}", self.bucket(id), Uuid::from_bytes(*id.as_bytes()).simple())
    }

    /// What has to be there before the first commit.
    pub(super) fn skeleton(&self) -> Vec<(String, Vec<u8>, Mode)> {
        let folder = |path: String| (path, Vec::new(), Mode::Persistent);
        vec![
            folder(self.root.clone()),
            folder(self.deleted()),
            folder(self.keys()),
            (self.log(), 0u64.to_be_bytes().to_vec(), Mode::Persistent),
            folder(format!("{}/done", self.root)),
            // Last: who finds it finds the others.
            folder(self.head()),
        ]
    }
}
