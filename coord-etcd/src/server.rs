//! What the cluster is: what follows from that for what we promise.

use std::{collections::BTreeSet, fmt, time::Duration};

use coord_core::{
    ClockAssumption, Durability, Error, ErrorKind, Features, Guarantees, Report, Result, Scope, Weakness,
    limits,
};
use etcd_client::{AlarmAction, AlarmType};

use crate::{
    client::Shared,
    config::{Config, Layout},
};

/// How many members a cluster has that survives the loss of one.
const REDUNDANT: usize = 3;

/// The oldest version that has all that is needed: comparisons of ranges, nested transactions, members that do not vote.
const OLDEST: (u32, u32) = (3, 4);

/// How long one member may take to tell about itself.
const TO_TELL: Duration = Duration::from_secs(2);

/// What was found out about the cluster. `None`: this user may not ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Server {
    /// The shortest TTL that it grants: it depends on its election timeout.
    pub(crate) min_ttl: Duration,
    /// How many members vote.
    pub(crate) members: Option<usize>,
    /// The version of each member that was reached.
    versions: BTreeSet<String>,
    /// How many of the addresses in the URL answered, and how many there are.
    reached: (usize, usize),
    leader: Option<String>,
    db_size: Option<i64>,
    alarms: Option<Vec<&'static str>>,
}

impl Server {
    /// Nothing is known yet.
    pub(crate) fn unknown() -> Self {
        Self { min_ttl: Duration::from_secs(2), ..Self::default() }
    }

    pub(crate) fn guarantees(&self, layout: Layout) -> Guarantees {
        // An answer is on the disks of a majority.
        let durability = match self.members {
            Some(REDUNDANT..) => Durability::Quorum,
            _ => Durability::Power,
        };
        let features = match layout {
            // Claims go behind one after the other, so a line is not in the order of its priorities at every moment.
            Layout::Own => Features::ALL.with_priority(false),
            // Other clients would not go behind at all.
            Layout::Interop => Features::ALL.with_priority(false).with_hand_over(false),
        };
        Guarantees::new("etcd")
            .with_scope(Scope::Network)
            .with_durability(durability)
            .with_clock(ClockAssumption::BoundedRate)
            .with_features(features)
            .with_ttls(self.min_ttl.max(limits::MIN_TTL), limits::MAX_TTL)
    }

