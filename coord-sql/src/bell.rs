//! Hints between processes: every client hangs a named pipe beside the database, and who has news for it writes there.
//!
//! No process polls, and a hint wakes one client, not all. A pipe that nobody reads belongs to a client that is gone.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::unix::pipe::Receiver;

use crate::wakeups::{Hub, Note};

/// The random number by which a client is known to the others.
pub(crate) type ClientId = [u8; 16];

/// What became of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// It was handed over, or its client has plenty unread.
    Heard,
    /// Nobody is there any more.
    Gone,
    /// It could not be handed over; the client will look again by itself.
    Unreachable,
}

/// The folder of the pipes.
#[derive(Debug, Clone)]
pub(crate) struct Bells {
    folder: PathBuf,
}

impl Bells {
    /// The pipes of the clients of a database.
    pub(crate) fn beside(database: &Path) -> Self {
        let mut folder = database.as_os_str().to_owned();
        folder.push(".wake");
        Self { folder: folder.into() }
    }

    fn pipe(&self, client: &ClientId) -> PathBuf {
        self.folder.join(uuid::Uuid::from_bytes(*client).simple().to_string())
    }

    /// Whether this client's pipe is still in its place.
    pub(crate) fn hangs(&self, client: &ClientId) -> bool {
        self.pipe(client).exists()
    }

    /// Takes a client's pipe away.
    pub(crate) fn take_down(&self, client: &ClientId) {
        let _ = std::fs::remove_file(self.pipe(client));
    }

    /// Hangs a pipe for this client and opens it for reading. Whoever may write the database may write the pipe.
    #[cfg(not(target_vendor = "apple"))]
    pub(crate) fn hang(&self, database: &Path, client: &ClientId) -> io::Result<Receiver> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

        use rustix::fs::{CWD, Mode, OFlags};

        let metadata = std::fs::metadata(database)?;
        let (mode, group) = (metadata.permissions().mode() & 0o666, metadata.gid());
        match std::fs::create_dir(&self.folder) {
            Ok(()) => {
                // Who may read may enter.
                let mode = 0o700 | mode | (mode & 0o444) >> 2;
                std::fs::set_permissions(&self.folder, PermissionsExt::from_mode(mode))?;
                // Only a member of the group may give it to the group; others do not share by it.
                let _ = chown(&self.folder, None, Some(group));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let path = self.pipe(client);
        let new = path.with_extension("new");
        let mode = Mode::from_raw_mode(mode as rustix::fs::RawMode);
        rustix::fs::mkfifoat(CWD, &new, mode)?;
        let _ = chown(&new, None, Some(group));
        // Its final name appears only when somebody reads, so that nobody ever takes it for a dead one. It is opened for
        // writing too, or it would be at its end whenever no other process has it open.
        let hung = rustix::fs::chmod(&new, mode)
            .and_then(|()| {
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::open(&new, flags, Mode::empty())
            })
            .map_err(io::Error::from)
            .and_then(Receiver::from_owned_fd_unchecked)
            .and_then(|receiver| std::fs::rename(&new, &path).map(|()| receiver));
        if hung.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        hung
    }

    #[cfg(target_vendor = "apple")]
    pub(crate) fn hang(&self, _database: &Path, _client: &ClientId) -> io::Result<Receiver> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Hands hints to a client of another process. Never waits.
    pub(crate) fn ring(&self, client: &ClientId, notes: &[Note]) -> Rung {
        use rustix::{
            fs::{Mode, OFlags},
            io::Errno,
        };
        // A pipe takes so many bytes in one piece (PIPE_BUF is 512 or more).
        const PIECE: usize = 512 / Note::SIZE;

        let path = self.pipe(client);
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        let writer = match rustix::fs::open(&path, flags | OFlags::WRONLY, Mode::empty()) {
            Ok(writer) => writer,
            Err(Errno::NXIO) => {
                self.take_down(client);
                return Rung::Gone;
            }
            Err(Errno::NOENT) => return Rung::Gone,
            Err(_) => return Rung::Unreachable,
        };
        // Should the client end just now, this reader keeps the write from raising SIGPIPE.
        let Ok(_reader) = rustix::fs::open(&path, flags | OFlags::RDONLY, Mode::empty()) else {
            return Rung::Unreachable;
        };
        for piece in notes.chunks(PIECE) {
            let bytes: Vec<u8> = piece.iter().flat_map(|note| note.to_bytes()).collect();
            match rustix::io::write(&writer, &bytes) {
                Ok(_) => {}
                // Full: the client finds so much when it reads that it looks at everything.
                Err(Errno::AGAIN) => return Rung::Heard,
                Err(_) => return Rung::Unreachable,
            }
        }
        Rung::Heard
    }

    /// Takes down the pipes of clients that ended without doing so.
    pub(crate) fn sweep(&self) {
        let Ok(folder) = std::fs::read_dir(&self.folder) else { return };
        for entry in folder.flatten() {
            let client = entry.file_name().to_str().and_then(|name| uuid::Uuid::try_parse(name).ok());
            if let Some(client) = client {
                self.ring(client.as_bytes(), &[]);
            }
        }
    }
}

/// Passes on what comes through our pipe, for as long as it is there.
pub(crate) async fn listen(pipe: Receiver, hub: Arc<Hub>) {
    // So much unread may mean that the pipe was full and hints were turned away. (It holds 16 pages or fewer.)
    const PLENTY: usize = 2048;
    let mut buffer = vec![0; Note::SIZE * 240];
    loop {
        if pipe.readable().await.is_err() {
            return;
        }
        match pipe.try_read(&mut buffer) {
            Ok(0) => {}
            Ok(length) => {
                let (notes, rest) = buffer[..length].as_chunks::<{ Note::SIZE }>();
                let notes: Option<Vec<_>> = notes.iter().map(|bytes| Note::from_bytes(bytes)).collect();
                match notes {
                    Some(notes) if rest.is_empty() && length < PLENTY => {
                        notes.into_iter().for_each(|note| hub.hint(note));
                    }
                    _ => hub.hint_all(),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
