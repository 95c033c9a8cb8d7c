//! On which host, and since which boot, this process runs; and which file systems one host alone writes to.

use std::path::Path;

use coord_core::{Error, ErrorKind, Result};

/// Names the clock that leases are judged on: the boot of the kernel and, in a time namespace, the shift of its clock.
///
/// Two processes of the same identity read the same clock. Leases of another identity are of an earlier boot.
#[cfg(target_os = "linux")]
pub(super) fn identity() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let boot = std::fs::read_to_string(path).map_err(|error| {
        Error::new(
            ErrorKind::Unsupported,
            format!("{path} cannot be read, so that claims of an earlier boot cannot be told; mount /proc"),
        )
        .with_source(error)
    })?;
    let boot = boot.trim();
    // Absent on kernels without time namespaces.
    let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    Ok(match shift(&offsets) {
        None => boot.to_owned(),
        Some(shift) => format!("{boot}+{shift}"),
    })
}

/// The shift of the clock in a time namespace, as the kernel prints it; `None` if there is none.
#[cfg(target_os = "linux")]
fn shift(offsets: &str) -> Option<String> {
    offsets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (clock, seconds, nanoseconds) = (words.next()?, words.next()?, words.next()?);
        (clock == "boottime" && (seconds, nanoseconds) != ("0", "0"))
            .then(|| format!("{seconds}.{nanoseconds}"))
    })
}

/// Elsewhere a boot cannot be named soundly: what systems report as the time of the boot moves when the wall clock is
/// set. Claims of an earlier boot are kept until their lease ends on the new clock, which is late and never early.
#[cfg(not(target_os = "linux"))]
pub(super) fn identity() -> Result<String> {
    Ok("any boot".to_owned())
}

/// Refuses a folder on a network file system, where SQLite's locks and shared memory do not work.
#[cfg(target_os = "linux")]
pub(super) fn refuse_network(folder: &Path) -> Result<()> {
    let Ok(stat) = rustix::fs::statfs(folder) else {
        // The open that follows will say why.
        return Ok(());
    };
    // The field's type differs between architectures; the numbers have 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let number = stat.f_type as u32;
    match network(number) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} is on a network file system ({name}), where SQLite cannot keep processes apart; put the database on a \
                 local disk, or use a store with a server",
                folder.display()
            ),
        )),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn refuse_network(_folder: &Path) -> Result<()> {
    Ok(())
}

/// The name of a network file system, by the number that `statfs` reports (linux/magic.h and the sources of each).
#[cfg(target_os = "linux")]
fn network(number: u32) -> Option<&'static str> {
    Some(match number {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB 2",
        0x0102_1997 => "9P",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x564c => "NCP",
        0x00c3_6400 => "Ceph",
        0x0bd0_0bd0 => "Lustre",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x4750_4653 => "GPFS",
        0x2003_0528 => "OrangeFS",
        0xaad7_aaea => "PanFS",
        0x1983_0326 => "BeeGFS",
        _ => return None,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_boot() {
        assert_eq!(identity().unwrap(), identity().unwrap());
        assert!(identity().unwrap().len() >= 36);
    }

    #[test]
    fn a_time_namespace_is_another_clock() {
        assert_eq!(shift("monotonic           0         0\nboottime            0         0\n"), None);
        assert_eq!(shift(""), None);
        let shifted = "monotonic           0         0\nboottime           -5         7\n";
        assert_eq!(shift(shifted).as_deref(), Some("-5.7"));
    }

    #[test]
    fn network_file_systems() {
        assert_eq!(network(0x6969), Some("NFS"));
        // ext4, XFS, Btrfs, tmpfs, overlay, ZFS
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(network(local), None);
        }
        assert!(refuse_network(Path::new("/")).is_ok());
    }
}
