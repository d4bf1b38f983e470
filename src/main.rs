//! The `laneway` command.

use std::process::ExitCode;

use clap::Parser as _;
use laneway::cli::Cli;
use laneway::sys::wipe::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    match Cli::parse().execute() {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("laneway: {failure}");
            failure.notices().iter().for_each(|notice| eprintln!("laneway: {notice}"));
            ExitCode::from(failure.status())
        }
    }
}
