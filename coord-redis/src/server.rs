//! What the server is and how it is set up: what follows from that for what we promise.

use std::{collections::HashMap, fmt};

use coord_core::{
    ClockAssumption, Durability, Error, ErrorKind, Features, Guarantees, Report, Result, Scope, Weakness,
};
use redis::{Cmd, Value};

use crate::reply::number;

/// The oldest version that has all commands and all behaviour that the scripts need.
const OLDEST: (u32, u32) = (6, 2);

/// What a connection found out about its server. `None`: it did not tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Server {
    pub(crate) version: Option<String>,
    /// Changes when the server is started again.
    pub(crate) run_id: Option<String>,
    pub(crate) replica: Option<bool>,
    replicas: Option<u64>,
    max_memory: Option<u64>,
    eviction: Option<String>,
    aof: Option<bool>,
    fsync: Option<String>,
    min_replicas: Option<u64>,
}

impl Server {
    /// What to ask, in one pipeline.
    pub(crate) fn questions() -> Vec<Cmd> {
        let command = |words: &[&str]| {
            let mut command = redis::cmd(words[0]);
            words[1..].iter().for_each(|word| {
                command.arg(*word);
            });
            command
        };
        vec![
            command(&["INFO"]),
            command(&["ROLE"]),
            command(&["CONFIG", "GET", "appendfsync"]),
            command(&["CONFIG", "GET", "min-replicas-to-write"]),
        ]
    }

    /// What the answers to the questions say. What is refused to this user stays unknown.
    pub(crate) fn read(answers: &[Value]) -> Self {
        let info = answers.first().and_then(text).unwrap_or_default();
        let info: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim().split_once(':')).collect();
        let said = |key: &str| info.get(key).map(|value| (*value).to_owned());
        let count = |key: &str| info.get(key).and_then(|value| value.parse().ok());
        let role = match answers.get(1) {
            Some(Value::Array(role)) => role.first().and_then(text),
            _ => None,
        };
        Self {
            version: said("redis_version"),
            run_id: said("run_id"),
            replica: role.or_else(|| said("role")).map(|role| role != "master"),
            replicas: count("connected_slaves"),
            max_memory: count("maxmemory"),
            eviction: said("maxmemory_policy"),
            aof: said("aof_enabled").map(|enabled| enabled == "1"),
            fsync: answers.get(2).and_then(setting),
            min_replicas: answers.get(3).and_then(setting).and_then(|value| value.parse().ok()),
        }
    }

    /// Whether it is another run of the server, or another server, than before.
    pub(crate) fn is_another(&self, before: &Self) -> bool {
        (&self.run_id, self.replica) != (&before.run_id, before.replica)
    }

    /// What must be so for anything to work.
    pub(crate) fn check(&self, server: &dyn fmt::Display) -> Result<()> {
        let Some(version) = &self.version else { return Ok(()) };
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(u32::MAX));
        let found = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if found >= OLDEST {
            return Ok(());
        }
        let message = format!(
            "the Redis server {server} is of version {version}; {}.{} is the oldest that works",
            OLDEST.0, OLDEST.1
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    fn evicts(&self) -> bool {
        self.max_memory != Some(0) && self.eviction.as_deref() != Some("noeviction")
    }

    pub(crate) fn guarantees(&self) -> Guarantees {
        let durability = match (self.evicts(), self.aof, self.fsync.as_deref()) {
            (false, Some(true), Some("always")) => Durability::Power,
            (false, Some(true), _) => Durability::Crash,
            _ => Durability::Process,
        };
        Guarantees::new("redis")
            .with_scope(Scope::Network)
            .with_durability(durability)
            .with_clock(ClockAssumption::NoSteps)
            .with_features(Features::ALL)
    }

    pub(crate) fn weaknesses(&self) -> Vec<Weakness> {
        let mut found = Vec::new();
        if self.evicts() {
            found.push(Weakness::new(
                "maxmemory-policy",
                self.eviction.clone(),
                "the server removes locks and what it stores when its memory is full",
                match self.eviction {
                    Some(_) => "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
                    None => "let this user ask (+info), and set maxmemory-policy noeviction in redis.conf",
                },
            ));
        }
        if self.aof != Some(true) {
            found.push(Weakness::new(
                "appendonly",
                self.aof.map(|_| "no".into()),
                "a restart of the server forgets what is held and stored",
                match self.aof {
                    Some(_) => "CONFIG SET appendonly yes, and the same in redis.conf",
                    None => "let this user ask (+info), and set appendonly yes in redis.conf",
                },
            ));
        }
        if self.fsync.as_deref() != Some("always") {
            found.push(Weakness::new(
                "appendfsync",
                self.fsync.clone(),
                "a loss of power forgets the last seconds of what was answered",
                match self.fsync {
                    Some(_) => "CONFIG SET appendfsync always, and the same in redis.conf",
                    None => "let this user ask (+config|get), and set appendfsync always in redis.conf",
                },
            ));
        }
        if self.replicas != Some(0) {
            found.push(Weakness::new(
                "replicas",
                self.replicas.map(|count| {
                    let least = self.min_replicas.unwrap_or_default();
                    format!("{count} (min-replicas-to-write {least})")
                }),
                "a failover to a replica forgets what it had not yet received, and two may hold one lock",
                "use a server without failover, or rely on the fencing tokens, which go on growing",
            ));
        }
        found
    }

    /// What was found, for people.
    pub(crate) fn report(&self, server: &dyn fmt::Display) -> Report {
        let count = |number: Option<u64>| number.map(|number| number.to_string());
        let role = self.replica.map(|replica| if replica { "replica" } else { "master" }.to_owned());
        let aof = self.aof.map(|aof| if aof { "yes" } else { "no" }.to_owned());
        Report::new(server.to_string())
            .with_fact("server", Some("Redis".into()))
            .with_fact("version", self.version.clone())
            .with_fact("role", role)
            .with_fact("run-id", self.run_id.clone())
            .with_fact("maxmemory", count(self.max_memory))
            .with_fact("maxmemory-policy", self.eviction.clone())
            .with_fact("appendonly", aof)
            .with_fact("appendfsync", self.fsync.clone())
            .with_fact("replicas", count(self.replicas))
            .with_fact("min-replicas-to-write", count(self.min_replicas))
            .with_weaknesses(self.weaknesses())
    }

    /// Refuses what weakens the promises.
    pub(crate) fn insist(&self, server: &dyn fmt::Display) -> Result<()> {
        let weaknesses = self.weaknesses();
        if weaknesses.is_empty() {
            return Ok(());
        }
        let list: Vec<_> = weaknesses.iter().map(ToString::to_string).collect();
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the Redis server {server} is refused, because strict was asked for: {}",
                list.join(". ")
            ),
        ))
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        value => number(value).ok().map(|number| number.to_string()),
    }
}