    /// What must be so for anything to work.
    pub(crate) fn check(&self, cluster: &dyn fmt::Display) -> Result<()> {
        let old = self.versions.iter().find(|version| {
            let (major, minor, _) = numbers(version);
            (major, minor) < OLDEST
        });
        let Some(version) = old else { return Ok(()) };
        let message = format!(
            "the etcd cluster {cluster} is of version {version}; {}.{} is the oldest that works",
            OLDEST.0, OLDEST.1
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    pub(crate) fn weaknesses(&self) -> Vec<Weakness> {
        let mut found = Vec::new();
        if self.members.is_none_or(|members| members < REDUNDANT) {
            found.push(Weakness::new(
                "members",
                self.members.map(|members| members.to_string()),
                "the loss of one member stops everything, and of its disk forgets everything",
                "add members until there are three or five (etcdctl member add)",
            ));
        }
        if let (Some(members), (_, 1)) = (self.members, self.reached)
            && members > 1
        {
            found.push(Weakness::new(
                "endpoints",
                Some(format!("1 of {members} members is named")),
                "the store is away for this client whenever that member is",
                "name all members in the URL: etcd://one,two,three",
            ));
        }
        if self.reached.0 < self.reached.1 {
            found.push(Weakness::new(
                "reachable",
                Some(format!("{} of {} members", self.reached.0, self.reached.1)),
                "one more that is lost may stop everything",
                "start the others, or take out of the URL those that are gone",
            ));
        }
        for version in &self.versions {
            if let Some((consequence, remedy)) = defect(version) {
                found.push(Weakness::new("version", Some(version.clone()), consequence, remedy));
            }
        }
        for alarm in self.alarms.iter().flatten() {
            let (consequence, remedy) = match *alarm {
                "NOSPACE" => (
                    "it takes no new claims, values and items",
                    "compact, defragment, and etcdctl alarm disarm; or raise --quota-backend-bytes",
                ),
                _ => ("its members disagree about the data", "replace the corrupt member; see its log"),
            };
            found.push(Weakness::new("alarm", Some((*alarm).to_owned()), consequence, remedy));
        }
        found
    }

    fn report(&self, cluster: &dyn fmt::Display) -> Report {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let versions: Vec<_> = self.versions.iter().map(String::as_str).collect();
        let alarms = self
            .alarms
            .as_ref()
            .map(|alarms| if alarms.is_empty() { "none".to_owned() } else { alarms.join(", ") });
        Report::new(cluster.to_string())
            .with_fact("server", Some("etcd".into()))
            .with_fact("version", some(versions.join(", ")))
            .with_fact("members", self.members.map(|members| members.to_string()))
            .with_fact("reachable", Some(format!("{} of {}", self.reached.0, self.reached.1)))
            .with_fact("leader", self.leader.clone())
            .with_fact("shortest-lease", Some(format!("{}s", self.min_ttl.as_secs())))
            .with_fact("db-size", self.db_size.map(|size| size.to_string()))
            .with_fact("alarms", alarms)
            .with_weaknesses(self.weaknesses())
    }

    /// Refuses what weakens the promises and is not accepted.
    pub(crate) fn insist(&self, config: &Config) -> Result<()> {
        let mut weaknesses = self.weaknesses();
        weaknesses.retain(|weakness| !config.accepts(weakness.setting));
        if weaknesses.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = weaknesses.iter().map(ToString::to_string).collect();
        let list = list.join(". ");
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("the etcd cluster {config} is refused, because strict was asked for: {list}"),
        ))
    }
}

/// What is known to be wrong with a version, and which one to use: from the change logs of etcd 3.4 and 3.5.
fn defect(version: &str) -> Option<(&'static str, &'static str)> {
    const OF_3_4: &str = "upgrade to 3.4.31 or newer";
    const OF_3_5: &str = "upgrade to 3.5.13 or newer";
    const REVOKES: &str = "a leader that stood still while another was elected may end leases that are kept, and so have two hold one \
                           lock until the first one's next renewal (etcd#15247)";
    match numbers(version) {
        (3, 4, ..=7) => {
            Some(("with users, its members may come to disagree about the data (etcd#11651)", OF_3_4))
        }
        (3, 4, ..=19) => Some(("a new leader may answer reads with old data (etcd#14258)", OF_3_4)),
        (3, 4, ..=20) => {
            Some(("a cluster of one may forget what it answered, when it crashes (etcd#14423)", OF_3_4))
        }
        (3, 4, ..=30) => Some((REVOKES, OF_3_4)),
        (3, 5, ..=2) => Some(("after a crash its members may disagree about the data (etcd#13766)", OF_3_5)),
        (3, 5, ..=4) => {
            Some(("a cluster of one may forget what it answered, when it crashes (etcd#14370)", OF_3_5))
        }
        (3, 5, ..=12) => Some((REVOKES, OF_3_5)),
        _ => None,
    }
}

fn numbers(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or_default());
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

