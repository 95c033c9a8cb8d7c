//! Typed configuration.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::watch, task::AbortHandle};
use tracing::warn;

use super::{ConfigEvent, ConfigStore};
use crate::{Coordinator, Error, ErrorKind, Name, Result, spi::values::Condition};

/// Refuses values that decode but make no sense; the text says why.
type Validate<T> = Arc<dyn Fn(&T) -> Result<(), String> + Send + Sync>;

/// A value of one key as a Rust type, in JSON, kept up to date.
///
/// The last good value stays when a bad one arrives; the error is reported by [`Config::error`] and logged.
pub struct Config<T> {
    coordinator: Coordinator,
    key: Name,
    validate: Validate<T>,
    state: watch::Receiver<State<T>>,
    error: Arc<Mutex<Option<Arc<Error>>>>,
    task: AbortHandle,
}

/// The last good value.
struct State<T> {
    value: Option<Arc<T>>,
    version: u64,
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Config<T> {
    /// Reads the key and follows it until the configuration is dropped. Waits for a store that is away, as a watch does; put
    /// it into a timeout if the program has to go on without.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// What the store says. A value that cannot be decoded is not an error here; see [`Config::error`].
    pub async fn open(coordinator: Coordinator, key: Name) -> Result<Self> {
        Self::open_with(coordinator, key, |_| Ok(())).await
    }

    /// As [`Config::open`], with a check that values must pass after they are decoded and before they are written.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Config::open`].
    pub async fn open_with(
        coordinator: Coordinator,
        key: Name,
        validate: impl Fn(&T) -> Result<(), String> + Send + Sync + 'static,
    ) -> Result<Self> {
        let validate: Validate<T> = Arc::new(validate);
        let error = Arc::new(Mutex::new(None));
        let (publish, mut state) = watch::channel(State { value: None, version: 0 });
        let mut events = coordinator.watch(&key);
        let follower =
            Follower { key: key.clone(), validate: validate.clone(), publish, error: error.clone() };
        match events.next().await {
            Some(Ok(event)) => follower.hear(event),
            Some(Err(error)) => return Err(error),
            None => return Err(Error::new(ErrorKind::Closed, "the watch of the configuration ended")),
        }
        // What is there now is no change.
        state.mark_unchanged();
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => follower.hear(event),
                    Err(error) => return follower.fail(error),
                }
            }
        });
        Ok(Self { coordinator, key, validate, state, error, task: task.abort_handle() })
    }

    /// The last good value; `None` if there never was one, or the key was deleted.
    #[must_use]
    pub fn get(&self) -> Option<Arc<T>> {
        self.state.borrow().value.clone()
    }

    /// The version of the last good value, or of the deletion; for [`Condition::Version`].
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state.borrow().version
    }

    /// What is wrong with the newest value, if the last good one is an older one; or why the watch ended.
    #[must_use]
    pub fn error(&self) -> Option<Arc<Error>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the next good value, or a deletion. `false` after the watch has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: the last value is never missed.
    pub async fn changed(&mut self) -> bool {
        self.state.changed().await.is_ok()
    }

    /// Writes a value after it passed the check. Returns its version.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be done.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidValue`] if it did not pass; as [`ConfigStore::put`].
    pub async fn put(&self, value: &T, condition: Condition) -> Result<u64> {
        (self.validate)(value).map_err(|why| {
            Error::new(
                ErrorKind::InvalidValue,
                format!("a value for {:?} is not valid: {why}", self.key.as_str()),
            )
        })?;
        let bytes = serde_json::to_vec(value).map_err(|error| {
            Error::new(
                ErrorKind::InvalidValue,
                format!("a value for {:?} cannot be encoded", self.key.as_str()),
            )
            .with_source(error)
        })?;
        self.coordinator.put(&self.key, bytes, condition).await
    }
}

impl<T> Drop for Config<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T> fmt::Debug for Config<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.state.borrow().version;
        f.debug_struct("Config").field("key", &self.key).field("version", &version).finish_non_exhaustive()
    }
}

struct Follower<T> {
    key: Name,
    validate: Validate<T>,
    publish: watch::Sender<State<T>>,
    error: Arc<Mutex<Option<Arc<Error>>>>,
}

impl<T: DeserializeOwned> Follower<T> {
    fn hear(&self, event: ConfigEvent) {
        let (value, version) = match event {
            ConfigEvent::Put(entry) => (Some(entry.value), entry.version),
            ConfigEvent::Deleted { version, .. } => (None, version),
            ConfigEvent::Snapshot(entries) | ConfigEvent::Resync(entries) => match entries.into_iter().next()
            {
                Some(entry) => (Some(entry.value), entry.version),
                None => (None, 0),
            },
        };
        let value = match value.map(|value| self.decode(&value)).transpose() {
            Ok(value) => value,
            Err(error) => return self.fail(error),
        };
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.publish.send_replace(State { value: value.map(Arc::new), version });
    }

    fn decode(&self, value: &[u8]) -> Result<T> {
        let key = self.key.as_str();
        let value = serde_json::from_slice(value).map_err(|error| {
            Error::new(ErrorKind::InvalidValue, format!("the value of {key:?} cannot be decoded"))
                .with_source(error)
        })?;
        (self.validate)(&value).map_err(|why| {
            Error::new(ErrorKind::InvalidValue, format!("the value of {key:?} is not valid: {why}"))
        })?;
        Ok(value)
    }

    fn fail(&self, error: Error) {
        warn!(key = %self.key, %error, "the last good value stays");
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(error));
    }
}

impl<T> Drop for Follower<T> {
    fn drop(&mut self) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        // Not by an error of the watch: its check or a decoder panicked, or its runtime ended.
        if error.is_none() || std::thread::panicking() {
            let text =
                format!("the watch of {:?} was ended by a panic or with its runtime", self.key.as_str());
            *error = Some(Arc::new(Error::new(ErrorKind::Closed, text)));
        }
    }
}
