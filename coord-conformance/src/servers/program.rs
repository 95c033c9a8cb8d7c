//! Server programs of this host.

use std::path::{Path, PathBuf};

use super::Unavailable;

/// Set to `none`, it hides the programs of the host.
const PROGRAMS: &str = "COORD_TEST_PROGRAMS";

/// The program of this name on `PATH` or in one of the folders; `package` is what Debian calls it.
pub(super) fn find(name: &str, folders: &[PathBuf], package: &str) -> Result<PathBuf, Unavailable> {
    if std::env::var_os(PROGRAMS).is_some_and(|value| value == "none") {
        return Err(Unavailable::new(format!("{PROGRAMS}=none hides {name}")));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers often lie where the PATH of an ordinary user does not lead.
    let usual = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    let places = folders.iter().cloned().chain(std::env::split_paths(&path)).chain(usual);
    places.map(|place| place.join(name)).find(|file| is_program(file)).ok_or_else(|| {
        Unavailable::new(format!(
            "{name} is not on PATH; install it (Debian: apt-get install {package}; scripts/test does)"
        ))
    })
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
