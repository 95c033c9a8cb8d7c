//! Changing the value of a claim, and taking it out.

use coord_core::{
    Result,
    spi::{ClaimId, Grant, Renewal},
};

use crate::{
    claims::{now, token},
    client::Store,
    discovery,
    error::Failure,
    leases::{self, Lease},
    line::Spot,
    record::Record,
    session::Step,
};

impl Store {
    pub(crate) async fn replace_value(
        &self,
        spot: &Spot,
        grant: &Grant,
        value: &[u8],
    ) -> Result<Renewal, Failure> {
        let stem = spot.stem(grant.id);
        let lease = self.shared.leases.get(&stem, now()).filter(|lease| !lease.over);
        let Some(Lease { session, node: Some((path, czxid)), face, .. }) = lease else {
            return Ok(Renewal::Lost);
        };
        if token(czxid)? != grant.token {
            return Ok(Renewal::Lost);
        }
        if let Some(face) = face {
            return discovery::replace_value(&session, spot, grant, &path, &face, value).await;
        }
        let data = match session.get(&path).await {
            Ok((data, _)) => data,
            Err(Failure::NoNode | Failure::Ended(_)) => return Ok(Renewal::Lost),
            Err(failure) => return Err(failure),
        };
        let record = Record::decode(&data).ok_or_else(|| crate::error::misread("a claim"))?;
        // Whichever node it has by now: another one may take its place meanwhile, whose own number is no token.
        let data = Record { value: value.to_vec(), token: Some(czxid), ..record }.encode();
        // Who watches the line watches the folder, not every claim in it.
        let steps = [
            Step::Set { path: &path, data: &data, version: None },
            Step::Set { path: spot.folder.as_str(), data: b"", version: None },
        ];
        match session.multi(&steps).await {
            Ok(_) => Ok(Renewal::StillHeld),
            Err(refusal) => match refusal.failure {
                Failure::NoNode | Failure::Ended(_) => Ok(Renewal::Lost),
                failure => Err(failure),
            },
        }
    }

    /// Takes a claim out, this client's or another's.
    pub(crate) async fn take_out(&self, spot: &Spot, id: ClaimId) -> Result<(), Failure> {
        let shared = &self.shared;
        let stem = &spot.stem(id);
        shared.waits.end(stem);
        if let Some(lease) = shared.leases.get(stem, now()) {
            // Whatever becomes of the answer, it is removed.
            let given_up = shared.leases.or_give_up(stem);
            match leases::remove(stem, &lease).await {
                Ok(()) => {
                    given_up.done();
                    return Ok(());
                }
                // The ensemble may keep its node for a while.
                Err(Failure::Ended(_)) => given_up.done(),
                Err(failure) => return Err(failure),
            }
        }
        let session = shared.main().await?;
        match &spot.faces {
            Some(faces) => discovery::remove_all(&session, stem, faces).await?,
            None => leases::remove_all(&session, stem).await.map(drop)?,
        }
        shared.hub.hint_stem(stem);
        Ok(())
    }
}
