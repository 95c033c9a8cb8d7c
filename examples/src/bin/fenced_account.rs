//! Three holders of one account lock. Alice pauses past her lease, wakes up and writes with a stale token.
//!
//! The account refuses her write, because it has seen greater tokens. It is a fenced value of the store, or with `--table` a
//! row of a table in the bank's own database, written in transactions of the bank. With `--unfenced` nobody looks at tokens,
//! and her write wipes out what Bob and Carol paid in: a lock alone cannot prevent that.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use coord_core::{Coordinator, Error, ErrorKind, prelude::*};
use coord_examples::{Result, Stage};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::{runtime, sync::oneshot};

/// Short, because Bob waits for as long as Alice's lease lasts.
const TTL: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let stage = Arc::new(Stage::from_args(&["--table", "--unfenced"])?);
    let fenced = !stage.has("--unfenced");
    let client = stage.client().await?;
    let account = Account::open(&stage, &client).await?;
    account.found(100).await?;

    let (read, has_read) = oneshot::channel();
    let (wake, woken) = mpsc::channel();
    let hers = stage.clone();
    let alice = thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(alice(&hers, read, woken))
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
async fn alice(stage: &Stage, read: oneshot::Sender<()>, woken: mpsc::Receiver<()>) -> Result<()> {
    let client = stage.client().await?;
    let account = Account::open(stage, &client).await?;
    let guard = client.acquire(&name()?, &options("alice")).await?;
    let balance = account.fence_and_read(guard.token()).await?;
    assert!(guard.is_held(), "she asks before she writes; it does not help");
    println!("alice: reads {balance} with token {}, and pauses", guard.token());
    read.send(()).map_err(|()| "nobody waits for alice")?;

    woken.recv()?;

    let outcome = account.write(balance + 10, guard.token()).await;
    assert!(!guard.is_held(), "her guard knows by itself that its lease has ended");
    match outcome {
        Ok(()) => {
            println!("alice: wakes up and writes {}: accepted", balance + 10);
            assert!(!account.fenced, "a stale token was accepted");
        }
        Err(error) => {
            println!("alice: wakes up and writes {}: {error}", balance + 10);
            assert!(account.fenced && is_fenced(&*error));
            pay_in(&client, &account, "alice", 10).await?;
        }
    }
    client.shutdown().await?;
    Ok(())
}

async fn pay_in(client: &Coordinator, account: &Account, who: &str, amount: i64) -> Result<()> {
    let guard = client.acquire(&name()?, &options(who)).await?;
    let balance = account.fence_and_read(guard.token()).await?;
    account.write(balance + amount, guard.token()).await?;
    println!("{who}: pays in {amount}, making {}, with token {}", balance + amount, guard.token());
    guard.release().await?;
    Ok(())
}

/// The lock's name, and the account's.
fn name() -> Result<Name> {
    Ok(Name::new("account/7")?)
}

fn options(who: &str) -> LockOptions {
    LockOptions::default().with_ttl(TTL).with_owner(who)
}

fn is_fenced(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::Fenced)
}

/// The resource.
struct Account {
    place: Place,
    fenced: bool,
}

/// Where the balance is kept.
enum Place {
    /// In a value of the store.
    Value(Coordinator),
    /// In a table of the bank's own database, which knows nothing of the store.
    Table(SqlitePool),
}

impl Account {
    async fn open(stage: &Stage, client: &Coordinator) -> Result<Self> {
        let place = match stage.has("--table") {
            false => Place::Value(client.clone()),
            true => Place::Table(stage.resource().await?),
        };
        Ok(Self { place, fenced: !stage.has("--unfenced") })
    }

    async fn found(&self, balance: i64) -> Result<()> {
        match &self.place {
            Place::Value(store) => {
                store.put(&name()?, balance.to_string().into(), Condition::Absent).await?;
            }
            Place::Table(bank) => {
                sqlx::query("CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER)")
                    .execute(bank)
                    .await?;
                let row = sqlx::query("INSERT INTO account VALUES ('account/7', $1)").bind(balance);
                row.execute(bank).await?;
            }
        }
        Ok(())
    }

    /// Raises the mark *before* it reads, so that no holder from before can write after this read.
    async fn fence_and_read(&self, token: FencingToken) -> Result<i64> {
        match &self.place {
            Place::Value(store) => {
                if self.fenced {
                    store.fence(&name()?, token).await?;
                }
                self.balance().await
            }
            Place::Table(bank) => {
                let mut transaction = self.begin(bank, token).await?;
                let query = sqlx::query_scalar("SELECT balance FROM account WHERE name = 'account/7'");
                let balance = query.fetch_one(&mut *transaction).await?;
                transaction.commit().await?;
                Ok(balance)
            }
        }
    }

    /// Writes, unless somebody with a greater token came in between.
    async fn write(&self, balance: i64, token: FencingToken) -> Result<()> {
        match &self.place {
            Place::Value(store) if self.fenced => {
                store.fenced_write(&name()?, balance.to_string().into(), token).await?;
            }
            Place::Value(store) => {
                store.put(&name()?, balance.to_string().into(), Condition::Any).await?;
            }
            Place::Table(bank) => {
                let mut transaction = self.begin(bank, token).await?;
                let update = "UPDATE account SET balance = $1 WHERE name = 'account/7'";
                sqlx::query(update).bind(balance).execute(&mut *transaction).await?;
                transaction.commit().await?;
            }
        }
        Ok(())
    }

    /// A transaction of the bank. A stale token ends it here, before it reads or writes anything.
    async fn begin(&self, bank: &SqlitePool, token: FencingToken) -> Result<Transaction<'static, Sqlite>> {
        let mut transaction = bank.begin_with("BEGIN IMMEDIATE").await?;
        if self.fenced {
            coord_sql::fence(&mut transaction, "account/7", token).await?;
        }
        Ok(transaction)
    }

    async fn balance(&self) -> Result<i64> {
        match &self.place {
            Place::Value(store) => {
                let value = store.fenced_read(&name()?).await?.value.ok_or("the account is missing")?;
                Ok(String::from_utf8(value)?.parse()?)
            }
            Place::Table(bank) => {
                let query = sqlx::query_scalar("SELECT balance FROM account WHERE name = 'account/7'");
                Ok(query.fetch_one(bank).await?)
            }
        }
    }
}
