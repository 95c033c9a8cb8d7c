//! Three holders of one account lock. Alice pauses past her lease, wakes up and writes with a stale token.
//!
//! The account refuses her write, because it has seen greater tokens. With `--unfenced` the account does not look at
//! tokens, and her write wipes out what Bob and Carol paid in: a lock alone cannot prevent that.

use std::{sync::mpsc, thread, time::Duration};

use coord_core::{Coordinator, prelude::*};
use coord_examples::{Result, Stage};
use sqlx::SqlitePool;
use tokio::{runtime, sync::oneshot};

/// Short, because Bob waits for as long as Alice's lease lasts.
const TTL: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let stage = Stage::from_args(&["--unfenced"])?;
    let fenced = !stage.has("--unfenced");
    let account = Account::open(&stage, fenced).await?;
    let client = stage.client().await?;

    let (read, has_read) = oneshot::channel();
    let (wake, woken) = mpsc::channel();
    let alice = thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(alice(&stage, fenced, read, woken))
    });

    has_read.await?;
    pay_in(&client, &account, "bob", 50).await?;
    pay_in(&client, &account, "carol", 25).await?;
    wake.send(())?;
    alice.join().map_err(|_| "alice panicked")??;

    let balance = account.balance().await?;
    if fenced {
        assert_eq!(balance, 100 + 50 + 25 + 10);
        println!("balance {balance}: everyone's money is there");
    } else {
        assert_eq!(balance, 100 + 10, "the control run has to lose what Bob and Carol paid in");
        println!("balance {balance}: what bob and carol paid in is lost");
    }
    client.shutdown().await?;
    Ok(())
}

/// Alice lives on a thread of her own, which stops as a whole: nothing renews her lease while she pauses.
async fn alice(
    stage: &Stage,
    fenced: bool,
    read: oneshot::Sender<()>,
    woken: mpsc::Receiver<()>,
) -> Result<()> {
    let account = Account::open(stage, fenced).await?;
    let client = stage.client().await?;
    let guard = client.acquire(&Name::new("account/7")?, &options("alice")).await?;
    let balance = account.fence_and_read(guard.token()).await?;
    assert!(guard.is_held(), "she asks before she writes; it does not help");
    println!("alice: reads {balance} with token {}, and pauses", guard.token());
    read.send(()).map_err(|()| "nobody waits for alice")?;

    woken.recv()?;

    let written = account.write(balance + 10, guard.token()).await?;
    let outcome = if written { "accepted" } else { "refused" };
    println!("alice: wakes up and writes {} with token {}: {outcome}", balance + 10, guard.token());
    assert_eq!(written, !fenced);
    assert!(!guard.is_held(), "her guard knows by itself that its lease has ended");
    if !written {
        pay_in(&client, &account, "alice", 10).await?;
    }
    client.shutdown().await?;
    Ok(())
}

async fn pay_in(client: &Coordinator, account: &Account, who: &str, amount: i64) -> Result<()> {
    let guard = client.acquire(&Name::new("account/7")?, &options(who)).await?;
    let balance = account.fence_and_read(guard.token()).await?;
    assert!(account.write(balance + amount, guard.token()).await?, "{who} holds the lock");
    println!("{who}: pays in {amount}, making {}, with token {}", balance + amount, guard.token());
    guard.release().await?;
    Ok(())
}

fn options(who: &str) -> LockOptions {
    LockOptions::default().with_ttl(TTL).with_owner(who)
}

/// The resource: a table with a column for the highest token that it has seen.
struct Account {
    database: SqlitePool,
    fenced: bool,
}

impl Account {
    async fn open(stage: &Stage, fenced: bool) -> Result<Self> {
        let database = stage.resource().await?;
        let table =
            "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER, token INTEGER)";
        sqlx::query(table).execute(&database).await?;
        let row = "INSERT INTO account VALUES (7, 100, 0) ON CONFLICT DO NOTHING";
        sqlx::query(row).execute(&database).await?;
        Ok(Self { database, fenced })
    }

    /// Raises the mark *before* it reads, so that no holder from before can write after this read.
    async fn fence_and_read(&self, token: FencingToken) -> Result<i64> {
        if !self.fenced {
            return self.balance().await;
        }
        let fence = "UPDATE account SET token = $1 WHERE id = 7 AND token <= $1 RETURNING balance";
        let row = sqlx::query_scalar(fence).bind(token.as_i64()).fetch_optional(&self.database).await?;
        row.ok_or_else(|| format!("token {token} is stale").into())
    }

    /// Writes if nobody with a greater token came in between. The check and the write are one statement.
    async fn write(&self, balance: i64, token: FencingToken) -> Result<bool> {
        let update = if self.fenced {
            "UPDATE account SET balance = $1, token = $2 WHERE id = 7 AND token <= $2"
        } else {
            "UPDATE account SET balance = $1, token = $2 WHERE id = 7"
        };
        let query = sqlx::query(update).bind(balance).bind(token.as_i64());
        Ok(query.execute(&self.database).await?.rows_affected() == 1)
    }

    async fn balance(&self) -> Result<i64> {
        let query = sqlx::query_scalar("SELECT balance FROM account WHERE id = 7");
        Ok(query.fetch_one(&self.database).await?)
    }
}
