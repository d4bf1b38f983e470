//! The command line: which command was meant, and how the process ends.

pub mod demo;
pub mod demonstrate;
pub mod doctor;
pub mod exposition;
pub mod interface;
pub mod keys;
pub mod launch;
pub mod log;
pub mod run;
pub mod show;
pub mod signals;

use std::io;

use clap::{Parser, Subcommand};

use crate::control::config::{ConfigError, LogFormat};
use crate::control::stopping::StopError;
use crate::control::supervisor::StartError;
use demo::{DemoArgs, DemoError, Ending};
use doctor::DoctorArgs;
use keys::KeysError;
use launch::LaunchError;
use run::RunArgs;
use show::{ShowArgs, ShowError};
use signals::EXIT_STUCK;

/// Userspace packet router: multiqueue TUN inside, WireGuard outside
#[derive(Clone, Debug, Parser)]
#[command(name = "laneway", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Cli {
    /// Stay in the foreground, as `WG_PROCESS_FOREGROUND=1` does
    #[arg(short, long)]
    foreground: bool,

    /// Create this interface and leave it to wg and ip, as wireguard-go does
    #[arg(value_name = "IFNAME")]
    interface: Option<String>,

    #[command(subcommand)]
    command: Option<Command>,
}

/// The commands with a name.
#[derive(Clone, Debug, Subcommand)]
enum Command {
    Run(RunArgs),
    Demo(DemoArgs),
    Doctor(DoctorArgs),
    Show(ShowArgs),
    /// Print a new private key
    Genkey,
    /// Print a new preshared key
    Genpsk,
    /// Read a private key from standard input and print its public key
    Pubkey,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is a mistake in file, environment or arguments. Nothing was created.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The interface's name is missing.
    #[error("the interface's name is missing: laneway [-f] IFNAME")]
    NoInterface,
    /// There is no way to the background.
    #[error("cannot go to the background: {0}; -f stays in the foreground")]
    Background(#[source] io::Error),
    /// Signals cannot be taken.
    #[error("cannot take signals: {0}")]
    Signals(#[source] io::Error),
    /// The router did not start, or failed.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The demo failed.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// There is nothing to show.
    #[error(transparent)]
    Show(#[from] ShowError),
    /// There is no key.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

impl Failure {
    /// The process's exit status: 2 for a mistake in configuration, before anything was created, 3 for a
    /// router that was told to stop and of which a part did not, and 1 for everything else.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Config(_)
            | Failure::NoInterface
            | Failure::Show(ShowError::Config(_))
            | Failure::Launch(LaunchError::Start(StartError::Pinning(_))) => 2,
            Failure::Launch(LaunchError::Stop(StopError::Stuck(_))) => EXIT_STUCK,
            Failure::Background(_)
            | Failure::Signals(_)
            | Failure::Launch(_)
            | Failure::Demo(_)
            | Failure::Show(_)
            | Failure::Keys(_) => 1,
        }
    }
}

impl Cli {
    /// Does what was asked for, to the end. The exit status is 0, or that of a demo that was interrupted.
    ///
    /// # Errors
    /// Why it could not be done.
    pub fn execute(self) -> Result<u8, Failure> {
        match (self.command, self.interface) {
            (Some(Command::Run(args)), _) => run::run(&args)?,
            (Some(Command::Doctor(args)), _) => return Ok(doctor::run(&args)),
            (Some(Command::Demo(args)), _) => {
                log::init("warn", LogFormat::Text);
                if demonstrate::run(&args)? == Ending::Interrupted {
                    return Ok(demo::interrupt::EXIT_STATUS);
                }
            }
            (Some(Command::Show(args)), _) => show::run(&args)?,
            (Some(Command::Genkey), _) => keys::genkey()?,
            (Some(Command::Genpsk), _) => keys::genpsk()?,
            (Some(Command::Pubkey), _) => keys::pubkey()?,
            (None, Some(interface)) => return interface::run(&interface, self.foreground),
            (None, None) => return Err(Failure::NoInterface),
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_interface_is_named_as_for_wireguard_go() {
        for line in ["laneway -f wg0", "laneway --foreground wg0", "laneway wg0 -f"] {
            let cli = parse(line).unwrap();
            assert_eq!((cli.foreground, cli.interface.as_deref()), (true, Some("wg0")), "{line}");
        }
        assert!(!parse("laneway wg0").unwrap().foreground);
    }

    #[test]
    fn commands_are_told_from_interfaces() {
        assert!(matches!(parse("laneway run --config x").unwrap().command, Some(Command::Run(_))));
        assert!(matches!(parse("laneway demo --streams 2").unwrap().command, Some(Command::Demo(_))));
        assert!(parse("laneway wg0 wg1").is_err());
        assert!(parse("laneway run wg0").is_err());
    }

    #[test]
    fn the_version_is_printed_as_name_and_number() {
        let answer = parse("laneway --version").unwrap_err();
        assert_eq!(answer.kind(), ErrorKind::DisplayVersion);
        assert_eq!(answer.to_string(), "laneway 0.1.0\n");
    }
}
