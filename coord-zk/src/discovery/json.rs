//! An instance as Curator's `JsonInstanceSerializer` writes and reads it.
//!
//! ```text
//! ours                        Curator's
//! address "10.0.0.7:8080"     address "10.0.0.7" and port 8080; an address that is no host and port stands alone
//! metadata "sslPort"          sslPort, if it is a port
//! metadata "payload" alone    payload, a text
//! metadata                    payload, an object of texts; null if there is none
//! weight 0                    enabled false; otherwise nothing is said, as older readers do not know it
//! ```
//!
//! An object without `@class` is a `Map` in Java; metadata `@class` names another class. What others wrote is read leniently: what
//! is missing or of another type is left out, unknown fields are ignored, and what of a payload is no text is shown as JSON.

use std::collections::BTreeMap;

use coord_core::Instance;
use serde::Serialize;
use serde_json::{Map, Value};

const PAYLOAD: &str = "payload";
const SSL_PORT: &str = "sslPort";

/// The fields that Curator writes, in its order.
#[derive(Serialize)]
struct ServiceInstance<'a> {
    name: &'a str,
    id: &'a str,
    address: &'a str,
    port: Option<u16>,
    #[serde(rename = "sslPort")]
    ssl_port: Option<u16>,
    payload: Value,
    #[serde(rename = "registrationTimeUTC")]
    registered: u64,
    #[serde(rename = "serviceType")]
    service_type: &'a str,
    #[serde(rename = "uriSpec")]
    uri_spec: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
}

/// Writes an instance of a service, registered so many milliseconds after 1970.
pub(super) fn write(service: &str, instance: &Instance, registered: u64) -> Vec<u8> {
    let (address, port) = split(&instance.address);
    let mut metadata = instance.metadata.clone();
    let ssl_port = metadata.get(SSL_PORT).and_then(|text| number(text));
    if ssl_port.is_some() {
        metadata.remove(SSL_PORT);
    }
    let written = ServiceInstance {
        name: service,
        id: &instance.id,
        address,
        port,
        ssl_port,
        payload: payload(metadata),
        registered,
        service_type: "DYNAMIC",
        uri_spec: Value::Null,
        enabled: (instance.weight == 0).then_some(false),
    };
    // Texts and numbers can always be written.
    serde_json::to_vec(&written).unwrap_or_default()
}

fn payload(mut metadata: BTreeMap<String, String>) -> Value {
    if metadata.is_empty() {
        return Value::Null;
    }
    if metadata.len() == 1
        && let Some(text) = metadata.remove(PAYLOAD)
    {
        return Value::String(text);
    }
    Value::Object(metadata.into_iter().map(|(key, text)| (key, Value::String(text))).collect())
}

/// Reads the instance at a node of this name. `None` for what is none.
pub(super) fn read(id: &str, data: &[u8]) -> Option<Instance> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(data) else { return None };
    // Some field must show what it is; of others' versions any one may be missing.
    if !["id", "address"].iter().any(|key| fields.get(*key).is_some_and(Value::is_string)) {
        return None;
    }
    let port = |key| fields.get(key).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    let address = fields.get("address").and_then(Value::as_str).unwrap_or_default();
    let mut instance = Instance::new(id, join(address, port("port")));
    match fields.get(PAYLOAD) {
        None | Some(Value::Null) => {}
        Some(Value::Object(payload)) => instance.metadata = texts(payload),
        Some(other) => {
            instance.metadata.insert(PAYLOAD.to_owned(), text(other));
        }
    }
    if let Some(port) = port(SSL_PORT) {
        instance.metadata.entry(SSL_PORT.to_owned()).or_insert_with(|| port.to_string());
    }
    if fields.get("enabled") == Some(&Value::Bool(false)) {
        instance.weight = 0;
    }
    Some(instance)
}

fn texts(payload: &Map<String, Value>) -> BTreeMap<String, String> {
    payload.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A port as it is usually written, so that it comes back as it was.
fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port: &u16| port.to_string() == text)
}

/// The host and the port of an address; of another one the whole. IPv6 addresses have no brackets in Curator.
fn split(address: &str) -> (&str, Option<u16>) {
    let whole = (address, None);
    let Some((host, port)) = address.rsplit_once(':') else { return whole };
    let Some(port) = number(port) else { return whole };
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) if inner.contains(':') && !inner.contains(['/', '[', ']']) => (inner, Some(port)),
        None if !host.is_empty() && !host.contains([':', '/']) => (host, Some(port)),
        _ => whole,
    }
}

