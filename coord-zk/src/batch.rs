//! Several steps that are done together or not at all, and what is to be done when somebody else was faster.

use std::time::Duration;

use coord_core::{Error, Result};

use crate::{
    error::Failure,
    keys,
    session::{Done, Mode, Refusal, Session, Step},
};

/// Steps to be sent as one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    steps: Vec<Owned>,
    bytes: usize,
}

#[derive(Debug, Clone)]
enum Owned {
    Check { path: String, version: i32 },
    Create { path: String, data: Vec<u8>, mode: Mode },
    Set { path: String, data: Vec<u8>, version: Option<i32> },
    Delete { path: String, version: Option<i32> },
}

/// Why a batch was not done. Nothing of it was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// A node is not as it was read.
    Changed,
    /// The folder of a new node is not there.
    NoFolder(String),
}

impl Batch {
    pub(crate) fn check(&mut self, path: String, version: i32) {
        self.add(path.len(), Owned::Check { path, version });
    }

    pub(crate) fn create(&mut self, path: String, data: Vec<u8>, mode: Mode) {
        self.add(path.len() + data.len(), Owned::Create { path, data, mode });
    }

    pub(crate) fn set(&mut self, path: String, data: Vec<u8>, version: Option<i32>) {
        self.add(path.len() + data.len(), Owned::Set { path, data, version });
    }

    pub(crate) fn delete(&mut self, path: String, version: Option<i32>) {
        self.add(path.len(), Owned::Delete { path, version });
    }

    /// That a node is not there, which the server has no step for.
    pub(crate) fn check_missing(&mut self, path: String) {
        self.create(path.clone(), Vec::new(), Mode::Persistent);
        self.delete(path, None);
    }

    fn add(&mut self, bytes: usize, step: Owned) {
        self.bytes += bytes + STEP;
        self.steps.push(step);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What it takes of a request, at most.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All steps of another one behind these.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.bytes += other.bytes;
        self.steps.append(&mut other.steps);
    }

    /// Sends it. The answers are in the order of the steps.
    ///
    /// # Errors
    /// What is no conflict, and whose effect may be unknown.
    pub(crate) fn send<'a>(
        &self,
        session: &'a Session,
    ) -> impl Future<Output = Result<Result<Vec<Done>, Conflict>>> + Send + use<'a> {
        let steps: Vec<_> = self.steps.iter().map(Owned::borrow).collect();
        let folders: Vec<_> = self.steps.iter().map(Owned::folder).collect();
        let sent = session.multi(&steps);
        async move {
            match sent.await {
                Ok(done) => Ok(Ok(done)),
                Err(Refusal { at, failure }) => {
                    let folder = at.and_then(|at| folders.into_iter().nth(at).flatten());
                    conflict(failure, folder).map(Err)
                }
            }
        }
    }
}

/// What one step takes of a request beside its path and its data, at most.
pub(crate) const STEP: usize = 128;

fn conflict(failure: Failure, folder: Option<String>) -> Result<Conflict> {
    match (failure, folder) {
        (Failure::NoNode, Some(folder)) => Ok(Conflict::NoFolder(folder)),
        (Failure::NoNode | Failure::NodeExists | Failure::BadVersion | Failure::NotEmpty, _) => {
            Ok(Conflict::Changed)
        }
        (Failure::Ended(error) | Failure::Other(error), _) => Err(error),
    }
}

impl Owned {
    fn borrow(&self) -> Step<'_> {
        match self {
            Self::Check { path, version } => Step::Check { path, version: Some(*version) },
            Self::Create { path, data, mode } => Step::Create { path, data, mode: *mode },
            Self::Set { path, data, version } => Step::Set { path, data, version: *version },
            Self::Delete { path, version } => Step::Delete { path, version: *version },
        }
    }

    /// Where it makes a node.
    fn folder(&self) -> Option<String> {
        match self {
            Self::Create { path, .. } => keys::parent(path).map(str::to_owned),
            _ => None,
        }
    }
}

/// Rests between attempts of which others were faster, so that not all come back at once.
#[derive(Debug, Default)]
pub(crate) struct Pause(u32);

impl Pause {
    pub(crate) async fn rest(&mut self) {
        let most = 1 << self.0.min(6);
        self.0 += 1;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..most * 1000))).await;
    }
}

/// Makes folders that are not there.
///
/// # Errors
/// Whatever prevents it.
pub(crate) async fn make(session: &Session, folders: &[(String, Vec<u8>, Mode)]) -> Result<()> {
    let sent: Vec<_> = folders.iter().map(|(path, data, mode)| session.create(path, data, *mode)).collect();
    for made in futures_util::future::join_all(sent).await {
        match made {
            Ok(_) | Err(Failure::NodeExists) => {}
            Err(failure) => return Err(Error::from(failure)),
        }
    }
    Ok(())
}
