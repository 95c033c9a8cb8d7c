//! Where ZooKeeper and the Java that runs it are.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::super::{Unavailable, program};

/// Debian's archive of classes, which names all others that it needs.
const DEBIAN: &str = "/usr/share/java/zookeeper.jar";
/// But for this one, which connections by Netty need, and so TLS.
const CODEC: &str = "/usr/share/java/netty-codec.jar";
/// A folder as Apache's archives make it.
const HOME: &str = "ZOOKEEPER_HOME";

/// How to run a server.
#[derive(Debug)]
pub(super) struct Java {
    program: PathBuf,
    classes: OsString,
}

/// Looks in `ZOOKEEPER_HOME`, where `zkServer.sh` on `PATH` lies, and where Debian puts it.
pub(super) fn find() -> Result<Java, Unavailable> {
    let program = program::find("java", &java_home(), "default-jre-headless")?;
    let home =
        std::env::var_os(HOME).filter(|home| !home.is_empty()).map(PathBuf::from).or_else(beside_script);
    if let Some(home) = home {
        if home.join("lib").is_dir() {
            return Ok(Java { program, classes: home.join("lib").join("*").into() });
        }
        if std::env::var_os(HOME).is_some() {
            return Err(Unavailable::new(format!("{HOME} names no folder of a ZooKeeper: it has no lib")));
        }
    }
    if Path::new(DEBIAN).exists() {
        return Ok(Java { program, classes: format!("{DEBIAN}:{CODEC}").into() });
    }
    Err(Unavailable::new(format!(
        "ZooKeeper is not there; install it (Debian: apt-get install zookeeper; scripts/test does) or set {HOME}"
    )))
}

fn java_home() -> Vec<PathBuf> {
    std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin")).into_iter().collect()
}

fn beside_script() -> Option<PathBuf> {
    let script = program::find("zkServer.sh", &[], "zookeeper").ok()?;
    Some(script.canonicalize().ok()?.parent()?.parent()?.to_owned())
}

impl Java {
    /// The command that runs a server with the `zoo.cfg` of its working directory.
    pub(super) fn command(&self, properties: &[(String, String)]) -> Vec<OsString> {
        let mut command: Vec<OsString> = vec![self.program.clone().into()];
        // A small machine that is ready soon. It keeps the last 500 changes in memory, which are large ones in some tests: with a
        // quarter of this it collected garbage for seconds.
        for flag in ["-Xmx512m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"] {
            command.push(flag.into());
        }
        for (name, value) in properties {
            command.push(format!("-D{name}={value}").into());
        }
        command.extend(["-cp".into(), self.classes.clone()]);
        command.extend(["org.apache.zookeeper.server.quorum.QuorumPeerMain", "zoo.cfg"].map(OsString::from));
        command
    }
}
