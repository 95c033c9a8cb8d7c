//! Grants that are held for a while: permits, leaderships, registrations.

use std::{ops::Range, pin::Pin, time::Duration};

use coord_core::{
    CampaignOptions, Instance, LockOptions, RegisterOptions, Registration, Registry, Result, spi::Kind,
};
use fastrand::Rng;
use tokio::time::sleep;

use super::{Hands, SEATS, shrug};
use crate::{
    client::SAMPLE,
    history::{Held, Holding, Op, object},
    watching,
};

/// A part of the work.
pub(super) type Task = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

impl Hands {
    /// Holds something for so many milliseconds, looking all the time whether it is held, and whatever the answer.
    pub(super) async fn work_under<G: Holding>(&self, held: &Held<G>, rng: &mut Rng, millis: Range<u64>) {
        let end = self.now() + rng.u64(millis) * 1_000_000;
        while self.now() < end {
            held.is_held();
            sleep(SAMPLE).await;
        }
        held.is_held();
    }

    /// Releases, or now and then drops.
    pub(super) async fn let_go<G: Holding>(&self, held: Held<G>, rng: &mut Rng) -> Result<()> {
        held.is_held();
        if rng.u8(..6) == 0 {
            held.abandon();
        } else {
            shrug(held.release().await).await?;
        }
        Ok(())
    }

    pub(super) async fn sit(self, mut rng: Rng) -> Result<()> {
        let (name, ttl) = (self.work.name("seats"), self.work.ttl);
        let options = LockOptions::default().with_ttl(ttl).with_wait(ttl * 2);
        while self.goes_on() {
            self.pause(&mut rng, 0..50).await;
            let asking = self.client.permits(&name, rng.u32(1..3), SEATS, &options);
            let Some(held) = shrug(asking.await).await? else { continue };
            self.work_under(&held, &mut rng, 5..80).await;
            self.let_go(held, &mut rng).await?;
        }
        Ok(())
    }

    pub(super) async fn lead(self, mut rng: Rng) -> Result<()> {
        let (name, ttl) = (self.work.name("office"), self.work.ttl);
        let options = CampaignOptions::default().with_ttl(ttl).with_wait(ttl * 2);
        while self.goes_on() {
            self.pause(&mut rng, 0..50).await;
            let Some(held) = shrug(self.client.lead(&name, &options).await).await? else { continue };
            self.work_under(&held, &mut rng, 20..150).await;
            shrug(held.guard().proclaim(vec![rng.u8(..)]).await).await?;
            self.work_under(&held, &mut rng, 20..150).await;
            // What a failed read says is in the history.
            let _ = watching::leader(&self.client, &name, false).await;
            self.let_go(held, &mut rng).await?;
        }
        Ok(())
    }

    /// Registers, stays for a while, and leaves.
    pub(super) async fn stay(self, mut rng: Rng) -> Result<()> {
        let (client, service) = (&self.client, self.work.name("crew"));
        let options = RegisterOptions::default().with_ttl(self.work.ttl);
        let (object, id) = (object(Kind::Registry, &service), client.owner().to_owned());
        while self.goes_on() {
            let attempt = client.recorder().number();
            let op = |registration: Option<&Registration>| {
                let token = registration.map(|registration| registration.token().get());
                Op::Register { attempt, id: id.clone(), token }
            };
            let registering = client.register(&service, Instance::new(id.clone(), "here"), &options);
            let Some(registration) = shrug(client.recorder().call(&object, registering, op).await).await?
            else {
                continue;
            };
            for _ in 0..rng.u32(1..4) {
                sleep(Duration::from_millis(rng.u64(50..400))).await;
                // What a failed read says is in the history.
                let _ = watching::instances(client, &service, false).await;
            }
            let token = registration.token().get();
            let op = |_: Option<&()>| Op::Deregister { attempt, token };
            shrug(client.recorder().call(&object, registration.deregister(), op).await).await?;
            self.pause(&mut rng, 0..200).await;
        }
        Ok(())
    }
}
