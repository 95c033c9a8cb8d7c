//! Limits that hold on every backend and are checked before any I/O.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// The shortest TTL that any backend may offer.
pub const MIN_TTL: Duration = Duration::from_millis(100);
/// The longest TTL that any backend may offer: thirty days.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The TTL where none is given. A crashed holder blocks the next one for at most this long.
pub const DEFAULT_TTL: Duration = Duration::from_secs(15);
/// The greatest size of a value, in bytes. A registration's address and metadata together count as one value.
pub const MAX_VALUE: usize = 64 * 1024;
/// The greatest length of an owner, a candidate id or an instance id, in bytes.
pub const MAX_OWNER: usize = 255;
/// The greatest number of items in one push or receive, of writes in one transaction, and of entries in one page.
pub const MAX_BATCH: usize = 1000;
/// The greatest size of all payloads of one push, or all values of one transaction, in bytes.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// The greatest number of permits of a semaphore.
pub const MAX_PERMITS: u32 = 1 << 20;
/// The greatest number of parties of a barrier.
pub const MAX_PARTIES: u32 = 1024;

pub(crate) fn value(value: &[u8]) -> Result<()> {
    if value.len() <= MAX_VALUE {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        format!("a value has at most {MAX_VALUE} bytes, not {}; keep large data elsewhere", value.len()),
    ))
}

pub(crate) fn delay(delay: Duration) -> Result<()> {
    if delay <= MAX_TTL {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidOptions, format!("an item is delayed by at most {MAX_TTL:?}")))
}

/// Checks the number and the sizes of what goes into one request.
pub(crate) fn batch<'a>(what: &str, values: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<()> {
    if values.len() == 0 {
        return Err(Error::new(ErrorKind::InvalidOptions, format!("there are no {what}")));
    }
    if values.len() > MAX_BATCH {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("at most {MAX_BATCH} {what} go into one request, not {}", values.len()),
        ));
    }
    let mut bytes = 0;
    for each in values {
        value(each)?;
        bytes += each.len();
    }
    if bytes > MAX_BATCH_BYTES {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the {what} of one request have at most {MAX_BATCH_BYTES} bytes together, not {bytes}"),
        ));
    }
    Ok(())
}

pub(crate) fn owner(what: &str, owner: &str) -> Result<()> {
    if owner.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOptions, format!("{what} must not be empty")));
    }
    if owner.len() > MAX_OWNER {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{what} has at most {MAX_OWNER} bytes, not {}", owner.len()),
        ));
    }
    if owner.contains(char::is_control) {
        return Err(Error::new(
            ErrorKind::InvalidOptions,
            format!("{what} must not contain control characters"),
        ));
    }
    Ok(())
}
