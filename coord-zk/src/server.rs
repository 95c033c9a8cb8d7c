//! What the ensemble is and how it is set up: what follows from that for what we promise.

use std::time::Duration;

use coord_core::{
    ClockAssumption, Durability, Features, Guarantees, Report, Scope, Weakness, limits::MAX_TTL,
    limits::MIN_TTL,
};

use crate::{
    config::{Config, Layout},
    error::Failure,
    probe::{self, Limits},
    session::Session,
};

/// The shortest session where nobody set anything: two ticks of two seconds.
const USUAL: Duration = Duration::from_secs(4);

/// What was found out about the ensemble. `None`: it did not tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Server {
    pub(crate) version: Option<String>,
    mode: Option<String>,
    /// How many servers vote; none in a server that stands alone.
    voters: Option<usize>,
    /// The unit of the servers' time.
    pub(crate) tick: Option<Duration>,
}

impl Server {
    pub(crate) async fn ask(config: &Config, session: &Session) -> Result<Self, Failure> {
        let voters = match session.get("/zookeeper/config").await {
            Ok((data, _)) => Some(voters(&String::from_utf8_lossy(&data))),
            Err(failure @ Failure::Ended(_)) => return Err(failure),
            // An old server, or one that hides it.
            Err(_) => None,
        };
        let mut server = Self { voters, ..Self::default() };
        if !config.tls {
            let (server_said, settings) =
                tokio::join!(probe::word(config, "srvr"), probe::word(config, "conf"));
            if let Some(answer) = server_said {
                server.version = said(&answer, "Zookeeper version").map(|said| version(said).to_owned());
                server.mode = said(&answer, "Mode").map(ToOwned::to_owned);
            }
            server.tick = settings.as_deref().and_then(tick);
        }
        Ok(server)
    }

    /// Whether it certainly is no ensemble.
    pub(crate) fn stands_alone(&self) -> bool {
        self.voters == Some(0)
    }

    pub(crate) fn guarantees(&self, layout: Layout, (min, max): (Duration, Duration)) -> Guarantees {
        // Other libraries would not see that a lock is shared.
        let shared = layout == Layout::Own;
        let durable = if self.voters >= Some(3) { Durability::Quorum } else { Durability::Power };
        Guarantees::new("zookeeper")
            .with_scope(Scope::Network)
            .with_durability(durable)
            .with_clock(ClockAssumption::BoundedRate)
            .with_features(Features::NONE.with_shared(shared).with_resume(true))
            .with_ttls(min.max(MIN_TTL), max.min(MAX_TTL))
    }

    /// `longest` is the longest lease.
    pub(crate) fn weaknesses(&self, limits: Limits, longest: Duration) -> Vec<Weakness> {
        let mut weaknesses = Vec::new();
        if self.voters < Some(3) {
            weaknesses.push(Weakness::new(
                "servers",
                self.voters.map(|voters| voters.max(1).to_string()),
                "while the server is away nothing is granted, and all leases that are not renewed in time are lost",
                "run an ensemble of three or five servers",
            ));
        }
        if limits.min > Duration::from_secs(10) {
            weaknesses.push(Weakness::new(
                "minSessionTimeout",
                Some(format!("{:?}", limits.min)),
                "a crashed holder blocks the next one for at least this long",
                "set minSessionTimeout or tickTime lower",
            ));
        }
        if self.tick.is_none() && !self.stands_alone() && limits.min != USUAL {
            weaknesses.push(Weakness::new(
                "4lw.commands.whitelist",
                None,
                "the servers do not tell their tickTime; with one of more than two seconds, or one that is not half of \
                 minSessionTimeout, a guard that is cut off together with its server may turn lost too late",
                "allow the word conf, or keep minSessionTimeout at two ticks",
            ));
        }
        if longest < coord_core::limits::DEFAULT_TTL {
            weaknesses.push(Weakness::new(
                "maxSessionTimeout",
                Some(format!("{:?}", limits.max)),
                "the default TTL is refused",
                "set maxSessionTimeout to 40000 or more, or choose shorter TTLs",
            ));
        }
        weaknesses.extend(self.version.as_deref().and_then(defect));
        weaknesses
    }

