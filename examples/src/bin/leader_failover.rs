//! Three nodes, one leader. The leader is killed halfway through the daily job; a follower takes over and does it.
//!
//! The nodes are processes of their own, and the first one is killed with SIGKILL. The table of reports checks the term
//! of whoever writes, so that the job is done once, and a leader from before could not write even if it came back.

use std::{
    io::{BufRead, BufReader, Lines, PipeReader, Write, pipe, stdin},
    ops::ControlFlow,
    process::{Child, Stdio},
    time::Duration,
};

use coord_core::{Coordinator, prelude::*};
use coord_examples::{Result, Stage};
use sqlx::SqlitePool;
use tokio::time::sleep;

/// How long the office stays empty after a leader was killed.
const TTL: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let stage = Stage::from_args(&[])?;
    let reports = Reports::open(&stage).await?;
    match stage.role() {
        Some(node) => lead(&stage, &node, &reports).await,
        None => watch(&stage, &reports).await,
    }
}

/// What each node does: it leads when it is its turn, and does the job if nobody has done it.
async fn lead(stage: &Stage, node: &str, reports: &Reports) -> Result<()> {
    let client = stage.client().await?;
    let options = CampaignOptions::default().with_id(node).with_ttl(TTL);
    let in_office = async |term: FencingToken| {
        if let Some(author) = reports.author().await? {
            println!("{node}: elected for term {term}; {author} has written today's report");
        } else {
            println!("{node}: elected for term {term}; begins today's report");
            assert!(reports.write(node, term).await?, "a leader in office was refused");
            println!("{node}: the report is written");
        }
        Ok(())
    };
    let outcome: Result<()> = client
        .run(
            &Name::new("office")?,
            &options,
            async |leadership| ControlFlow::Break(in_office(leadership.term()).await),
            |term| println!("{node}: lost term {term}"),
        )
        .await?;
    client.shutdown().await?;
    outcome
}

/// Starts the nodes one by one, kills the first, and checks what came of it.
async fn watch(stage: &Stage, reports: &Reports) -> Result<()> {
    let (output, input) = pipe()?;
    let start = |node| -> Result<Node> {
        let command = stage.another(node)?.stdin(Stdio::piped()).stdout(input.try_clone()?).spawn()?;
        Ok(Node(command))
    };
    let mut lines = BufReader::new(output).lines();
    let client = stage.client().await?;

    let mut ada = start("ada")?;
    let first_term = term(&say(&mut lines)?)?;
    let mut bob = start("bob")?;
    standing(&client, "bob").await?;
    let mut cleo = start("cleo")?;
    drop(input);
    standing(&client, "cleo").await?;

    ada.0.kill()?;
    ada.0.wait()?;
    println!("ada was killed; bob and cleo stand as candidates");

    let second_term = term(&say(&mut lines)?)?;
    // The data that ada never got.
    bob.feed()?;
    cleo.feed()?;
    say(&mut lines)?;
    let third_term = term(&say(&mut lines)?)?;
    assert!(first_term < second_term && second_term < third_term, "terms grow");
    assert!(bob.0.wait()?.success() && cleo.0.wait()?.success());

    assert!(!reports.commit("ada", first_term).await?, "a leader from before must be refused");
    println!("had ada only slept: her write with term {first_term} is refused");
    assert_eq!(reports.author().await?.as_deref(), Some("bob"));
    client.shutdown().await?;
    Ok(())
}

/// Repeats the next line that a node prints.
fn say(lines: &mut Lines<BufReader<PipeReader>>) -> Result<String> {
    let line = lines.next().ok_or("the nodes ended")??;
    println!("{line}");
    Ok(line)
}

fn term(line: &str) -> Result<FencingToken> {
    let (_, rest) = line.split_once("term ").ok_or("this line names no term")?;
    Ok(rest.split(';').next().unwrap_or_default().parse()?)
}

/// Waits until a candidate stands in the line.
async fn standing(client: &Coordinator, node: &str) -> Result<()> {
    loop {
        let line = client.inspect(Kind::Election, &Name::new("office")?).await?;
        if line.waiters.iter().any(|waiter| waiter.owner == node) {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

struct Node(Child);

impl Node {
    fn feed(&mut self) -> Result<()> {
        let mut stdin = self.0.stdin.take().ok_or("fed before")?;
        Ok(stdin.write_all(b"data\n")?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It is gone already, unless something went wrong here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The resource: today's report, and the greatest term that it has seen.
struct Reports(SqlitePool);

impl Reports {
    async fn open(stage: &Stage) -> Result<Self> {
        let database = stage.resource().await?;
        let table = "CREATE TABLE IF NOT EXISTS report (day TEXT PRIMARY KEY, author TEXT, term INTEGER)";
        sqlx::query(table).execute(&database).await?;
        let row = "INSERT INTO report VALUES ('today', NULL, 0) ON CONFLICT DO NOTHING";
        sqlx::query(row).execute(&database).await?;
        Ok(Self(database))
    }

    async fn author(&self) -> Result<Option<String>> {
        Ok(sqlx::query_scalar("SELECT author FROM report").fetch_one(&self.0).await?)
    }

    /// The job: it takes its time, as it waits for data. `false` if a later leader has written.
    async fn write(&self, author: &str, term: FencingToken) -> Result<bool> {
        let data = tokio::task::spawn_blocking(|| stdin().read_line(&mut String::new()));
        assert!(data.await?? > 0, "no data");
        self.commit(author, term).await
    }

    /// The check of the term and the write are one statement.
    async fn commit(&self, author: &str, term: FencingToken) -> Result<bool> {
        let update = "UPDATE report SET author = $1, term = $2 WHERE day = 'today' AND term <= $2";
        let query = sqlx::query(update).bind(author).bind(term.as_i64());
        Ok(query.execute(&self.0).await?.rows_affected() == 1)
    }
}
