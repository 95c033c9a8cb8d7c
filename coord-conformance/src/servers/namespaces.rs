//! Hosts of their own on this machine, between which a network can fail.

use std::{
    ffi::OsString,
    fs::{File, TryLockError},
    io::{self, BufRead, BufReader, Read},
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::{Unavailable, program};

const SCRIPT: &str = include_str!("namespaces.sh");

/// An address of hardware that nobody has.
const NOBODY: &str = "02:00:00:00:00:01";

/// Some hosts with one network, each a network namespace of Linux, with an address of its own. This process is on that
/// network too, and reaches all of them. They are removed when this is dropped or when this process ends, however it ends.
///
/// Servers run there by [`EtcdCluster::start_in`](super::EtcdCluster::start_in) and
/// [`ZooKeeperEnsemble::start_in`](super::ZooKeeperEnsemble::start_in), any other program by [`Network::command`].
///
/// A fault holds until [`Network::heal`], for connections that are there and for new ones: packets vanish, and nobody is
/// told.
///
/// It needs root and `ip` of iproute2, and no module of the kernel that is not everywhere. Networks of several test
/// processes are apart.
#[derive(Debug)]
pub struct Network {
    program: PathBuf,
    name: String,
    subnet: Subnet,
    hosts: usize,
    supervisor: Child,
}

/// The addresses 10.x.y.0 to 10.x.y.255, which nobody else has while this lives.
#[derive(Debug)]
struct Subnet {
    x: u8,
    y: u8,
    /// Locked; the system unlocks it when this process ends, however it ends.
    _file: File,
}

impl Network {
    /// So many hosts, up to a hundred.
    ///
    /// # Errors
    /// If this system has none to offer: it is not Linux, this is not root, or there is no `ip`.
    pub fn start(hosts: usize) -> Result<Self, Unavailable> {
        let none = |reason: &str| Unavailable::new(format!("network namespaces: {reason}"));
        if !cfg!(target_os = "linux") {
            return Err(none("only Linux has them"));
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(none("only root may make them"));
        }
        assert!(hosts <= 100, "{hosts} hosts are too many");
        let program = program::find("ip", &[], "iproute2")?;
        let broken = |error: io::Error| none(&error.to_string());
        let mut tries = 0;
        loop {
            tries += 1;
            let subnet = Subnet::reserve(&program).map_err(broken)?;
            match Self::make(program.clone(), subnet, hosts) {
                Ok(network) => return Ok(network),
                // Somebody left hosts of this name behind.
                Err(error) if tries < 5 && error.to_string().contains("File exists") => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }

    fn make(program: PathBuf, subnet: Subnet, hosts: usize) -> io::Result<Self> {
        let Subnet { x, y, .. } = subnet;
        let (name, here) = (format!("coord-{x}-{y}"), format!("coord-{x}-{y}"));
        let mut command = Command::new("sh");
        command.arg("-c").arg(SCRIPT).arg("network").arg(&name).arg(format!("10.{x}.{y}")).arg(here);
        command.arg(hosts.to_string()).process_group(0);
        if let Some(folder) = program.parent() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let places = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(places).map_err(io::Error::other)?);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut supervisor = command.spawn()?;
        let output = supervisor.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() == "ready" {
            return Ok(Self { program, name, subnet, hosts, supervisor });
        }
        let mut said = String::new();
        if let Some(mut errors) = supervisor.stderr.take() {
            errors.read_to_string(&mut said)?;
        }
        supervisor.wait()?;
        Err(io::Error::other(said.trim().replace('\n', "; ")))
    }

    /// How many hosts there are.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.hosts
    }

    /// The address of a host.
    ///
    /// # Panics
    /// If there is no such host.
    #[must_use]
    pub fn address(&self, host: usize) -> Ipv4Addr {
        assert!(host < self.hosts, "there is no host {host}");
        self.subnet.address(u8::try_from(host + 1).unwrap_or_default())
    }

    /// This process's own address in the network.
    #[must_use]
    pub fn here(&self) -> Ipv4Addr {
        self.subnet.address(254)
    }

    /// What stands before a command so that it runs on a host.
    pub(super) fn enter(&self, host: usize) -> Vec<OsString> {
        let space = self.space(host);
        vec![self.program.clone().into(), "netns".into(), "exec".into(), space.into()]
    }

    /// A command that runs on a host.
    ///
    /// # Panics
    /// If there is no such host.
    #[must_use]
    pub fn command(&self, host: usize, program: &str) -> Command {
        let words = self.enter(host);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program);
        command
    }

    fn space(&self, host: usize) -> String {
        assert!(host < self.hosts, "there is no host {host}");
        format!("{}-{host}", self.name)
    }

    /// What one host sends to another vanishes. What the other one sends arrives.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn cut(&self, from: usize, to: usize) -> io::Result<()> {
        // It is sent to hardware that is not there: whoever sends is not told.
        let address = self.address(to).to_string();
        let what = ["neigh", "replace", &address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"];
        self.ip(&self.space(from), &what)
    }

    /// Nothing passes between these hosts and all others. This process still reaches every host.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn split(&self, apart: &[usize]) -> io::Result<()> {
        for one in apart {
            for other in (0..self.hosts).filter(|host| !apart.contains(host)) {
                self.cut(*one, other)?;
                self.cut(other, *one)?;
            }
        }
        Ok(())
    }

    /// Pulls the plug of a host: nothing passes between it and all others, this process among them.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn unplug(&self, host: usize) -> io::Result<()> {
        self.plug(host, "down")
    }

    /// Everything passes again.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn heal(&self) -> io::Result<()> {
        for host in 0..self.hosts {
            self.plug(host, "up")?;
            // Where others really are is asked anew.
            self.ip(&self.space(host), &["neigh", "flush", "dev", "eth0", "nud", "permanent"])?;
        }
        Ok(())
    }

    fn plug(&self, host: usize, state: &str) -> io::Result<()> {
        self.ip(&format!("{}-switch", self.name), &["link", "set", &format!("port{host}"), state])
    }

    fn ip(&self, space: &str, words: &[&str]) -> io::Result<()> {
        let output = Command::new(&self.program).arg("-n").arg(space).args(words).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

impl Subnet {
    fn reserve(ip: &PathBuf) -> io::Result<Self> {
        let folder = std::env::temp_dir().join("coord-test-networks");
        std::fs::create_dir_all(&folder)?;
        let routes = Command::new(ip).args(["-4", "route", "show", "table", "all"]).output()?;
        let routes = String::from_utf8_lossy(&routes.stdout);
        for _ in 0..1000 {
            let (x, y) = (fastrand::u8(100..250), fastrand::u8(..));
            let file = File::options().create(true).append(true).open(folder.join(format!("{x}-{y}")))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let subnet = Self { x, y, _file: file };
            if !routes.lines().any(|route| subnet.overlaps(route)) {
                return Ok(subnet);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no subnet of 10.0.0.0/8 is free"))
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.x, self.y, last)
    }

    /// Whether this machine has a route to some of it already.
    fn overlaps(&self, route: &str) -> bool {
        let target = route.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let Some(target) = target else { return false };
        let (address, bits) = target.split_once('/').unwrap_or((target, "32"));
        let (Ok(address), Ok(bits)) = (address.parse::<Ipv4Addr>(), bits.parse::<u32>()) else {
            return false;
        };
        let mask = u32::MAX.checked_shl(32 - bits.min(24)).unwrap_or_default();
        (address.to_bits() ^ self.address(0).to_bits()) & mask == 0
    }
}

#[cfg(test)]
mod tests {
    use super::Subnet;

    #[test]
    fn a_route_to_a_part_or_to_more_is_in_the_way() {
        let subnet = Subnet { x: 120, y: 7, _file: tempfile::tempfile().unwrap() };
        for (route, overlaps) in [
            ("default via 10.120.7.1 dev eth0", true),
            ("10.120.7.0/24 dev eth0 proto kernel scope link src 10.120.7.9", true),
            ("local 10.120.7.9 dev eth0 table local scope host", true),
            ("10.120.0.0/16 dev eth0", true),
            ("10.0.0.0/8 dev eth0", true),
            ("10.120.8.0/24 dev eth0", false),
            ("172.17.0.0/16 dev docker0", false),
            ("broadcast 127.255.255.255 dev lo table local", false),
            ("", false),
        ] {
            assert_eq!(subnet.overlaps(route), overlaps, "{route}");
        }
    }
}
