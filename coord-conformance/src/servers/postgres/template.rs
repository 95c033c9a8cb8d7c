//! The data of a new Postgres server.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use super::{
    super::{
        Unavailable,
        folder::{self, Owner},
        process::Guard,
        program,
    },
    PASSWORD, POSTGRES,
};

/// What the server keeps of the password, for one round of its hash and not for 4,096, which take a client without optimisation a
/// tenth of a second for each connection.
const VERIFIER: &str = "SCRAM-SHA-256$1:c2FsdCBvZiBjb29yZC4uLg==$\
    rRTG4Q41mdUo1KD2KqylgCIgv7OLFbcLX2GbiGgI1ug=:D/HcAeeiGYFUjovI7GxqLtMvoG51A0QCeEk08bQDICk=";

/// A folder of data as `initdb` makes it, which takes most of a second; it is made once in a process.
#[derive(Debug)]
pub(super) struct Template {
    /// The folder of the programs.
    pub(super) programs: PathBuf,
    pub(super) owner: Option<Owner>,
    folder: PathBuf,
    _guard: Guard,
}

pub(super) fn template() -> Result<&'static Template, Unavailable> {
    static TEMPLATE: OnceLock<Result<Template, Unavailable>> = OnceLock::new();
    TEMPLATE.get_or_init(Template::new).as_ref().map_err(Clone::clone)
}

impl Template {
    fn new() -> Result<Self, Unavailable> {
        let programs = program::find("initdb", &debian(), "postgresql")?;
        // On PATH there may be a link only; the other programs lie beside its target.
        let programs = programs.canonicalize().unwrap_or(programs);
        let programs = programs.parent().map(Path::to_owned).unwrap_or_default();
        let owner = Owner::not_root(&[POSTGRES, "nobody"])?;
        Self::make(programs, owner).map_err(|error| Unavailable::broken(format!("initdb: {error}")))
    }

    fn make(programs: PathBuf, owner: Option<Owner>) -> io::Result<Self> {
        let folder = folder::create("initdb", owner)?;
        let guard = Guard::new(&folder, owner)?;
        let template = Self { programs, owner, folder, _guard: guard };
        folder::write(&template.folder.join("password"), PASSWORD, owner)?;
        let mut command = template.command("initdb", &template.folder);
        command.args(["-D", "data", "-U", POSTGRES, "--pwfile=password", "--auth=scram-sha-256"]);
        // The smallest log, because it is copied for each server; nothing here has to survive a loss of power.
        command.args(["--encoding=UTF8", "--locale=C", "--wal-segsize=1", "--no-sync"]);
        succeed(command.stdin(Stdio::null()).output()?)?;
        // Not by `--pwfile`: before version 14 it is cut off there.
        template.prepare(&template.folder, &[format!("ALTER ROLE {POSTGRES} PASSWORD '{VERIFIER}'")])?;
        Ok(template)
    }

    pub(super) fn copy(&self, folder: &Path) -> io::Result<()> {
        let mut command = Command::new("cp");
        command.arg("-R").arg(self.folder.join("data")).arg("data").current_dir(folder);
        if let Some(owner) = self.owner {
            owner.run(&mut command);
        }
        succeed(command.output()?)
    }

    /// Runs statements with no server yet.
    pub(super) fn prepare(&self, folder: &Path, statements: &[String]) -> io::Result<()> {
        if statements.is_empty() {
            return Ok(());
        }
        let mut command = self.command("postgres", folder);
        command.args(["--single", "-D", "data", POSTGRES]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut session = command.spawn()?;
        if let Some(mut input) = session.stdin.take() {
            for statement in statements {
                // A line is a statement here.
                writeln!(input, "{}", statement.replace('\n', " "))?;
            }
        }
        let output = session.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        match said.lines().find(|line| line.contains("ERROR:") || line.contains("FATAL:")) {
            Some(line) => Err(io::Error::other(line.to_owned())),
            None => succeed(output),
        }
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(folder);
        if let Some(owner) = self.owner {
            owner.run(&mut command);
        }
        command
    }
}

fn succeed(output: Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(io::Error::other(String::from_utf8_lossy(&said).trim().replace('\n', "; ")))
}

/// Where Debian puts the programs of each version, the newest first.
fn debian() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|entry| entry.path()).collect();
    let number = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    versions.sort_by_key(|path| std::cmp::Reverse(number(path)));
    versions.into_iter().map(|path| path.join("bin")).collect()
}