    pub(crate) fn report(&self, config: &Config, limits: Limits, longest: Duration) -> Report {
        let servers = self.voters.map(|voters| voters.max(1).to_string());
        Report::new(config.to_string())
            .with_fact("version", self.version.clone())
            .with_fact("mode", self.mode.clone())
            .with_fact("servers", servers)
            .with_fact("minSessionTimeout", Some(format!("{:?}", limits.min)))
            .with_fact("maxSessionTimeout", Some(format!("{:?}", limits.max)))
            .with_weaknesses(self.weaknesses(limits, longest))
    }
}

/// How many servers vote, of the node `/zookeeper/config`.
fn voters(config: &str) -> usize {
    config.lines().filter(|line| line.starts_with("server.") && !line.contains(":observer")).count()
}

/// The tick, of the answer to `conf`.
fn tick(settings: &str) -> Option<Duration> {
    let tick = settings.lines().find_map(|line| line.trim().strip_prefix("tickTime="))?;
    tick.parse().ok().filter(|millis| *millis > 0).map(Duration::from_millis)
}

/// The value behind a key of the answer to `srvr`.
fn said<'a>(answer: &'a str, key: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).map(str::trim)
}

/// The number in front of the build's name.
fn version(text: &str) -> &str {
    text.split(['-', ',']).next().unwrap_or(text)
}

/// What is known to be wrong with a version, from the release notes of 3.8.4, 3.9.2 and 3.9.4 and the issues that they name.
fn defect(version: &str) -> Option<Weakness> {
    let numbers: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    let (consequence, remedy) = match numbers.as_slice() {
        [..3, ..] | [3, 0..=5, ..] => (
            "it lacks operations that are needed, such as reading many nodes at one moment",
            "use ZooKeeper 3.8.4, 3.9.4 or newer",
        ),
        [3, 6 | 7, ..] | [3, 8, 0..=3, ..] | [3, 9, 0 | 1, ..] => (
            "an ensemble can lose answered transactions when a server stops while it joins (ZOOKEEPER-4785), and watches \
             show paths of nodes that their user may not read (CVE-2024-23944)",
            "use ZooKeeper 3.8.4, 3.9.4 or newer",
        ),
        [3, 9, 3, ..] => (
            "an ensemble can lose answered transactions after a server that was behind has joined and leads (ZOOKEEPER-4925)",
            "use ZooKeeper 3.9.4 or newer",
        ),
        _ => return None,
    };
    Some(Weakness::new("version", Some(version.to_owned()), consequence, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says() {
        let answer =
            "Zookeeper version: 3.8.0-${mvngit.commit.id}, built on 2022\nMode: standalone\nNode count: 5\n";
        assert_eq!(said(answer, "Mode"), Some("standalone"));
        assert_eq!(version(said(answer, "Zookeeper version").unwrap()), "3.8.0");
        let config = "server.1=a:1:2:participant;0.0.0.0:3\nserver.2=b:1:2:participant\nserver.3=c:1:2:observer\nversion=0";
        assert_eq!(voters(config), 2);
        assert_eq!(voters(""), 0);
        assert_eq!(
            tick("clientPort=2181\ntickTime=2000\nminSessionTimeout=4000\n"),
            Some(Duration::from_secs(2))
        );
        assert_eq!((tick(""), tick("tickTime=x"), tick("tickTime=0")), (None, None, None));
        for bad in ["2.9.9", "3.4.14", "3.5.9", "3.6.3", "3.7.2", "3.8.0", "3.8.3", "3.9.0", "3.9.1", "3.9.3"]
        {
            assert!(defect(bad).is_some(), "{bad}");
        }
        for good in ["3.8.4", "3.8.11", "3.9.2", "3.9.4", "3.10.0", "4.0.0", "?", ""] {
            assert!(defect(good).is_none(), "{good}");
        }
    }
}