impl Shared {
    /// Asks the cluster, and all members that are named, what they are.
    pub(crate) async fn ask_server(&self, min_ttl: Duration) -> Server {
        let list = self.ask(|mut link| async move { link.client.member_list().await }).await;
        let list = list.ok().map(|list| list.value);
        let members = list.as_ref().map(|list| list.members().iter().filter(|one| !one.is_learner()).count());
        let told = (0..self.links.count()).map(async |at| {
            let telling = async {
                let mut link = self.links.link_to(&self.config, at).await.ok()?;
                link.client.status().await.ok()
            };
            tokio::time::timeout(TO_TELL, telling).await.ok()?
        });
        let told: Vec<_> = futures_util::future::join_all(told).await.into_iter().flatten().collect();
        let alarms = self
            .ask(|mut link| async move { link.client.alarm(AlarmAction::Get, AlarmType::None, None).await });
        let alarms = alarms.await.ok().map(|answer| {
            let name = |alarm| match alarm {
                AlarmType::None => None,
                AlarmType::Nospace => Some("NOSPACE"),
                AlarmType::Corrupt => Some("CORRUPT"),
            };
            let named: BTreeSet<_> =
                answer.value.alarms().iter().filter_map(|one| name(one.alarm())).collect();
            named.into_iter().collect()
        });
        let leader = told.iter().map(etcd_client::StatusResponse::leader).find(|leader| *leader > 0);
        let named = leader.and_then(|leader| {
            let members = list.as_ref()?.members();
            members.iter().find(|member| member.id() == leader).map(|member| member.name().to_owned())
        });
        Server {
            min_ttl,
            members,
            versions: told.iter().map(|status| status.version().to_owned()).collect(),
            reached: (told.len(), self.links.count()),
            leader: named,
            db_size: told.iter().map(etcd_client::StatusResponse::db_size).max(),
            alarms,
        }
    }

    /// What is there now, for people.
    pub(crate) async fn report(&self) -> Result<Report> {
        let min_ttl = self.server().min_ttl;
        // Whether it can be used at all.
        self.get(crate::keys::ROOT, etcd_client::GetOptions::new().with_count_only()).await?;
        Ok(self.ask_server(min_ttl).await.report(&self.config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strong() -> Server {
        Server {
            min_ttl: Duration::from_secs(2),
            members: Some(3),
            versions: BTreeSet::from(["3.5.17".to_owned()]),
            reached: (3, 3),
            leader: Some("one".into()),
            db_size: Some(1),
            alarms: Some(Vec::new()),
        }
    }

    #[test]
    fn what_weakens_is_named() {
        assert_eq!(strong().weaknesses(), []);
        let config = Config::new("x", 1);
        assert!(strong().insist(&config).is_ok());
        let version = |version: &str| BTreeSet::from([version.to_owned()]);
        let table = [
            (Server { members: Some(1), reached: (1, 1), ..strong() }, vec!["members"], Durability::Power),
            (Server { members: None, ..strong() }, vec!["members"], Durability::Power),
            (Server { reached: (1, 1), ..strong() }, vec!["endpoints"], Durability::Quorum),
            (Server { reached: (2, 3), ..strong() }, vec!["reachable"], Durability::Quorum),
            (Server { versions: version("3.5.1"), ..strong() }, vec!["version"], Durability::Quorum),
            (Server { versions: version("3.4.20"), ..strong() }, vec!["version"], Durability::Quorum),
            (Server { alarms: Some(vec!["NOSPACE"]), ..strong() }, vec!["alarm"], Durability::Quorum),
        ];
        for (server, settings, durability) in table {
            let found: Vec<_> = server.weaknesses().iter().map(|weakness| weakness.setting).collect();
            assert_eq!(found, settings);
            assert_eq!(server.guarantees(Layout::Own).durability, durability, "{found:?}");
            assert_eq!(server.insist(&config).unwrap_err().kind(), ErrorKind::Unsupported);
            assert!(server.insist(&config.clone().with_accepted(settings[0])).is_ok());
        }
    }

    #[test]
    fn versions_with_defects_are_known() {
        for (version, fine) in [
            ("3.4.3", false),
            ("3.4.20", false),
            ("3.4.23", false),
            ("3.4.30", false),
            ("3.4.31", true),
            ("3.5.0", false),
            ("3.5.4", false),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-rc.1", true),
        ] {
            assert_eq!(defect(version).is_none(), fine, "{version}");
        }
        for (version, fine) in [("3.3.27", false), ("2.3.8", false), ("3.4.0", true), ("4.0.0", true)] {
            let server = Server { versions: BTreeSet::from([version.to_owned()]), ..strong() };
            assert_eq!(server.check(&"x").is_ok(), fine, "{version}");
        }
    }
}
