//! The tests of what measures: one program, so that they run side by side.

mod contender;
mod report;

use std::process::ExitCode;

use coord_conformance::servers;

fn main() -> ExitCode {
    servers::tests(&[contender::ALL, report::ALL].concat())
}
