//! `coord doctor` on servers that are set up well and badly.

use coord_conformance::servers::{Redis, RedisOptions, Unavailable};
use serde_json::Value;

use crate::support::Store;

fn settings(seen: &Value) -> Vec<&str> {
    let weaknesses = seen["weaknesses"].as_array().unwrap();
    weaknesses.iter().map(|weakness| weakness["setting"].as_str().unwrap()).collect()
}

fn examine(url: &str) -> (Value, String) {
    let store = Store::at(url);
    let seen = store.json(&["doctor", "--json"]).remove(0);
    let text = store.run(&["doctor"]);
    assert_eq!((text.status, text.stderr.as_str()), (0, ""), "{text:?}");
    (seen, text.stdout)
}

pub(crate) fn names_what_weakens() -> Result<(), Unavailable> {
    let server = Redis::start(&RedisOptions::default().with_own())?;
    let url = server.url();
    let (seen, text) = examine(&url);
    let keys: Vec<_> = seen.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["backend", "facts", "guarantees", "namespace", "store", "weaknesses"]);
    assert_eq!((&seen["backend"], &seen["facts"]["role"]), (&"redis".into(), &"master".into()));
    assert_eq!(seen["guarantees"]["scope"], "network");
    assert_eq!(seen["guarantees"]["durability"], "process");
    assert_eq!(settings(&seen), ["appendonly", "appendfsync"]);
    assert_eq!(seen["weaknesses"][0]["found"], "no");
    assert!(seen["weaknesses"][0]["remedy"].as_str().unwrap().contains("CONFIG SET appendonly yes"));
    let version = seen["facts"]["version"].as_str().unwrap();
    let port = server.port().to_string();
    for part in
        [version, &port, "master", "promised durability", "appendonly is no", "CONFIG SET appendonly yes"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }

    let options = RedisOptions::default()
        .with_append_only()
        .with_setting("maxmemory", "64mb")
        .with_setting("maxmemory-policy", "allkeys-lru");
    let server = Redis::start(&options)?;
    let (seen, text) = examine(&server.url());
    assert_eq!(settings(&seen), ["maxmemory-policy"]);
    assert!(text.contains("maxmemory-policy is allkeys-lru"), "{text}");
    // What doctor shows is what strict refuses.
    let store = Store::at(format!("{}?strict=true", server.url()));
    let refused = store.run(&["doctor"]);
    assert_eq!((refused.status, refused.stdout.as_str()), (69, ""), "{refused:?}");
    assert!(refused.stderr.contains("maxmemory-policy is allkeys-lru"), "{refused:?}");
    // The advice helps.
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).unwrap();
    assert_eq!(settings(&store.json(&["doctor", "--json"])[0]), [""; 0]);
    Ok(())
}

pub(crate) fn finds_nothing_on_a_strict_server() -> Result<(), Unavailable> {
    let server = Redis::start(&RedisOptions::default().with_append_only())?;
    let (seen, text) = examine(&format!("{}?strict=true", server.url()));
    assert_eq!(settings(&seen), [""; 0]);
    assert_eq!(seen["guarantees"]["durability"], "power");
    assert!(text.contains("nothing weakens what is promised"), "{text}");
    Ok(())
}

/// A user with the rights that the errors advise may not read the configuration.
pub(crate) fn says_what_it_may_not_ask() -> Result<(), Unavailable> {
    let rules = "on >hunter2 ~coord:* &coord:* +@all -@admin -@dangerous +info";
    let server = Redis::start(&RedisOptions::default().with_append_only().with_user("app", rules))?;
    let (seen, text) = examine(&server.url_as("app", "hunter2"));
    assert_eq!(settings(&seen), ["appendfsync"]);
    assert_eq!(
        (&seen["weaknesses"][0]["found"], &seen["facts"]["appendfsync"]),
        (&Value::Null, &Value::Null)
    );
    assert!(seen["weaknesses"][0]["remedy"].as_str().unwrap().contains("+config|get"), "{seen}");
    assert!(text.contains("appendfsync is unknown"), "{text}");
    assert!(!format!("{seen}{text}").contains("hunter2"), "{text}");
    // The advice helps.
    server.command(&["ACL", "SETUSER", "app", "+config|get"]).unwrap();
    assert_eq!(settings(&examine(&server.url_as("app", "hunter2")).0), [""; 0]);
    Ok(())
}

pub(crate) fn fails_if_the_store_cannot_be_used() -> Result<(), Unavailable> {
    let options = RedisOptions::default()
        .with_user("half", "on >hunter2 ~coord:* &coord:* +@pubsub +info +@connection +role");
    let server = Redis::start(&options)?;
    let outcome = Store::at(server.url_as("half", "hunter2")).run(&["doctor"]);
    assert_eq!(
        (outcome.status, outcome.stdout.as_str()),
        (69, ""),
        "may connect, and do nothing: {outcome:?}"
    );
    server.stop().unwrap();
    let outcome = Store::at(format!("{}?timeout=0.3", server.url())).run(&["doctor"]);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (69, ""), "{outcome:?}");
    Ok(())
}
