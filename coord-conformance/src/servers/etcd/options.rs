//! How an etcd server is to be.

use std::net::Ipv4Addr;

use super::super::tls;

/// How an etcd server is to be. The default lets everyone in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdOptions {
    /// Whether it has to be a server that the test may stop, kill and change. Every other option implies it.
    pub own: bool,
    /// Whether it speaks TLS to clients, and nothing else.
    pub tls: bool,
    /// Users: a name, a password, and the prefixes of keys that they may read and write. With any of them, everybody has to
    /// log in, and there is a user `root` with the password `secret` who may do everything.
    pub users: Vec<(String, String, Vec<String>)>,
    /// Further arguments of the program, such as `--quota-backend-bytes=1000000`.
    pub arguments: Vec<String>,
}

impl EtcdOptions {
    /// With a server that the test may stop, kill and change; never the one of `COORD_TEST_ETCD_URL`.
    #[must_use]
    pub fn with_own(mut self) -> Self {
        self.own = true;
        self
    }

    /// With TLS, and no port without it.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// With one more user, who may read and write the keys that begin with one of these.
    #[must_use]
    pub fn with_user(mut self, name: &str, password: &str, prefixes: &[&str]) -> Self {
        let prefixes = prefixes.iter().map(ToString::to_string).collect();
        self.users.push((name.into(), password.into(), prefixes));
        self
    }

    /// With one more argument of the program.
    #[must_use]
    pub fn with_argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }
}

/// The addresses of one member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) host: Ipv4Addr,
    pub(super) client: u16,
    pub(super) peer: u16,
    pub(super) metrics: u16,
}

/// What one of several members is called.
pub(super) fn name(at: usize) -> String {
    format!("n{at}")
}

impl EtcdOptions {
    /// The arguments of the member at this place of a cluster. Its timers are short, so that a new leader is found soon.
    pub(super) fn arguments(&self, at: usize, members: &[Addresses]) -> Vec<String> {
        let Addresses { host, client, peer, metrics } = members[at];
        let scheme = if self.tls { "https" } else { "http" };
        let cluster: Vec<_> = members
            .iter()
            .enumerate()
            .map(|(at, member)| format!("{}=http://{}:{}", name(at), member.host, member.peer))
            .collect();
        let mut arguments = vec![
            format!("--name={}", name(at)),
            "--data-dir=data".into(),
            format!("--listen-client-urls={scheme}://{host}:{client}"),
            format!("--advertise-client-urls={scheme}://{host}:{client}"),
            format!("--listen-peer-urls=http://{host}:{peer}"),
            format!("--initial-advertise-peer-urls=http://{host}:{peer}"),
            format!("--listen-metrics-urls=http://{host}:{metrics}"),
            // So that clusters that follow each other on one port do not take each other for the same.
            format!("--initial-cluster-token=coord-{}-{}", std::process::id(), members[0].peer),
            format!("--initial-cluster={}", cluster.join(",")),
        ];
        if self.tls {
            arguments.push(format!("--cert-file={}", tls::CERTIFICATE));
            arguments.push(format!("--key-file={}", tls::KEY));
        }
        arguments.extend(Self::common());
        arguments.extend(self.arguments.iter().cloned());
        arguments
    }

    /// The arguments that do not depend on where it runs.
    pub(super) fn common() -> Vec<String> {
        [
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--max-txn-ops=10000",
            "--logger=zap",
            "--log-level=warn",
        ]
        .map(str::to_owned)
        .into()
    }
}
