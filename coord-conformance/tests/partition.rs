//! Networks of hosts of their own: `cargo test -p coord-conformance --test partition`.
#![cfg(unix)]

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use coord_conformance::servers::{Network, found};

/// How long a test waits to see that nothing comes.
const QUIET: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 5000;

/// On a host: says what comes by UDP, repeats what comes by TCP, and sends what this process writes to where it says.
const ECHO: &str = r#"
import socket, sys, threading
here, port = sys.argv[1], int(sys.argv[2])
def say(text):
    sys.stdout.write(text + '\n')
    sys.stdout.flush()
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind((here, port))
listener = socket.create_server((here, port))
def hear():
    while True:
        text, sender = heard.recvfrom(100)
        say(text.decode())
def echo(stream):
    while True:
        text = stream.recv(100)
        if not text:
            return
        stream.sendall(text)
def accept():
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
for work in hear, accept:
    threading.Thread(target=work, daemon=True).start()
say('ready')
for line in sys.stdin:
    address, text = line.split()
    heard.sendto(text.encode(), (address, port))
    say('sent')
"#;

/// A program on a host, that ends when this is dropped.
struct Host {
    address: Ipv4Addr,
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Host {
    fn start(network: &Network, number: usize) -> Self {
        let address = network.address(number);
        let mut command = network.command(number, "python3");
        command.args(["-c", ECHO, &address.to_string(), &PORT.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut host = Self { address, child, output };
        assert_eq!(host.hears(), "ready");
        host
    }

    fn send(&mut self, to: &Self, text: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{} {text}", to.address).unwrap();
        assert_eq!(self.hears(), "sent");
    }

    /// What it hears next.
    fn hears(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends from one host to the other: whether that arrives before what this process sends later.
fn arrives(from: &mut Host, to: &mut Host) -> bool {
    let here = UdpSocket::bind("0.0.0.0:0").unwrap();
    from.send(to, "theirs");
    // It is on its way, and has at most to ask where the other one is.
    std::thread::sleep(QUIET);
    here.send_to(b"ours", (to.address, PORT)).unwrap();
    let first = to.hears();
    if first == "theirs" {
        assert_eq!(to.hears(), "ours");
    }
    first == "theirs"
}

#[test]
fn what_is_cut_is_cut_one_way_and_heals() {
    let Some(network) = found(Network::start(3)) else { return };
    let mut hosts = [0, 1, 2].map(|number| Host::start(&network, number));
    let mut between = |from: usize, to: usize| {
        let [from, to] = hosts.get_disjoint_mut([from, to]).unwrap();
        arrives(from, to)
    };
    // The control: nothing is cut.
    assert!(between(0, 1) && between(1, 0));
    network.cut(0, 1).unwrap();
    assert_eq!([between(0, 1), between(1, 0), between(0, 2), between(2, 1)], [false, true, true, true]);
    network.heal().unwrap();
    assert!(between(0, 1) && between(1, 0));
    network.split(&[2]).unwrap();
    assert_eq!([between(0, 1), between(0, 2), between(2, 1)], [true, false, false]);
    network.heal().unwrap();
    assert!(between(0, 2) && between(2, 1));
}

/// Packets vanish: a connection that is there stays, and goes on when it is healed.
#[test]
fn who_is_unplugged_is_not_told() {
    let Some(network) = found(Network::start(2)) else { return };
    let hosts = [0, 1].map(|number| Host::start(&network, number));
    let mut streams = hosts.each_ref().map(|host| {
        let stream = TcpStream::connect(SocketAddr::from((host.address, PORT))).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), network.here());
        stream
    });
    let echoes = |stream: &mut TcpStream, patience: Duration| {
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0])
    };
    for stream in &mut streams {
        echoes(stream, PATIENCE).unwrap();
    }
    network.unplug(1).unwrap();
    echoes(&mut streams[0], PATIENCE).unwrap();
    let error = echoes(&mut streams[1], QUIET).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    network.heal().unwrap();
    streams[1].set_read_timeout(Some(PATIENCE)).unwrap();
    streams[1].read_exact(&mut [0]).unwrap();
}

fn spaces() -> String {
    let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The name that the hosts of a network have in common.
fn name(network: &Network) -> String {
    let [_, x, y, _] = network.here().octets();
    format!("coord-{x}-{y}")
}

#[test]
fn networks_are_apart_and_a_dropped_one_leaves_nothing() {
    let Some(one) = found(Network::start(1)) else { return };
    let Some(other) = found(Network::start(1)) else { return };
    assert_ne!(one.here(), other.here());
    let names = [&one, &other].map(name);
    assert!(names.iter().all(|name| spaces().contains(name.as_str())), "{}", spaces());
    drop(one);
    let rest = spaces();
    assert!(!rest.contains(names[0].as_str()) && rest.contains(names[1].as_str()), "{rest}");
    assert!(!std::path::Path::new("/sys/class/net").join(&names[0]).exists());
}

/// Says to this program that it is a child, which holds a network until it is killed.
const CHILD: &str = "COORD_TEST_HOLDS_NETWORK";

#[test]
fn a_killed_process_leaves_no_hosts() {
    if std::env::var_os(CHILD).is_some() {
        let network = Network::start(2).unwrap();
        println!("\nnetwork {}", name(&network));
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    let Some(_) = found(Network::start(1)) else { return };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_killed_process_leaves_no_hosts", "--nocapture"]).env(CHILD, "1");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut names =
        lines.map_while(Result::ok).filter_map(|line| Some(line.strip_prefix("network ")?.to_owned()));
    let name = names.next().unwrap();
    assert!(spaces().contains(&name));
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        !spaces().contains(&name)
    });
    assert!(gone, "{}", spaces());
}
