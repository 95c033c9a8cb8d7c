//! Whether nodes are there by the word of the leader.
//!
//! A server that was cut off from its leader answers reads for a while, by what it saw last. A transaction that does nothing but
//! check goes to the leader like every other one, so it is not answered there.

use crate::{
    error::Failure,
    session::{Look, Seen, Session, Step},
};

/// How many bytes of paths one request holds at most.
const CHUNK: usize = 400 * 1024;
/// What a check takes of a request beside its path, at most.
const STEP: usize = 128;

/// Which of these nodes are there, by as many requests as it takes, all sent at once.
///
/// # Errors
/// Whatever prevents an answer. The end of the session is one of them.
pub(crate) async fn there(session: &Session, paths: &[&str], most: usize) -> Result<Vec<bool>, Failure> {
    let (mut chunks, mut rest) = (Vec::new(), paths);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|path| {
            bytes += path.len() + STEP;
            bytes <= CHUNK.min(most)
        });
        let (chunk, after) = rest.split_at(fits.count().max(1));
        chunks.push(chunk_there(session, chunk));
        rest = after;
    }
    Ok(futures_util::future::try_join_all(chunks).await?.concat())
}

async fn chunk_there(session: &Session, paths: &[&str]) -> Result<Vec<bool>, Failure> {
    let mut there = vec![true; paths.len()];
    while there.contains(&true) {
        let asked: Vec<_> = (0..paths.len()).filter(|at| there[*at]).collect();
        let steps: Vec<_> = asked.iter().map(|at| Step::Check { path: paths[*at], version: None }).collect();
        let Err(refusal) = session.multi(&steps).await else { break };
        match (refusal.at.and_then(|step| asked.get(step)), refusal.failure) {
            (Some(at), Failure::NoNode) => {
                there[*at] = false;
                // Probably others are missing too.
                let looks: Vec<_> = paths.iter().map(|path| Look::Data(path)).collect();
                for (there, seen) in there.iter_mut().zip(session.read_all(&looks).await?) {
                    *there &= !matches!(seen, Seen::Missing);
                }
            }
            (_, failure) => return Err(failure),
        }
    }
    Ok(there)
}
