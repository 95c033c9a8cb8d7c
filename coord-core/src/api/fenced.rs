//! Fenced storage: values that refuse stale tokens.

use async_trait::async_trait;

use crate::{
    Coordinator, Fence, FencingToken, Name, Result,
    engine::trace::{Tokened, traced},
    spi::{
        Kind,
        values::{Change, Condition, Write},
    },
};

/// Values in the store that each keep a high-water mark of tokens: equal tokens may write again, lower ones are refused.
/// They are the values of [`ConfigStore`](crate::ConfigStore), seen from the side of a lock's holder.
///
/// Call [`FencedStore::fence`] before the first read under a lock. Fencing writes alone leaves a hole: a stale holder
/// could write between the new holder's first read and first write.
///
/// ```
/// # use coord_core::{memory, prelude::*, Error, ErrorKind};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
/// # let coordinator = memory::Store::new().client();
/// let account = Name::new("account/7")?;
/// let guard = coordinator.acquire(&account, &LockOptions::default()).await?;
/// coordinator.fence(&account, guard.token()).await?;
/// let balance = coordinator.fenced_read(&account).await?.value;
/// assert_eq!(balance, None);
/// coordinator.fenced_write(&account, b"100".to_vec(), guard.token()).await?;
/// guard.release().await?;
///
/// let stale = FencingToken::new(1)?;
/// # let next = coordinator.acquire(&account, &LockOptions::default()).await?;
/// # coordinator.fence(&account, next.token()).await?;
/// # next.release().await?;
/// let refused = coordinator.fenced_write(&account, b"0".to_vec(), stale).await.unwrap_err();
/// assert_eq!(refused.kind(), ErrorKind::Fenced);
/// # coordinator.shutdown().await
/// # }
/// ```
#[async_trait]
pub trait FencedStore: Send + Sync {
    /// Raises the key's mark to `token`; lower tokens are refused from now on.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be raised. Doing it again is harmless.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`](crate::ErrorKind::Fenced), with both numbers, if the mark is higher already; what the store
    /// says.
    async fn fence(&self, key: &Name, token: FencingToken) -> Result<()>;

    /// The value and the mark of a key.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// What the store says.
    async fn fenced_read(&self, key: &Name) -> Result<Fenced>;

    /// Replaces the value and raises the mark to `token`, unless the mark is higher. Returns the new version.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may or may not be done.
    ///
    /// # Errors
    /// As [`FencedStore::fence`]; [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge).
    async fn fenced_write(&self, key: &Name, value: Vec<u8>, token: FencingToken) -> Result<u64>;
}

/// A fenced value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Fenced {
    /// The value, if it was ever written.
    pub value: Option<Vec<u8>>,
    /// The highest token seen.
    pub mark: Option<FencingToken>,
    /// The version of the last change; zero if there was none.
    pub version: u64,
}

impl Tokened for Fenced {
    fn fencing_token(&self) -> Option<FencingToken> {
        self.mark
    }
}

#[async_trait]
impl FencedStore for Coordinator {
    async fn fence(&self, key: &Name, token: FencingToken) -> Result<()> {
        let write = Write { key: key.clone(), condition: Condition::Token(token), change: Change::Fence };
        traced("fenced.fence", &self.line_id(Kind::Config, key), async {
            self.transact(vec![write]).await.map(|_| ())
        })
        .await
    }

    async fn fenced_read(&self, key: &Name) -> Result<Fenced> {
        traced("fenced.read", &self.line_id(Kind::Config, key), async {
            let (stored, _) = self.stored(key).await?;
            Ok(stored.map_or_else(Fenced::default, |stored| Fenced {
                value: stored.value,
                mark: stored.mark,
                version: stored.version,
            }))
        })
        .await
    }

    async fn fenced_write(&self, key: &Name, value: Vec<u8>, token: FencingToken) -> Result<u64> {
        let write =
            Write { key: key.clone(), condition: Condition::Token(token), change: Change::Put(value) };
        traced("fenced.write", &self.line_id(Kind::Config, key), self.transact(vec![write])).await
    }
}

/// One key of a [`FencedStore`], as a [`Fence`] for
/// [`Inspect::force_release`](crate::Inspect::force_release).
#[derive(Debug, Clone)]
pub struct FencedKey {
    coordinator: Coordinator,
    key: Name,
}

impl FencedKey {
    /// The fence of a key.
    #[must_use]
    pub fn new(coordinator: Coordinator, key: Name) -> Self {
        Self { coordinator, key }
    }
}

#[async_trait]
impl Fence for FencedKey {
    async fn fence(&self, token: FencingToken) -> Result<()> {
        FencedStore::fence(&self.coordinator, &self.key, token).await
    }
}
