//! A store of claims behind a link that can be cut.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use coord_core::{
    Error, ErrorKind, Guarantees, Result,
    spi::{Claim, ClaimId, Claims, Grant, HandOver, Line, LineId, Renewal, Standing, Wakeups},
};
use tokio::time::sleep;

/// How long a client waits for an answer that does not come.
const SILENCE: Duration = Duration::from_millis(100);

/// Decorates the store of one client. While the link is cut nothing gets through in either direction, as in a network
/// that drops packets: requests do not arrive, and answers that were under way are lost.
#[derive(Debug)]
pub struct Link {
    store: Arc<dyn Claims>,
    cut: Arc<AtomicBool>,
}

impl Link {
    /// A link to a store, and the switch that cuts it.
    #[must_use]
    pub fn to(store: Arc<dyn Claims>) -> (Arc<Self>, Arc<AtomicBool>) {
        let cut = Arc::new(AtomicBool::new(false));
        (Arc::new(Self { store, cut: cut.clone() }), cut)
    }

    async fn through<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        if !self.cut.load(Ordering::SeqCst) {
            let answer = call.await;
            if !self.cut.load(Ordering::SeqCst) {
                return answer;
            }
        }
        sleep(SILENCE).await;
        Err(Error::new(ErrorKind::Unavailable, "the link is cut").with_unknown_effect())
    }
}

#[async_trait]
impl Claims for Link {
    fn guarantees(&self) -> Guarantees {
        self.store.guarantees()
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        self.through(self.store.claim(claim)).await
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        self.through(self.store.renew(grants)).await
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        self.through(self.store.set_value(grant, value)).await
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        self.through(self.store.withdraw(line, id)).await
    }

    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        self.through(self.store.hand_over(from, to)).await
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        self.through(self.store.adopt(from, to)).await
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        self.through(self.store.line(line)).await
    }

    /// Hints pass a cut too: the engine takes them for no more than a reason to ask, and asking fails.
    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        self.store.wakeups(line, id)
    }

    async fn close(&self) -> Result<()> {
        self.store.close().await
    }
}
