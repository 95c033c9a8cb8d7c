//! What a command is given: an argument, a file, or standard input.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use clap::Args;
use coord_core::limits;

use crate::status::Failure;

/// A value: the argument, or else the content of a file or of standard input, as it is.
#[derive(Debug, Args)]
pub(crate) struct Given {
    /// The value, up to 64 KiB [default: what standard input holds, every byte of it]
    #[arg(allow_negative_numbers = true)]
    value: Option<OsString>,

    /// Takes the value from a file
    #[arg(long, value_name = "PATH", conflicts_with = "value")]
    file: Option<PathBuf>,
}

impl Given {
    pub(crate) fn read(&self) -> Result<Vec<u8>, Failure> {
        match &self.value {
            Some(value) => Ok(bytes(value)),
            None => content(self.file.as_ref()),
        }
    }
}

/// The bytes of an argument.
pub(crate) fn bytes(argument: &OsStr) -> Vec<u8> {
    argument.as_bytes().to_vec()
}

/// The content of a file, or of standard input.
pub(crate) fn content(file: Option<&PathBuf>) -> Result<Vec<u8>, Failure> {
    let (what, content) = match file {
        Some(path) => (path.display().to_string(), File::open(path).and_then(up_to_the_limit)),
        None => ("standard input".into(), up_to_the_limit(io::stdin().lock())),
    };
    let content = content.map_err(|error| Failure::usage(format!("cannot read {what}: {error}")))?;
    if content.len() > limits::MAX_VALUE {
        let most = limits::MAX_VALUE;
        return Err(Failure::usage(format!("{what} has more than {most} bytes; keep large data elsewhere")));
    }
    Ok(content)
}

/// One byte more than a value may have, so that what is endless is told from what fits.
fn up_to_the_limit(from: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(limits::MAX_VALUE as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}
