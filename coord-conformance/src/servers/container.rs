//! Servers in containers.

use std::{
    future::Future,
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
};

use testcontainers::{
    ContainerAsync, GenericImage, ImageExt, TestcontainersError,
    core::{CmdWaitFor, ExecCommand, IntoContainerPort},
    runners::AsyncRunner,
};
use tokio::runtime::Runtime;

use super::{Unavailable, network::Port, poll};

/// Removes a container that this process did not live to remove.
const REAP: &str = r#"read -r word; [ "$word" = removed ] || docker rm --force --volumes "$1""#;

/// What to run.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) kind: &'static str,
    /// The environment variable that overrides the image.
    pub(super) variable: &'static str,
    /// The image, as `name:tag`.
    pub(super) image: &'static str,
    /// The port on which the server listens in the container.
    pub(super) port: u16,
    pub(super) environment: Vec<(&'static str, String)>,
    /// Files in the container: a path and a text.
    pub(super) files: Vec<(&'static str, String)>,
    pub(super) command: Vec<String>,
}

/// A running container. It is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Container {
    container: Option<Arc<ContainerAsync<GenericImage>>>,
    port: Port,
    reaper: Reaper,
}

impl Container {
    /// Starts it. The server in it may still be starting, or may have ended.
    pub(super) fn start(plan: Plan) -> Result<Self, Unavailable> {
        let image = std::env::var(plan.variable).unwrap_or_else(|_| plan.image.to_owned());
        let told = |error: &dyn std::fmt::Display| {
            Unavailable::new(format!(
                "no container of {image}, which {} can override: {error}",
                plan.variable
            ))
        };
        let port = Port::reserve().map_err(|error| told(&error))?;
        // A colon before a slash belongs to the registry's port.
        let (name, tag) = match image.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (image.as_str(), "latest"),
        };
        let own = format!("coord-{}-{:010x}", plan.kind, fastrand::u64(0..1 << 40));
        let reaper = Reaper::start(&own).map_err(|error| told(&error))?;
        let mut request = GenericImage::new(name, tag)
            .with_container_name(own)
            .with_mapped_port(port.number(), plan.port.tcp())
            .with_cmd(plan.command.clone());
        for (name, value) in &plan.environment {
            request = request.with_env_var(*name, value);
        }
        for (path, text) in &plan.files {
            request = request.with_copy_to(*path, text.clone().into_bytes());
        }
        let container =
            wait(|| request.start()).map_err(|error| told(&error))?.map_err(|error| told(&error))?;
        Ok(Self { container: Some(Arc::new(container)), port, reaper })
    }

    /// The port of 127.0.0.1 that leads to it.
    pub(super) fn port(&self) -> u16 {
        self.port.number()
    }

    pub(super) fn until_ready(&self, mut ready: impl FnMut() -> bool) -> io::Result<()> {
        poll(|| {
            if ready() {
                return Ok(Some(()));
            }
            if self.with(|container| async move { container.is_running().await })? {
                return Ok(None);
            }
            let log = self.with(|container| async move {
                let [output, errors] = [container.stdout_to_vec().await?, container.stderr_to_vec().await?];
                Ok([output, errors].concat())
            })?;
            Err(io::Error::other(format!("it ended: {}", String::from_utf8_lossy(&log).trim())))
        })
    }

    pub(super) fn stop(&self) -> io::Result<()> {
        self.with(|container| async move { container.pause().await })
    }

    pub(super) fn resume(&self) -> io::Result<()> {
        self.with(|container| async move { container.unpause().await })
    }

    /// Ends it at once.
    pub(super) fn kill(&self) -> io::Result<()> {
        // It may be stopped, and then has to go on.
        let _ = self.resume();
        self.with(|container| async move { container.stop_with_timeout(Some(0)).await })
    }

    pub(super) fn restart(&self) -> io::Result<()> {
        self.kill()?;
        self.with(|container| async move { container.start().await })
    }

    /// Runs a program in it; its output.
    pub(super) fn run(&self, command: Vec<String>) -> io::Result<String> {
        let (code, output, errors) = self.with(|container| async move {
            let command = ExecCommand::new(command).with_cmd_ready_condition(CmdWaitFor::exit());
            let mut result = container.exec(command).await?;
            let [output, errors] = [result.stdout_to_vec().await?, result.stderr_to_vec().await?];
            Ok((result.exit_code().await?, output, errors))
        })?;
        match code {
            Some(0) => Ok(String::from_utf8_lossy(&output).trim_end().to_owned()),
            _ => Err(io::Error::other(String::from_utf8_lossy(&errors).trim().to_owned())),
        }
    }

    fn with<T, F>(&self, work: impl FnOnce(Arc<ContainerAsync<GenericImage>>) -> F + Send) -> io::Result<T>
    where
        T: Send,
        F: Future<Output = Result<T, TestcontainersError>>,
    {
        let container = self.container.clone().ok_or(io::ErrorKind::NotFound)?;
        wait(|| work(container))?.map_err(io::Error::other)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let removed = match self.container.take().and_then(Arc::into_inner) {
            Some(container) => wait(|| container.rm()).is_ok_and(|result| result.is_ok()),
            None => false,
        };
        self.reaper.end(removed);
    }
}

/// Does the work on a runtime of the suite's own, on which the Docker client stays alive, and in a thread of its own: the
/// caller may be within another runtime, where `block_on` is not allowed.
fn wait<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> io::Result<T> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().ok();
    let runtime = RUNTIME.get_or_init(build).as_ref().ok_or(io::ErrorKind::OutOfMemory)?;
    let done = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(work())).join());
    done.map_err(|_| io::Error::other("the Docker client panicked"))
}

/// A shell that removes the container if this process ends before it has.
#[derive(Debug)]
struct Reaper(Child);

impl Reaper {
    fn start(container: &str) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", REAP, "reap", container]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0).spawn().map(Self)
    }

    fn end(&mut self, removed: bool) {
        if let Some(mut input) = self.0.stdin.take() {
            let _ = writeln!(input, "{}", if removed { "removed" } else { "" });
        }
        let _ = self.0.wait();
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.end(false);
    }
}
