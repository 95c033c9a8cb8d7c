//! What operations cost on Postgres, counted at the server: in its log of statements, by the transaction ids that it gave
//! out, and, on the way to it, by how often the client waits for an answer.

use std::time::Duration;

use coord_conformance::{
    proxy::{Options, Proxy, framing},
    servers::{self, PostgresOptions},
};
use coord_core::{
    Lock, LockOptions, Name,
    spi::{Claim, Claims, Renewal},
};
use coord_sql::{Database, Postgres, PostgresConfig};
use sqlx::{Connection, PgConnection};

use crate::common::{claim, granted, line, server::server, waiting};

/// A server that logs the statements of each client, and has no transactions of its own.
fn logging() -> Option<servers::Postgres> {
    let options = PostgresOptions::default().with_setting("log_statement", "all");
    server(options.with_setting("log_line_prefix", "%a|").with_setting("autovacuum", "off"))
}

/// What a stretch of the test costs.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    /// Statements, of any kind.
    statements: usize,
    /// Transactions that changed something.
    commits: u64,
    /// How often the client asks for an answer and waits for it.
    round_trips: u64,
}

const ONE: Cost = Cost { statements: 1, commits: 1, round_trips: 1 };

/// A client behind a proxy, with one connection for statements, so that each is prepared once.
struct Counted {
    server: servers::Postgres,
    proxy: Proxy,
    config: PostgresConfig,
    probe: PgConnection,
}

impl Counted {
    async fn new() -> Option<Self> {
        let server = logging()?;
        // The messages after which a client waits for an answer are what it counts.
        let options = Options::default().with_protocol(framing::Postgres);
        let proxy = Proxy::start_with(server.url(), options).unwrap();
        let url = format!("{}?application_name=counted&sslmode=disable", proxy.url());
        let config = PostgresConfig::parse(&url).unwrap().with_connections(1);
        let probe = PgConnection::connect(&server.url()).await.unwrap();
        Some(Self { server, proxy, config, probe })
    }

    fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.server.socket_folder().unwrap().join("log")).unwrap();
        let ours = log.lines().filter(|line| line.starts_with("counted|LOG:  "));
        ours.filter(|line| line.contains("execute ") || line.contains("statement: "))
            .map(Into::into)
            .collect()
    }

    async fn transactions(&mut self) -> u64 {
        let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        let next: String = sqlx::query_scalar(next).fetch_one(&mut self.probe).await.unwrap();
        next.parse().unwrap()
    }

    async fn cost<T>(&mut self, what: impl Future<Output = T>) -> (T, Cost) {
        let (before, transactions) = (self.log().len(), self.transactions().await);
        let asked = self.proxy.counts().total();
        let result = what.await;
        let round_trips = self.proxy.counts().total() - asked;
        let commits = self.transactions().await - transactions;
        (result, Cost { statements: self.log().len() - before, commits, round_trips })
    }
}

#[tokio::test]
async fn acquire_and_release_are_one_statement_and_one_commit_each() {
    let Some(mut counted) = Counted::new().await else { return };
    let coordinator = coord_sql::connect(Database::Postgres(counted.config.clone())).await.unwrap();
    let (options, name) = (LockOptions::default(), Name::new("warm").unwrap());
    // A connection prepares each statement when it first runs it.
    coordinator.acquire(&name, &options).await.unwrap().release().await.unwrap();
    for number in 0..5 {
        let name = Name::new(format!("cost {number}")).unwrap();
        let (guard, cost) = counted.cost(coordinator.acquire(&name, &options)).await;
        assert_eq!(cost, ONE, "an uncontended acquire: {:#?}", counted.log());
        let (released, cost) = counted.cost(guard.unwrap().release()).await;
        released.unwrap();
        assert_eq!(cost, ONE, "a release: {:#?}", counted.log());
    }
    coordinator.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_other_steps_are_one_statement_each() {
    let Some(mut counted) = Counted::new().await else { return };
    let store = Postgres::open(&counted.config).await.unwrap();
    // Twice, the first time to prepare them.
    for round in 0..2 {
        let line = line(&format!("cost {round}"));
        let (a, b) = (claim(&line), claim(&line));
        let grant = granted(store.claim(&a).await.unwrap());
        let (standing, joined) = counted.cost(store.claim(&b)).await;
        waiting(standing.unwrap());
        let (set, changed) = counted.cost(store.set_value(&grant, b"other")).await;
        set.unwrap();
        let (gone, withdrawn) = counted.cost(store.withdraw(&line, a.id)).await;
        gone.unwrap();
        let (standing, grant) = counted.cost(store.claim(&b)).await;
        granted(standing.unwrap());
        let (seen, read) = counted.cost(store.line(&line)).await;
        seen.unwrap();
        let (refused, tried) = counted.cost(store.claim(&Claim { wait: false, ..claim(&line) })).await;
        refused.unwrap();
        if round == 1 {
            assert_eq!([joined, changed, withdrawn, grant], [ONE, ONE, ONE, ONE]);
            assert_eq!(read, Cost { commits: 0, ..ONE }, "a line");
            assert_eq!(tried, Cost { commits: 0, ..ONE }, "a claim that is refused");
        }
    }
}

#[tokio::test]
async fn renewing_a_thousand_grants_is_one_statement_and_one_commit() {
    let Some(mut counted) = Counted::new().await else { return };
    let store = Postgres::open(&counted.config).await.unwrap();
    let mut grants = Vec::new();
    for number in 0..1_000 {
        let claim = Claim { ttl: Duration::from_secs(600), ..claim(&line(&format!("lock {number}"))) };
        grants.push(granted(store.claim(&claim).await.unwrap()));
    }
    store.renew(&grants).await.unwrap();
    store.withdraw(&grants[500].line, grants[500].id).await.unwrap();
    let (renewals, cost) = counted.cost(store.renew(&grants)).await;
    assert_eq!(cost, ONE);
    for (number, renewal) in renewals.unwrap().into_iter().enumerate() {
        assert_eq!(renewal, if number == 500 { Renewal::Lost } else { Renewal::Renewed }, "{number}");
    }
}
