//! Names: everything that is allowed works, nothing collides, and the rest is refused.

use coord_core::{
    Barrier, Election, ErrorKind, Inspect, Instance, Lock, Name, Namespace, Registry, Semaphore, spi::Kind,
};

use super::cases;
use crate::{Client, Ctx, Failure, Verdict, ensure};

cases! { "names":
    odd_names_work_everywhere,
    no_two_names_collide,
    no_two_namespaces_or_kinds_collide,
    bad_names_are_refused,
}

/// Names that one backend or another could trip over: separators, parents, wildcards, quoting, case, Unicode forms
/// that look the same, the limit.
fn odd_names() -> Vec<String> {
    let odd = [
        "a",
        "b",
        "A",
        "a/b",
        "a/b/",
        "/a/b",
        "a//b",
        "/",
        "//",
        ".",
        "..",
        "../a",
        "a/..",
        "a/../b",
        "a.b",
        " ",
        " a",
        "a ",
        "a b",
        "%",
        "a%2Fb",
        "%2F",
        "a%b",
        "_",
        "*",
        "?",
        "[a]",
        "{a}",
        "{a}b",
        "a:b",
        "a:",
        ":",
        "'",
        "\"",
        "\\",
        "\\\\",
        "' OR 1=1 --",
        "; DROP TABLE coord_claims",
        "$1",
        "?1",
        "`",
        "#",
        "\u{e9}",
        "e\u{301}",
        "\u{212b}",
        "\u{c5}",
        "ß",
        "SS",
        "ı",
        "i",
        "🦀",
        "🏳️‍🌈",
        "\u{200b}",
        "a\u{200b}",
        "\u{feff}a",
        "\u{202e}a",
        "名前",
        "ﬁ",
        "fi",
        "lock",
        "lock/a",
        "default",
        "default/lock/a",
        "-",
        "--help",
        "0",
        "00",
        "1",
        "1.0",
        "null",
        "NULL",
        "true",
    ];
    let mut names: Vec<String> = odd.map(str::to_owned).into();
    names.extend([255, 254].map(|length| "x".repeat(length)));
    // At the limit in bytes, far below it in characters; and different only in the last byte.
    names.extend(["🦀".repeat(63) + "abc", "🦀".repeat(63) + "abd", "🦀".repeat(63)]);
    names
}

/// Every recipe takes them.
async fn odd_names_work_everywhere(ctx: Ctx) -> Verdict {
    let client = ctx.client().await?;
    for text in odd_names() {
        let name = Name::new(&text)?;
        ensure!(name.as_str() == text, "{text:?} became {name:?}");
        every_recipe(&ctx, &client, &name).await.map_err(|failure| Failure {
            message: format!("with the name {text:?}: {}", failure.message),
            ..failure
        })?;
    }
    Ok(())
}

async fn every_recipe(ctx: &Ctx, client: &Client, name: &Name) -> Verdict {
    let guard = client.try_acquire(name, &ctx.lock_options()).await?;
    ensure!(guard.name() == *name, "the guard has the name {:?}", guard.name());
    let line = client.inspect(Kind::Lock, name).await?;
    ensure!(line.holders.len() == 1 && line.holders[0].token == guard.token(), "the line is {line:?}");
    guard.release().await?;
    if ctx.guarantees().features.shared {
        client.try_acquire_permits(name, 1, 2, &ctx.lock_options()).await?.release().await?;
    }
    client.campaign(name, &ctx.campaign_options()).await?.resign().await?;
    let registration =
        client.register(name, Instance::new(name.as_str(), "x"), &ctx.register_options()).await?;
    ensure!(client.instances(name).await?.len() == 1, "the instance is not listed");
    registration.deregister().await?;
    client.wait(name, 1, &ctx.barrier_options()).await?;
    Ok(())
}

