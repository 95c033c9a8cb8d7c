//! A server's own idea of the time of day.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
};

use super::{
    Unavailable,
    folder::{self, Owner},
    process::Guard,
    program,
};

const SOURCE: &str = include_str!("clock.c");

/// The clock of a server that was started with one: the time of day as the server sees it, which a test may step. Steps act at
/// once, on all processes of the server, and stay over a restart.
///
/// Clocks that nobody can set, with which servers measure how long something takes, go on as they are. What a program asks of
/// the C library is what changes; so etcd has none, which asks the kernel.
#[derive(Debug)]
pub struct ServerClock {
    file: File,
    /// In nanoseconds.
    ahead: Mutex<i64>,
}

impl ServerClock {
    /// Whether this host can make one.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn available() -> Result<(), Unavailable> {
        library().map(drop)
    }

    /// Puts what a clock needs into a server's folder.
    pub(super) fn install(folder: &Path, owner: Option<Owner>) -> io::Result<Self> {
        let library = library().map_err(io::Error::other)?;
        folder::write_bytes(&folder.join("clock.so"), library, owner)?;
        let path = folder.join("clock");
        folder::write_bytes(&path, &[0; 16], owner)?;
        Ok(Self { file: File::options().write(true).open(path)?, ahead: Mutex::new(0) })
    }

    /// What stands before the command of a server that has its clock in this folder.
    pub(super) fn before(folder: &Path) -> [OsString; 3] {
        let variable = |name: &str, file: &str| {
            let mut text = OsString::from(name);
            text.push(folder.join(file));
            text
        };
        ["env".into(), variable("LD_PRELOAD=", "clock.so"), variable("COORD_TEST_CLOCK=", "clock")]
    }

    /// Steps it by so many milliseconds, forward or, if there are fewer than none, back.
    ///
    /// # Errors
    /// If it cannot be written, or would be off by more than about 292 years.
    pub fn step(&self, milliseconds: i64) -> io::Result<()> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let step = milliseconds.checked_mul(1_000_000);
        let next = step.and_then(|step| ahead.checked_add(step)).ok_or(io::ErrorKind::InvalidInput)?;
        self.set(&mut ahead, next)
    }

    /// Has it tell the true time again.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn heal(&self) -> io::Result<()> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        self.set(&mut ahead, 0)
    }

    /// How many milliseconds it is ahead of the true time.
    #[must_use]
    pub fn ahead(&self) -> i64 {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) / 1_000_000
    }

    fn set(&self, ahead: &mut i64, next: i64) -> io::Result<()> {
        self.file.write_all_at(&[next.to_ne_bytes(), next.to_ne_bytes()].concat(), 0)?;
        *ahead = next;
        Ok(())
    }
}

/// The library, which is compiled once in a process.
fn library() -> Result<&'static [u8], Unavailable> {
    static LIBRARY: OnceLock<Result<Vec<u8>, Unavailable>> = OnceLock::new();
    LIBRARY.get_or_init(compile).as_deref().map_err(Clone::clone)
}

fn compile() -> Result<Vec<u8>, Unavailable> {
    if !cfg!(target_os = "linux") {
        return Err(Unavailable::new("the clock of a server can be stepped on Linux only"));
    }
    let compiler = program::find("cc", &[], "gcc libc6-dev")?;
    let broken = |error: io::Error| Unavailable::broken(format!("the clock of servers: {error}"));
    let make = || {
        let folder = folder::create("clock", None)?;
        let _guard = Guard::new(&folder, None)?;
        folder::write(&folder.join("clock.c"), SOURCE, None)?;
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-O2", "-o", "clock.so", "clock.c"]).current_dir(&folder);
        let output = command.output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        std::fs::read(folder.join("clock.so"))
    };
    make().map_err(broken)
}