/// The value that `CONFIG GET` answers for one setting.
fn setting(value: &Value) -> Option<String> {
    match value {
        Value::Map(pairs) => pairs.first().and_then(|(_, value)| text(value)),
        Value::Array(pair) => pair.get(1).and_then(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strong() -> Server {
        Server {
            version: Some("7.0.15".into()),
            run_id: Some("a".into()),
            replica: Some(false),
            replicas: Some(0),
            max_memory: Some(0),
            eviction: Some("allkeys-lru".into()),
            aof: Some(true),
            fsync: Some("always".into()),
            min_replicas: Some(0),
        }
    }

    #[test]
    fn what_weakens_is_named() {
        assert_eq!(strong().weaknesses(), []);
        assert!(strong().insist(&"x").is_ok());
        let table = [
            (Server { max_memory: Some(1 << 20), ..strong() }, vec!["maxmemory-policy"], Durability::Process),
            (Server { aof: Some(false), ..strong() }, vec!["appendonly"], Durability::Process),
            (Server { fsync: Some("everysec".into()), ..strong() }, vec!["appendfsync"], Durability::Crash),
            (Server { fsync: None, ..strong() }, vec!["appendfsync"], Durability::Crash),
            (Server { replicas: Some(1), ..strong() }, vec!["replicas"], Durability::Power),
            (
                Server::default(),
                vec!["maxmemory-policy", "appendonly", "appendfsync", "replicas"],
                Durability::Process,
            ),
        ];
        for (server, settings, durability) in table {
            let found: Vec<_> = server.weaknesses().iter().map(|weakness| weakness.setting).collect();
            assert_eq!(found, settings);
            assert_eq!(server.guarantees().durability, durability, "{found:?}");
            assert_eq!(server.insist(&"x").unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }

    #[test]
    fn old_versions_are_refused() {
        for (version, fine) in
            [("6.0.16", false), ("5.0.7", false), ("6.2.0", true), ("7.0.15", true), ("10.0", true)]
        {
            let server = Server { version: Some(version.into()), ..strong() };
            assert_eq!(server.check(&"x").is_ok(), fine, "{version}");
        }
        assert!(Server::default().check(&"x").is_ok());
    }

    #[test]
    fn answers_are_read_and_refusals_leave_the_rest() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\nrole:slave\r\nconnected_slaves:2\r\nmaxmemory:5\r\n\
                    maxmemory_policy:noeviction\r\naof_enabled:1\r\n";
        let fsync =
            Value::Map(vec![(Value::BulkString("appendfsync".into()), Value::BulkString("no".into()))]);
        let server = Server::read(&[Value::BulkString(info.into()), Value::Nil, fsync, Value::Nil]);
        assert_eq!(
            (server.replica, server.replicas, server.fsync.as_deref()),
            (Some(true), Some(2), Some("no"))
        );
        assert_eq!((server.max_memory, server.aof, server.evicts()), (Some(5), Some(true), false));
        assert_eq!(Server::read(&[Value::Nil, Value::Nil, Value::Nil, Value::Nil]), Server::default());
    }
}