/// All of them are held at once, and each is seen with its own value only.
async fn no_two_names_collide(ctx: Ctx) -> Verdict {
    let ([one, two], mut guards) = (ctx.clients().await?, Vec::new());
    for text in odd_names() {
        let options = ctx.lock_options().with_value(text.as_bytes());
        let guard = one.try_acquire(&Name::new(&text)?, &options).await;
        guards.push(
            guard.map_err(|error| Failure::new(format!("{text:?} collides with another name: {error}")))?,
        );
    }
    for guard in guards {
        let line = two.inspect(Kind::Lock, &guard.name()).await?;
        ensure!(
            line.holders.len() == 1 && line.holders[0].value == guard.name().as_str().as_bytes(),
            "{:?} is shown as {line:?}",
            guard.name()
        );
        guard.release().await?;
        let line = two.inspect(Kind::Lock, &Name::new("a/b")?).await?;
        ensure!(line.holders.len() <= 1, "{line:?}");
    }
    Ok(())
}

/// Names whose parts are cut at different places, in several namespaces and kinds, are all held at once.
async fn no_two_namespaces_or_kinds_collide(ctx: Ctx) -> Verdict {
    let (client, onlooker) = (ctx.client().await?, ctx.client().await?);
    let namespaces = ["default", "x", "X", "x y", "a", "a:lock", "..", "lock", "%2F", "é", "e\u{301}"];
    let names = ["a", "a/b", "b", "lock/a", "x/lock/a", ":a", "lock:a", "/a", "registry"];
    let (mut locks, mut offices, mut members) = (Vec::new(), Vec::new(), Vec::new());
    for namespace in namespaces {
        let client = client.with_namespace(Namespace::new(namespace)?);
        for name in names {
            let (name, value) = (Name::new(name)?, format!("{namespace}\0{name}"));
            let collides = |error| Failure::new(format!("{value:?} collides with another one: {error}"));
            let lock = ctx.lock_options().with_value(value.as_bytes());
            locks.push((namespace, client.try_acquire(&name, &lock).await.map_err(collides)?));
            let campaign =
                ctx.campaign_options().with_value(value.as_bytes()).with_wait(std::time::Duration::ZERO);
            offices.push(client.campaign(&name, &campaign).await.map_err(collides)?);
            let instance = Instance::new("one", value.clone());
            members.push(client.register(&name, instance, &ctx.register_options()).await.map_err(collides)?);
        }
    }
    for namespace in namespaces {
        let onlooker = onlooker.with_namespace(Namespace::new(namespace)?);
        for name in names {
            let (name, value) = (Name::new(name)?, format!("{namespace}\0{name}"));
            for kind in [Kind::Lock, Kind::Election] {
                let line = onlooker.inspect(kind, &name).await?;
                let alone = line.holders.len() == 1 && line.holders[0].value == value.as_bytes();
                ensure!(alone, "{kind} {value:?} is shown as {line:?}");
            }
            let listed = onlooker.instances(&name).await?;
            ensure!(listed.len() == 1 && listed[0].instance.address == value, "{value:?}: {listed:?}");
            for kind in [Kind::Semaphore, Kind::Barrier] {
                let line = onlooker.inspect(kind, &name).await?;
                ensure!(line.holders.is_empty(), "nobody uses the {kind} {value:?}, and it has {line:?}");
            }
        }
    }
    for (namespace, guard) in locks {
        let name = guard.name();
        guard.release().await?;
        let line = onlooker.with_namespace(Namespace::new(namespace)?).inspect(Kind::Election, &name).await?;
        ensure!(
            line.holders.len() == 1,
            "the release of a lock ended a leadership of {namespace:?} {name:?}"
        );
    }
    Ok(())
}

/// Empty, with control characters, too long: refused as a name and as a namespace, and a `/` as a namespace.
async fn bad_names_are_refused(_: Ctx) -> Verdict {
    let long = ["x".repeat(256), "🦀".repeat(64), "x".repeat(10_000_000)];
    let short = ["", "\0", "a\0", "a\nb", "\t", "\u{7f}", "\u{85}", "\u{1b}[31m"].map(str::to_owned);
    for bad in short.iter().chain(&long) {
        let shown = bad.chars().take(10).collect::<String>();
        let (name, namespace) = (Name::new(bad), Namespace::new(bad));
        ensure!(
            name.is_err_and(|error| error.kind() == ErrorKind::InvalidName),
            "the name {shown:?} is taken"
        );
        ensure!(
            namespace.is_err_and(|error| error.kind() == ErrorKind::InvalidName),
            "the namespace {shown:?} is taken"
        );
    }
    ensure!(Namespace::new("a/b").is_err(), "the namespace \"a/b\" is taken");
    Ok(())
}
