//! Random operations on a store, side by side with the memory backend, which is the executable specification: after every step both
//! must have answered alike and hold the same. Only what the contract leaves to a store may differ, such as the numbers of tokens.

mod claims;
mod jobs;
mod values;

use coord_core::{Name, Namespace};

use super::cases;
use crate::{Ctx, Failure, Verdict};

cases! { "model":
    a_line_is_as_specified,
    values_are_as_specified [Values],
    a_queue_is_as_specified [Jobs],
}

/// The name under which failures of these files are reported.
const NAME: &str = "model";

/// How many sequences of operations each case runs. The seed is in the message of a failure.
const SEEDS: u64 = 4;

async fn a_line_is_as_specified(ctx: Ctx) -> Verdict {
    for seed in 0..SEEDS {
        claims::run(&ctx, seed).await?;
    }
    Ok(())
}

async fn values_are_as_specified(ctx: Ctx) -> Verdict {
    for seed in 0..SEEDS {
        values::run(&ctx, seed).await?;
    }
    Ok(())
}

async fn a_queue_is_as_specified(ctx: Ctx) -> Verdict {
    for seed in 0..SEEDS {
        jobs::run(&ctx, seed).await?;
    }
    Ok(())
}

/// A namespace for one sequence.
fn namespace(seed: u64) -> Verdict<Namespace> {
    Ok(Namespace::new(format!("model-{seed}"))?)
}

fn name(text: &str) -> Verdict<Name> {
    Ok(Name::new(text)?)
}

/// One of these.
fn one_of<T: Copy>(random: &mut fastrand::Rng, all: &[T]) -> Verdict<T> {
    random.choice(all).copied().ok_or_else(|| Failure::by(NAME, "there is nothing to choose from"))
}

/// Fails unless the store says what the specification says.
macro_rules! same {
    ($store:expr, $specification:expr, $here:expr) => {
        let (store, specification) = (&$store, &$specification);
        $crate::cases::demand!(
            store == specification,
            "{}: the store has {store:?}, by the specification it is {specification:?}",
            $here
        );
    };
}
use same;