fn join(address: &str, port: Option<u16>) -> String {
    match port {
        None => address.to_owned(),
        Some(port) if address.contains(':') && !address.contains(['/', '[']) => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(instance: &Instance) -> Instance {
        read(&instance.id, &write("shop", instance, 5)).unwrap()
    }

    #[test]
    fn what_is_written_is_what_curator_writes() {
        let instance = Instance::new("a-1", "10.0.0.7:8080");
        // As Curator 5.4 writes it, but for the time.
        let theirs = r#"{"name":"shop","id":"a-1","address":"10.0.0.7","port":8080,"sslPort":null,"payload":null,"registrationTimeUTC":5,"serviceType":"DYNAMIC","uriSpec":null}"#;
        assert_eq!(String::from_utf8(write("shop", &instance, 5)).unwrap(), theirs);
        let instance = instance.with_metadata("sslPort", "8443").with_metadata("zone", "b").with_weight(0);
        let written: Value = serde_json::from_slice(&write("shop", &instance, 5)).unwrap();
        assert_eq!(written["sslPort"], 8443);
        assert_eq!(written["payload"], serde_json::json!({ "zone": "b" }));
        assert_eq!(written["enabled"], false);
        let instance = Instance::new("a", "h").with_metadata("payload", "a text");
        let written: Value = serde_json::from_slice(&write("shop", &instance, 5)).unwrap();
        assert_eq!(written["payload"], "a text");
        assert_eq!(written["port"], Value::Null);
    }

    #[test]
    fn addresses_come_back_as_they_were() {
        for (address, host, port) in [
            ("10.0.0.7:8080", "10.0.0.7", Some(8080)),
            ("shop.example:0", "shop.example", Some(0)),
            ("[2001:db8::1]:80", "2001:db8::1", Some(80)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]", "[2001:db8::1]", None),
            ("shop.example", "shop.example", None),
            ("h:080", "h:080", None),
            ("h:65536", "h:65536", None),
            ("h:+8", "h:+8", None),
            ("h:", "h:", None),
            (":80", ":80", None),
            ("[h]:80", "[h]:80", None),
            ("[[::1]]:80", "[[::1]]:80", None),
            ("http://h:80", "http://h:80", None),
            ("http://h:80/a", "http://h:80/a", None),
            ("[http://h:1]:80", "[http://h:1]:80", None),
            ("/run/shop.socket", "/run/shop.socket", None),
            ("a:1:2", "a:1:2", None),
            ("", "", None),
        ] {
            assert_eq!(split(address), (host, port), "{address}");
            assert_eq!(back(&Instance::new("a", address)).address, address);
        }
    }

    #[test]
    fn metadata_comes_back_as_it_was() {
        let sets: [&[(&str, &str)]; 8] = [
            &[],
            &[("zone", "b")],
            &[("payload", "a text")],
            &[("payload", "a text"), ("zone", "b")],
            &[("sslPort", "443")],
            &[("sslPort", "443"), ("payload", "")],
            &[("sslPort", "none"), ("payload", "1")],
            &[("@class", "com.example.Details"), ("zone", "{\"a\": 1}\n\u{e9}🦀")],
        ];
        for set in sets {
            let instance = set.iter().fold(Instance::new("a b", "h:1"), |instance, (key, text)| {
                instance.with_metadata(*key, *text)
            });
            assert_eq!(back(&instance), instance);
        }
        let switched_off = Instance::new("a", "h:1").with_weight(0);
        assert_eq!(back(&switched_off), switched_off);
        // Curator has no weights.
        assert_eq!(back(&Instance::new("a", "h:1").with_weight(7)).weight, 1);
    }

    #[test]
    fn what_other_versions_write_is_read() {
        let read = |text: &str| read("node", text.as_bytes());
        let metadata = |text: &str| read(text).unwrap().metadata.into_iter().collect::<Vec<_>>();
        let pairs = |pairs: &[(&str, &str)]| -> Vec<_> {
            pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
        };
        // Fields that nobody knows, and fields that are missing, or null, or of another type.
        let newer = r#"{"name":"s","id":"x","address":"h","port":1,"enabled":true,"later":{"a":[1]},"uriSpec":{"parts":[]}}"#;
        assert_eq!(read(newer), Some(Instance::new("node", "h:1")));
        assert_eq!(read(r#"{"id":"x"}"#), Some(Instance::new("node", "")));
        assert_eq!(read(r#"{"address":"h"}"#), Some(Instance::new("node", "h")));
        assert_eq!(read(r#"{"id":"x","address":null,"port":null}"#), Some(Instance::new("node", "")));
        assert_eq!(read(r#"{"id":"x","address":"h","port":"1"}"#), Some(Instance::new("node", "h")));
        assert_eq!(read(r#"{"id":"x","address":"h","port":70000}"#), Some(Instance::new("node", "h")));
        assert_eq!(read(r#"{"id":"x","address":"::1","port":8}"#), Some(Instance::new("node", "[::1]:8")));
        assert_eq!(read(r#"{"id":"x","address":"h","enabled":false}"#).unwrap().weight, 0);
        assert_eq!(metadata(r#"{"id":"x","address":"h","sslPort":443}"#), pairs(&[("sslPort", "443")]));
        // Payloads of any class.
        let spring = r#"{"id":"x","payload":{"@class":"org.example.Z","id":"z","metadata":{"a":"b"},"n":1.5,"on":true,"off":null}}"#;
        let expected = [
            ("@class", "org.example.Z"),
            ("id", "z"),
            ("metadata", r#"{"a":"b"}"#),
            ("n", "1.5"),
            ("off", "null"),
            ("on", "true"),
        ];
        assert_eq!(metadata(spring), pairs(&expected));
        assert_eq!(metadata(r#"{"id":"x","payload":"a text"}"#), pairs(&[("payload", "a text")]));
        assert_eq!(
            metadata(r#"{"id":"x","payload":["java.util.Date",7]}"#),
            pairs(&[("payload", r#"["java.util.Date",7]"#)])
        );
        assert_eq!(
            metadata(r#"{"id":"x","sslPort":1,"payload":{"sslPort":"own"}}"#),
            pairs(&[("sslPort", "own")])
        );
        // What is no instance.
        for other in [
            "",
            "10.0.0.1",
            "null",
            "{}",
            "[]",
            r#""id""#,
            r#"{"id":7}"#,
            r#"{"later":1}"#,
            "{\"id\":\"x\"",
            "\u{0}",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
